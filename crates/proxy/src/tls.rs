//! TLS towards clients: the certificate of an app, from files that are read anew when they change, and the handshake.
//!
//! A certificate that was good stays in force until another good one is there: a file that is half written, or a key that does not
//! belong to it, takes no address away.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::table::TlsFiles;

/// What a client may ask for, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What an authority for certificates speaks that wants to see whose a name is (RFC 8737).
const PROOF: &[u8] = b"acme-tls/1";

/// Of one app.
pub struct Tls {
    pub files: TlsFiles,
    pub config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
    /// How the files looked when they were read.
    stamp: Mutex<Stamp>,
}

impl Tls {
    /// Reads the files. The error says which one is wrong, and how.
    pub fn load(files: &TlsFiles) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let stamp = Stamp::of(files);
        let certificate = Arc::new(Certificate(ArcSwap::from_pointee(read(files, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Certificate>::clone(&certificate));
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        config.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Self { files: files.clone(), config: Arc::new(config), certificate, stamp: Mutex::new(stamp) })
    }

    /// Reads the files again if they have changed. What was in force stays, if they are no good.
    pub fn renew(&self) -> Option<Result<(), String>> {
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.files);
        if *known == stamp {
            return None;
        }
        *known = stamp;
        let provider = CryptoProvider::clone(self.config.crypto_provider());
        Some(read(&self.files, &provider).map(|certificate| self.certificate.0.store(Arc::new(certificate))))
    }
}

/// The one in force.
struct Certificate(ArcSwap<CertifiedKey>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a certificate")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Changes when a file is written over or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp([Option<(u64, u64, i64, i64)>; 2]);

impl Stamp {
    fn of(files: &TlsFiles) -> Self {
        let of = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
        };
        Self([of(&files.cert), of(&files.key)])
    }
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let (cert, key) = (files.cert.display(), files.key.display());
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| format!("the certificate {cert} cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err(format!("there is no certificate in {cert}"));
    }
    let private = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("the key {key} cannot be read: {error}"))?;
    CertifiedKey::from_der(chain, private, provider)
        .map_err(|error| format!("the key {key} does not go with the certificate {cert}: {error}"))
}

/// A client's stream behind its handshake.
pub struct Secure(TlsStream<TcpStream>);

/// What a client asks for before anything is said.
pub struct Hello<'a> {
    pub name: Option<&'a str>,
    /// It is an authority that wants to see whose the name is (TLS-ALPN-01, RFC 8737), and nothing else.
    pub asks_for_proof: bool,
}

/// `config` knows a certificate for what the client asks for. `None`: an authority has seen what it came for.
pub async fn accept(
    config: impl FnOnce(&Hello<'_>) -> Option<Arc<ServerConfig>>,
    stream: TcpStream,
) -> io::Result<Option<Secure>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let asks_for_proof =
        hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == PROOF));
    let config = config(&Hello { name: hello.server_name(), asks_for_proof });
    let config = config.ok_or_else(|| io::Error::other("no certificate can be read"))?;
    let secure = start.into_stream(config).await.map(Secure)?;
    Ok((!asks_for_proof).then_some(secure))
}

/// The certificate that proves whose a name is, from the folder where whoever orders certificates puts it.
pub fn proof(folder: &Path, name: &str) -> Option<Arc<ServerConfig>> {
    crate::sites::check_host(name).ok()?;
    let file = folder.join(format!("{}.pem", name.to_ascii_lowercase()));
    let provider = Arc::new(ring::default_provider());
    let chain = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<Result<Vec<_>, _>>).ok()?;
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_file(&file).ok()?).ok()?;
    // Not compared with each other: what the authority looks for is in an extension that rustls does not know.
    let certificate = CertifiedKey::new(chain, key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificate(ArcSwap::from_pointee(certificate))));
    config.alpn_protocols = vec![PROOF.to_vec()];
    Some(Arc::new(config))
}

impl AsFd for Secure {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.as_fd()
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
