//! A proxy with one fixed table, to be measured: `serve LISTEN WORKERS UPSTREAM...`.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use trundle_proxy::{
    App, Client, Endpoint, EndpointState, Listen, PROTOCOL, ProxyConfig, Request, SOCKET_NAME, Table,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: serve LISTEN WORKERS UPSTREAM...";
    let listen: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let workers = args.next().ok_or(usage)?.parse()?;
    let upstreams = args.map(|text| text.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let state_dir = std::env::temp_dir().join(format!("trundle-proxy-serve-{}", std::process::id()));
    std::fs::create_dir_all(&state_dir)?;
    let config = ProxyConfig { state_dir: state_dir.clone(), workers };
    let proxy = thread::spawn(move || trundle_proxy::run_proxy(config));

    let endpoint = |(n, address): (usize, SocketAddr)| Endpoint {
        id: format!("web-1-{n}"),
        incarnation: n.to_string(),
        version: "1".into(),
        revision: 1,
        address,
        protocol: trundle_proxy::Protocol::Http1,
        weight: 1,
        state: EndpointState::Routed,
    };
    let app = App {
        listen: vec![Listen::Http(listen)],
        endpoints: upstreams.into_iter().enumerate().map(endpoint).collect(),
        ..App::named("web")
    };
    let table = Table { protocol: PROTOCOL, epoch: 1, number: 1, apps: vec![app] };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let socket = state_dir.join(SOCKET_NAME);
        let mut client = loop {
            match Client::connect(&socket).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        client.send(&Request::SetTable(table)).await?;
        println!("{:?}", client.recv().await?);
        Ok::<_, Failure>(())
    })?;
    proxy.join().map_err(|_| "the proxy panicked")??;
    std::fs::remove_dir_all(&state_dir)?;
    Ok(())
}
