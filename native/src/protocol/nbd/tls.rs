//! Encryption with certificates from a directory, as the schema's `tls-creds-x509` has them.
//!
//! | file | |
//! | --- | --- |
//! | `ca-cert.pem` | who may sign the other side's certificate |
//! | `ca-crl.pem` | certificates that were withdrawn; optional |
//! | `server-cert.pem`, `server-key.pem` | of a server |
//! | `client-cert.pem`, `client-key.pem` | of a client; optional |
//!
//! Pre-shared keys (`tls-creds-psk`) and anonymous encryption are not supported: the library has
//! neither.

use super::stream::Socket;
use crate::storage::error::os;
use sectora_core::{Error, Result};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use x509_cert::der::Decode;

/// Where certificates of the system are, by distribution.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client's encryption.
#[derive(Clone)]
pub struct ClientTls(TlsConnector);

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

/// A server's encryption.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

fn unusable(path: &Path, why: pem::Error) -> Error {
    let path = path.display();
    match why {
        pem::Error::Io(e) => os(e, format!("Unable to access credentials {path}")),
        why => Error::invalid(format!("Unable to load credentials {path}: {why}")),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|e| unusable(path, e))?;
    match found.is_empty() {
        true => Err(unusable(path, pem::Error::NoItemsFound)),
        false => Ok(found),
    }
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(impossible)?;
    }
    Ok(Arc::new(roots))
}

fn withdrawn(dir: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let path = dir.join("ca-crl.pem");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let read = CertificateRevocationListDer::pem_file_iter(&path).and_then(Iterator::collect);
    read.map_err(|e| unusable(&path, e))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(dir: &Path, who: &str) -> Result<Identity> {
    let key = dir.join(format!("{who}-key.pem"));
    let chain = certificates(&dir.join(format!("{who}-cert.pem")))?;
    Ok((chain, PrivateKeyDer::from_pem_file(&key).map_err(|e| unusable(&key, e))?))
}

fn impossible(error: impl fmt::Display) -> Error {
    Error::invalid(format!("the certificates cannot be used: {error}"))
}

impl ClientTls {
    /// With certificates from `dir`; a client's own only where it has one.
    ///
    /// # Errors
    /// `InvalidInput` where a file is missing or makes no sense.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = roots(&dir.join("ca-cert.pem"))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(withdrawn(dir)?)
            .build()
            .map_err(impossible)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(impossible)?
            .with_webpki_verifier(verifier);
        let config = match dir.join("client-cert.pem").exists() {
            true => {
                let (chain, key) = identity(dir, "client")?;
                builder.with_client_auth_cert(chain, key).map_err(impossible)?
            }
            false => builder.with_no_client_auth(),
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// With the certificates of the system, and none of the client's own.
    ///
    /// # Errors
    /// `Unsupported` where the system has none.
    pub fn system() -> Result<Self> {
        let file = SYSTEM.iter().map(Path::new).find(|path| path.exists()).ok_or_else(|| {
            Error::unsupported("no certificates of authorities are installed on this system")
        })?;
        let mut roots = RootCertStore::empty();
        // One that the library does not understand is one less to trust.
        roots.add_parsable_certificates(certificates(file)?);
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(impossible)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn connect(
        &self,
        socket: Socket,
        name: &str,
    ) -> Result<client::TlsStream<Socket>> {
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| Error::invalid(format!("'{name}' is no host name")))?;
        self.0
            .connect(server, socket)
            .await
            .map_err(|e| Error::denied(format!("TLS handshake failed: {e}")))
    }
}

impl ServerTls {
    /// With certificates from `dir`. `verify_peer`: clients need one that is signed as well.
    ///
    /// # Errors
    /// `InvalidInput` where a file is missing or makes no sense.
    pub fn from_dir(dir: &Path, verify_peer: bool) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = roots(&dir.join("ca-cert.pem"))?;
        let (chain, key) = identity(dir, "server")?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(impossible)?;
        let builder = match verify_peer {
            true => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .with_crls(withdrawn(dir)?)
                    .build()
                    .map_err(impossible)?;
                builder.with_client_cert_verifier(verifier)
            }
            false => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key).map_err(impossible)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Does the server's part; also gives the distinguished name in the client's certificate.
    pub(crate) async fn accept(
        &self,
        socket: Socket,
    ) -> Result<(server::TlsStream<Socket>, Option<String>)> {
        let stream = self
            .0
            .accept(socket)
            .await
            .map_err(|e| Error::denied(format!("TLS handshake failed: {e}")))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let name = certificate.map(distinguished_name).transpose()?;
        Ok((stream, name))
    }
}

/// The subject of a certificate: its parts in their order, `C=GB,O=Example,CN=name`.
fn distinguished_name(certificate: &CertificateDer<'_>) -> Result<String> {
    let parsed = x509_cert::Certificate::from_der(certificate)
        .map_err(|e| Error::denied(format!("the client's certificate is malformed: {e}")))?;
    let parts: Vec<String> =
        parsed.tbs_certificate.subject.0.iter().map(ToString::to_string).collect();
    Ok(parts.join(","))
}
