//! Spans of requests for OpenTelemetry, of the feature `otel`: without it nothing of this is in the binary.
//!
//! Where they go, how many, and under which name is said by the standard variables of the environment (`OTEL_…`), which a
//! daemon hands on. Traffic never waits for it: what the collector does not take in time is left out by the library.

#[cfg_attr(feature = "otel", path = "spans/sent.rs")]
#[cfg_attr(not(feature = "otel"), path = "spans/none.rs")]
mod of_requests;

pub use of_requests::{Span, Spans};

/// Any of them says that spans are wanted, and where they go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The variable that says so.
fn wanted_by() -> Option<&'static str> {
    ENDPOINTS.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
