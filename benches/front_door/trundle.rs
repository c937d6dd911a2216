//! The proxy itself, with the version header, the histograms and the counts that it always has.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use trundle_proxy::{
    App, Client, Endpoint, EndpointState, Listen, PROTOCOL, Protocol, Reply, Request, SOCKET_NAME, Table,
    TlsFiles,
};

use super::{AS_PROXY, PROXY_CORE, Subject, on_core, texts};

/// In front of one instance.
pub fn alone(dir: &Path, (plain, tls): (SocketAddr, SocketAddr), backend: SocketAddr) -> Subject {
    let app = App {
        listen: vec![Listen::Http(plain), Listen::Https(tls)],
        tls: Some(TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") }),
        endpoints: vec![endpoint(1, backend)],
        ..app()
    };
    start("Trundle", &dir.join("state"), app, plain, tls)
}

pub fn app() -> App {
    App { version_header: Some("x-app-version".into()), ..App::named("web") }
}

/// The one of a revision.
pub fn endpoint(revision: u32, backend: SocketAddr) -> Endpoint {
    Endpoint {
        id: format!("web-{revision}-1"),
        incarnation: revision.to_string(),
        version: format!("{revision}.0"),
        revision,
        address: backend,
        protocol: Protocol::Http1,
        weight: 1,
        state: EndpointState::Routed,
    }
}

pub fn start(name: &'static str, state_dir: &Path, app: App, plain: SocketAddr, tls: SocketAddr) -> Subject {
    fs::create_dir(state_dir).unwrap();
    let table = Table { protocol: PROTOCOL, epoch: 1, number: 1, apps: vec![app] };
    let me = std::env::current_exe().unwrap();
    let mut command = on_core(PROXY_CORE, &me, &texts(&[AS_PROXY, &state_dir.display().to_string()]));
    let child = command.process_group(0).stderr(Stdio::null()).spawn().unwrap();
    let subject = Subject { name, plain, tls, child };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut client = loop {
            match Client::connect(&state_dir.join(SOCKET_NAME)).await {
                Ok(client) => break client,
                Err(error) => assert!(Instant::now() < deadline, "the proxy does not come up: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        client.send(&Request::SetTable(table)).await.unwrap();
        loop {
            match client.recv().await.unwrap() {
                Some(Reply::Acked { .. }) => break,
                Some(Reply::Refused { reason }) => panic!("the proxy does not take the table: {reason}"),
                Some(_) => {}
                None => panic!("the proxy is gone"),
            }
        }
    });
    assert!(TcpStream::connect(plain).is_ok(), "{name} does not listen on {plain}");
    subject
}
