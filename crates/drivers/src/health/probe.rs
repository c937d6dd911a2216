//! One probe, whatever its kind: it ends within its timeout and says what it saw.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use trundle_core::event::ProbeEvidence;
use trundle_core::revision::{Check, Probe};

use super::{Target, exec, grpc, http};
use crate::logs::printable;

/// Of an answer, as much is kept for people.
const SHOWN_CHARS: usize = 600;

pub(super) async fn once(target: &Arc<Target>, check: &Check) -> (bool, ProbeEvidence) {
    let limit = Duration::from_millis(check.timeout_ms.max(1));
    match &check.probe {
        Probe::Http(probe) => {
            let request = format!("GET {}", printable(&probe.path));
            let answer = timeout(limit, http::get(target.address, target.is_tls, probe)).await;
            let (succeeded, evidence) = answer.unwrap_or_else(|_| (false, timed_out(limit)));
            (succeeded, ProbeEvidence { request, ..evidence })
        }
        Probe::Tcp => {
            let request = format!("TCP {}", target.address);
            let error = match timeout(limit, TcpStream::connect(target.address)).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(io_text(&error)),
                Err(_) => timed_out(limit).error,
            };
            (error.is_none(), ProbeEvidence { request, error, ..ProbeEvidence::default() })
        }
        Probe::Grpc(service) => {
            let request = format!("gRPC health check {}", printable(service)).trim_end().to_owned();
            let answer = timeout(limit, grpc::check(target.address, target.is_tls, service)).await;
            let error = match answer {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(printable(&error)),
                Err(_) => timed_out(limit).error,
            };
            (error.is_none(), ProbeEvidence { request, error, ..ProbeEvidence::default() })
        }
        Probe::Exec(command) => exec::run(target, command, limit).await,
    }
}

pub(super) fn timed_out(limit: Duration) -> ProbeEvidence {
    let mut text = String::from("timed out after ");
    let ms = limit.as_millis();
    let written =
        if ms.is_multiple_of(1000) { write!(text, "{} s", ms / 1000) } else { write!(text, "{ms} ms") };
    debug_assert!(written.is_ok(), "writing to a string cannot fail");
    ProbeEvidence { error: Some(text), ..ProbeEvidence::default() }
}

/// In the words that people search for, without numbers.
pub(super) fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

/// The beginning of what came back, fit for a terminal.
pub(super) fn shown(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let head: String = text.trim().chars().take(SHOWN_CHARS).collect();
    let lines: Vec<String> = head.lines().map(printable).collect();
    (!head.is_empty()).then(|| lines.join("\n"))
}
