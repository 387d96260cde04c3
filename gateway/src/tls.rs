//! The certificate that the gateway shows, and the one that it asks of clients: read at the start and again whenever its files
//! change. What cannot be used changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::parse_x509_certificate;

use crate::settings::TlsSettings;

/// HTTP/2 alone: gRPC knows nothing else (RFC 7301, and RFC 9113, 3.2).
const ALPN: &[u8] = b"h2";

/// Why no TLS can be spoken so.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("server.tls.{key} = {path}: {error}", path = path.display())]
    Unreadable {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("server.tls.{key} = {path}: {problem}", path = path.display())]
    Malformed {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Each is well, and they do not fit.
    #[error("server.tls: {0}")]
    Unfit(#[from] rustls::Error),
}

/// What new connections are made with.
pub struct Certificates {
    serving: ArcSwap<Serving>,
}

struct Serving {
    config: Arc<ServerConfig>,
    expires: SystemTime,
    /// What it was made of.
    files: Files,
}

#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads what the settings name.
    pub fn open(settings: &TlsSettings) -> Result<Arc<Self>, TlsError> {
        let serving = serving(settings, Files::read(settings)?)?;
        Ok(Arc::new(Self {
            serving: ArcSwap::from_pointee(serving),
        }))
    }

    /// Reads it again. Connections that are there stay as they are. Returns whether something is new.
    pub fn read_again(&self, settings: &TlsSettings) -> Result<bool, TlsError> {
        let files = Files::read(settings)?;
        if files == self.serving.load().files {
            return Ok(false);
        }
        self.serving.store(Arc::new(serving(settings, files)?));
        Ok(true)
    }

    /// For the next connection.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.serving.load().config)
    }

    /// When no client believes it any more.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.serving.load().expires
    }
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let read = |key, path: &Path| {
            fs::read(path).map_err(|error| TlsError::Unreadable {
                key,
                path: path.to_owned(),
                error,
            })
        };
        let TlsSettings { cert, key, client_ca } = settings;
        Ok(Self {
            cert: read("cert", cert)?,
            key: read("key", key)?,
            client_ca: client_ca.as_deref().map(|path| read("client_ca", path)).transpose()?,
        })
    }
}

fn serving(settings: &TlsSettings, files: Files) -> Result<Serving, TlsError> {
    let chain = certificates("cert", &settings.cert, &files.cert)?;
    let malformed = |key, path: &Path, problem| TlsError::Malformed {
        key,
        path: path.to_owned(),
        problem,
    };
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| {
        let wants = "one private key in PEM, as in -----BEGIN PRIVATE KEY-----";
        malformed("key", &settings.key, format!("{}; {wants}", of_pem(&error)))
    })?;
    let leaf = chain.first().and_then(|leaf| parse_x509_certificate(leaf).ok());
    let Some((_, leaf)) = leaf else {
        let problem = "its first certificate cannot be read".to_owned();
        return Err(malformed("cert", &settings.cert, problem));
    };
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let expires = UNIX_EPOCH + Duration::from_secs(seconds);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match (&settings.client_ca, &files.client_ca) {
        (Some(path), Some(bytes)) => {
            let mut roots = RootCertStore::empty();
            for root in certificates("client_ca", path, bytes)? {
                let added = roots.add(root);
                added.map_err(|error| malformed("client_ca", path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|error| match error {
                VerifierBuilderError::NoRootAnchors => malformed("client_ca", path, "no certificate in it".to_owned()),
                other => malformed("client_ca", path, other.to_string()),
            })?;
            config.with_client_cert_verifier(verifier)
        }
        _ => config.with_no_client_auth(),
    };
    let mut config = config.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Serving {
        config: Arc::new(config),
        expires,
        files,
    })
}

fn certificates(key: &'static str, path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wants = "certificates in PEM, as in -----BEGIN CERTIFICATE-----";
    let malformed = |problem: String| TlsError::Malformed {
        key,
        path: path.to_owned(),
        problem,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| malformed(format!("{}; {wants}", of_pem(&error))))?;
    if found.is_empty() {
        return Err(malformed(format!("nothing in it; {wants}")));
    }
    Ok(found)
}

/// Never what the file holds.
fn of_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "nothing in it",
        _ => "it cannot be read",
    }
}
