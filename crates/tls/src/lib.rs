//! TLS towards an instance on this machine, of an app that speaks nothing else.
//!
//! Any certificate is taken, as an app makes one for itself and has no name: who answers on the port of an instance is known by
//! its socket, which the kernel says whose it is, and what goes over loopback nobody else on the wire can read or change.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub type Stream = TlsStream<TcpStream>;

/// The protocol that HTTP/2 has in the handshake (RFC 9113 §3.2).
pub const H2: &[u8] = b"h2";

/// Speaks TLS on a connection, and HTTP/2 behind it; an error if the app does not.
pub async fn connect_h2(stream: TcpStream) -> io::Result<Stream> {
    let stream =
        TlsConnector::from(config()?).connect(ServerName::from(stream.peer_addr()?.ip()), stream).await?;
    if stream.get_ref().1.alpn_protocol() == Some(H2) {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks TLS, and no HTTP/2 behind it (ALPN `h2`)"))
}

fn config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(Arc::new(config))
    };
    CONFIG.get_or_init(make).clone().map_err(io::Error::other)
}

/// Whose it is does not matter, but the other side must have its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    fn server(protocols: &[&[u8]]) -> TlsAcceptor {
        let own = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    #[tokio::test]
    async fn any_certificate_is_taken_and_no_other_protocol() {
        let protocols: [&[&[u8]]; 3] = [&[H2], &[], &[b"http/1.1"]];
        for protocols in protocols {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let acceptor = server(protocols);
            let app = tokio::spawn(async move {
                let mut stream = acceptor.accept(accepted).await?;
                let mut byte = [0];
                stream.read_exact(&mut byte).await?;
                Ok::<_, io::Error>(byte[0])
            });
            match connect_h2(stream).await {
                Ok(mut stream) => {
                    stream.write_all(b"x").await.unwrap();
                    assert_eq!((protocols, app.await.unwrap().unwrap()), (&[H2][..], b'x'));
                }
                Err(error) => {
                    assert!(protocols != [H2], "{error}");
                    assert!(protocols.len() == 1 || error.to_string().contains("no HTTP/2"), "{error}");
                }
            }
        }
    }
}
