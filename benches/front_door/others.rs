//! Traefik, Caddy and Envoy, where they are installed: on `PATH`, or in the folder that `TRUNDLE_BENCH_BIN` names. As the others here
//! they keep connections to the backend, set the forwarding headers, add a version header, and have one core.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{PROXY_CORE, Subject, free, start, texts};

/// Those that are here; the names of those that are not.
pub fn all(dir: &Path, backend: SocketAddr) -> (Vec<Subject>, Vec<&'static str>) {
    let (mut subjects, mut missing) = (Vec::new(), Vec::new());
    let makes: [(&'static str, &str, Make); 3] =
        [("Traefik", "traefik", traefik), ("Caddy", "caddy", caddy), ("Envoy", "envoy", envoy)];
    for (name, file, make) in makes {
        match program(file) {
            Some(program) => {
                let (plain, tls) = (free(), free());
                let args = make(dir, plain, tls, backend);
                subjects.push(start(name, PROXY_CORE, &program, &args, plain, tls));
            }
            None => missing.push(name),
        }
    }
    (subjects, missing)
}

/// Writes its configuration; its arguments.
type Make = fn(&Path, SocketAddr, SocketAddr, SocketAddr) -> Vec<String>;

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let given = std::env::var_os("TRUNDLE_BENCH_BIN").map(PathBuf::from);
    given
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn traefik(dir: &Path, plain: SocketAddr, tls: SocketAddr, backend: SocketAddr) -> Vec<String> {
    let (files, file) = (dir.display(), dir.join("traefik.yml"));
    let text = format!(
        "tls:\n  stores:\n    default:\n      defaultCertificate:\n        certFile: {files}/cert.pem\n        keyFile: {files}/key.pem\n\
         http:\n  routers:\n    plain:\n      entryPoints: [plain]\n      rule: PathPrefix(`/`)\n      middlewares: [version]\n      service: app\n\
         \x20   tls:\n      entryPoints: [tls]\n      rule: PathPrefix(`/`)\n      middlewares: [version]\n      service: app\n      tls: {{}}\n\
         \x20 middlewares:\n    version:\n      headers:\n        customResponseHeaders:\n          X-App-Version: \"1\"\n\
         \x20 serversTransports:\n    kept:\n      maxIdleConnsPerHost: 4096\n\
         \x20 services:\n    app:\n      loadBalancer:\n        serversTransport: kept\n        servers:\n          - url: http://{backend}\n"
    );
    fs::write(&file, text).unwrap();
    texts(&[
        &format!("--providers.file.filename={}", file.display()),
        &format!("--entrypoints.plain.address={plain}"),
        &format!("--entrypoints.tls.address={tls}"),
        "--log.level=FATAL",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ])
}

fn caddy(dir: &Path, plain: SocketAddr, tls: SocketAddr, backend: SocketAddr) -> Vec<String> {
    let (files, file) = (dir.display(), dir.join("Caddyfile"));
    let app = format!(
        "  reverse_proxy {backend} {{\n    transport http {{\n      keepalive_idle_conns 4096\n      keepalive_idle_conns_per_host 4096\n    }}\n  }}\n\
         \x20 header X-App-Version 1\n"
    );
    let text = format!(
        "{{\n  admin off\n  auto_https off\n  persist_config off\n  default_sni 127.0.0.1\n}}\nhttp://{plain} {{\n{app}}}\n\
         https://{tls} {{\n  tls {files}/cert.pem {files}/key.pem\n{app}}}\n"
    );
    fs::write(&file, text).unwrap();
    texts(&["run", "--adapter", "caddyfile", "--config", &file.display().to_string()])
}

fn envoy(dir: &Path, plain: SocketAddr, tls: SocketAddr, backend: SocketAddr) -> Vec<String> {
    let (files, file) = (dir.display(), dir.join("envoy.yaml"));
    let at = |address: SocketAddr| {
        format!("socket_address: {{ address: {}, port_value: {} }}", address.ip(), address.port())
    };
    let manager = "filters:\n    - name: envoy.filters.network.http_connection_manager\n      typed_config:\n        \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n        \
         stat_prefix: front\n        use_remote_address: true\n        codec_type: AUTO\n        route_config:\n          virtual_hosts:\n          \
         - name: all\n            domains: [\"*\"]\n            response_headers_to_add: [{ header: { key: x-app-version, value: \"1\" } }]\n            \
         routes: [{ match: { prefix: / }, route: { cluster: app } }]\n        http_filters:\n        - name: envoy.filters.http.router\n          \
         typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n";
    let text = format!(
        "static_resources:\n  listeners:\n  - name: plain\n    address: {{ {} }}\n    filter_chains:\n    - {}  - name: tls\n    address: {{ {} }}\n    \
         filter_chains:\n    - transport_socket:\n        name: envoy.transport_sockets.tls\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          common_tls_context:\n            \
         alpn_protocols: [h2, http/1.1]\n            tls_certificates:\n            - certificate_chain: {{ filename: {files}/cert.pem }}\n              \
         private_key: {{ filename: {files}/key.pem }}\n      {}  clusters:\n  - name: app\n    type: STATIC\n    circuit_breakers: {{ thresholds: [{{ \
         max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }}] }}\n    load_assignment:\n      cluster_name: app\n      endpoints:\n      \
         - lb_endpoints: [{{ endpoint: {{ address: {{ {} }} }} }}]\n",
        at(plain),
        manager.trim_end().replace('\n', "\n  ") + "\n",
        at(tls),
        manager.trim_end().replace('\n', "\n  ") + "\n",
        at(backend)
    );
    fs::write(&file, text).unwrap();
    texts(&["--concurrency", "1", "--disable-hot-restart", "-l", "off", "-c", &file.display().to_string()])
}
