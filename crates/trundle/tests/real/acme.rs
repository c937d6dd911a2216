//! A certificate from an authority that nobody here wrote: `acme2certifier` of PyPI, which asks over HTTP whose the hosts are. The
//! client is curl. Names and port 80 of the authority's world are those of the test; all else is its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{World, free_address, loudly};

const AUTHORITY: &str = r##"
import datetime, json, os, ssl, sys
sys.path.insert(0, "dist")
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

port, front, secure_front = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.makedirs("authority/certs", exist_ok=True)
now = datetime.datetime.now(datetime.timezone.utc)

def make(name, issuer, issuer_key, ca):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    cert = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False))
    if not ca:
        cert = cert.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return key, cert.sign(issuer_key or key, hashes.SHA256())

def save(name, thing):
    if isinstance(thing, x509.Certificate):
        data = thing.public_bytes(serialization.Encoding.PEM)
    else:
        data = thing.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open("authority/" + name, "wb") as file:
        file.write(data)

ca_key, ca = make("an authority of a test", None, None, True)
key, cert = make("localhost", ca.subject, ca_key, False)
for name, thing in [("ca.key", ca_key), ("ca.pem", ca), ("server.key", key), ("server.pem", cert)]:
    save(name, thing)
crl = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).last_update(now).next_update(now + datetime.timedelta(days=9))
with open("authority/crl.pem", "wb") as file:
    file.write(crl.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
with open("authority/acme_srv.cfg", "w") as file:
    file.write(f"""[DEFAULT]
debug: False
[Nonce]
nonce_check_disable: False
[CAhandler]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: {os.getcwd()}/authority/ca.key
issuing_ca_cert: {os.getcwd()}/authority/ca.pem
issuing_ca_crl: {os.getcwd()}/authority/crl.pem
cert_save_path: {os.getcwd()}/authority/certs
cert_validity_days: 90
[DBhandler]
handler_module: acme2certifier.dbhandlers.wsgi_handler
dbfile: {os.getcwd()}/authority/acme.db
[Certificate]
revocation_reason_check_disable: False
[Challenge]
challenge_validation_disable: False
[Order]
tnauthlist_support: False
""")
os.environ["ACME_SRV_CONFIGFILE"] = os.getcwd() + "/authority/acme_srv.cfg"
from acme2certifier.acme_srv import helper
# The names of the test are in no DNS.
helper.fqdn_resolve = lambda *args, **named: (["127.0.0.1"], False, None)
# Ports 80 and 443 of a host are the front door of the test.
import urllib3.util.connection as network
connect, (front_host, front_port) = network.create_connection, front.split(":")
network.create_connection = lambda address, *args, **named: connect(
    (front_host, int(front_port)) if address[1] == 80 else address, *args, **named)
import socks
plain_connect = socks.socksocket.connect
def connect_secure(self, address, *args, **named):
    if address[1] == 443:
        host, at = secure_front.split(":")
        address = (host, int(at))
    return plain_connect(self, address, *args, **named)
socks.socksocket.connect = connect_secure
from acme2certifier.share import acme2certifier_wsgi as authority

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass
    def get_environ(self):
        return {**super().get_environ(), "HTTPS": "on", "wsgi.url_scheme": "https"}

def app(environ, start):
    environ["wsgi.url_scheme"] = "https"
    return authority.application(environ, start)

server = make_server("127.0.0.1", port, app, Server, Quiet)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("authority/server.pem", "authority/server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"##;

struct Authority(Child);

impl Authority {
    /// Listens on `localhost` at this port, and takes these for ports 80 and 443 of every host.
    fn start(world: &World, port: u16, http: SocketAddr, https: SocketAddr) -> Self {
        fs::write(world.path("authority.py"), AUTHORITY).unwrap();
        let mut command = world.command("python3");
        command
            .args(["authority.py", &port.to_string(), &http.to_string(), &https.to_string()])
            .stdout(Stdio::piped());
        let log = fs::File::create(world.path("authority.log")).unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let authority = Self(child);
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            assert!(
                said.read_line(&mut line).unwrap() > 0,
                "{}",
                fs::read_to_string(world.path("authority.log")).unwrap()
            );
        }
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        authority
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn an_authority_gives_a_certificate_for_the_hosts_and_another_when_they_change() {
    let Some(world) = World::new("acme2certifier", "") else { return };
    let (http, https, port) = (free_address(), free_address(), free_address().port());
    let config = |hosts: &str| {
        let text = format!(
            "name = \"shop\"\nversion = \"1\"\nreplicas = 2\n[run]\ncommand = [\"{}\", \"sample\"]\n[listen]\nhttp = \"{http}\"\n\
             https = \"{https}\"\nhosts = [{hosts}]\n[listen.tls]\nacme = \"ops@shop.test\"\nacme_root = \"authority/ca.pem\"\n\
             acme_directory = \"https://localhost:{port}/directory\"\nredirect = true\n[health.ready]\nhttp = \"/ready\"\n",
            env!("CARGO_BIN_EXE_trundle")
        );
        fs::write(world.path("trundle.toml"), text).unwrap();
    };
    let curl = |host: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-m", "10", "--cacert"]).arg(world.path("authority/ca.pem"));
        command.args(["--resolve", &format!("{host}:{}:127.0.0.1", https.port())]);
        command.arg(format!("https://{host}:{}/", https.port())).output().unwrap()
    };
    // Its own certificate has to be there before the file names it.
    let first = Authority::start(&world, port, http, https);
    config("\"shop.test\", \"www.shop.test\"");
    world.deploy("1");
    let began = Instant::now();
    let answer = until("a certificate that curl trusts", || {
        Some(curl("www.shop.test")).filter(|said| said.status.success())
    });
    loudly(&format!("ACME: curl trusts the certificate {:.1?} after the deploy", began.elapsed()));
    assert!(String::from_utf8_lossy(&answer.stdout).starts_with("1 "), "{answer:?}");
    assert!(curl("shop.test").status.success());
    assert!(world.status()["trouble"].is_null());
    let pem = world.path("state/acme/shop.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&pem).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds the key");
    assert_eq!(
        fs::read_dir(world.path("state/acme/challenges")).unwrap().count(),
        0,
        "nothing is left of the question"
    );
    // What no order is about goes to the app; here the address without TLS sends it on.
    let mut asked = Command::new("curl");
    asked.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: shop.test"]);
    let asked = asked.arg(format!("http://{http}/.well-known/acme-challenge/nothing")).output().unwrap();
    assert_eq!(asked.stdout, b"308");

    // An authority that does not answer is told in the status, and the one before stays in force.
    drop(first);
    config("\"shop.test\", \"new.shop.test\"");
    world.deploy("2");
    let trouble = until("what is wrong", || world.status()["trouble"].as_str().map(str::to_owned));
    assert!(trouble.contains("no certificate for shop.test, new.shop.test"), "{trouble}");
    assert!(curl("shop.test").status.success() && !curl("new.shop.test").status.success());
    // The next daemon tries at once. The authority has forgotten the account meanwhile.
    fs::remove_file(world.path("authority/acme.db")).unwrap();
    let _second = Authority::start(&world, port, http, https);
    let pid = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let env = fs::read(entry.path().join("environ")).ok()?;
        let ours = format!("TRUNDLE_STATE_DIR={}", world.path("state").display());
        let is_ours = String::from_utf8_lossy(&env).contains(&ours);
        (is_ours && words.split('\0').nth(1) == Some("daemon")).then_some(pid)
    });
    Command::new("kill").arg(pid.unwrap().to_string()).status().unwrap();
    until("the next daemon", || {
        let status = world.command(env!("CARGO_BIN_EXE_trundle")).args(["wait", "--timeout", "1ms"]).status();
        status.is_ok().then_some(())
    });
    until("the certificate of the new host", || curl("new.shop.test").status.success().then_some(()));

    // Without an address without TLS it is asked in the handshake.
    let text = fs::read_to_string(world.path("trundle.toml")).unwrap();
    let text = text.replace(&format!("http = \"{http}\"\n"), "").replace("redirect = true\n", "");
    fs::write(world.path("trundle.toml"), text.replace("new.shop.test", "by-tls.shop.test")).unwrap();
    world.deploy("3");
    until("the certificate by TLS-ALPN-01", || curl("by-tls.shop.test").status.success().then_some(()));
    let said = fs::read_to_string(world.path("authority.log")).unwrap();
    assert!(said.contains("'type': 'tls-alpn-01'"), "{said}");
}
