//! The certificate that the gateway shows, and the one that it asks of clients: read at the start and again whenever its files
//! change. What cannot be used changes nothing.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use humantime::format_rfc3339_seconds;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::settings::TlsSettings;

/// HTTP/2 alone: gRPC knows nothing else (RFC 7301, and RFC 9113, 3.2).
const ALPN: &[u8] = b"h2";

/// No time after this is told from it: ten thousand years, more or less.
const MAX: Duration = Duration::from_secs(250_000_000_000);

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

/// Of the certificate.
pub struct CertificateMetrics(pub Arc<Certificates>);

impl fmt::Debug for CertificateMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateMetrics")
    }
}

struct Serving {
    config: Arc<ServerConfig>,
    begins: SystemTime,
    /// The first of the chain to end.
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

    /// Reads it again. Connections that are there stay as they are, and one that is good now is not given up for one that is not.
    /// Returns whether something is new.
    pub fn read_again(&self, settings: &TlsSettings, now: SystemTime) -> Result<bool, TlsError> {
        let files = Files::read(settings)?;
        let before = self.serving.load();
        if files == before.files {
            return Ok(false);
        }
        let next = serving(settings, files)?;
        if before.is_good(now) && !next.is_good(now) {
            let (begins, expires) = (
                format_rfc3339_seconds(next.begins),
                format_rfc3339_seconds(next.expires),
            );
            return Err(TlsError::Malformed {
                key: "cert",
                path: settings.cert.clone(),
                problem: format!("good from {begins} until {expires}, and so not now"),
            });
        }
        self.serving.store(Arc::new(next));
        Ok(true)
    }

    /// Whether clients believe it now, as far as time goes.
    #[must_use]
    pub fn is_good(&self, now: SystemTime) -> bool {
        self.serving.load().is_good(now)
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

/// Tells until when the certificate is good.
impl Collector for CertificateMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "When the certificate that is shown ends, in Unix time";
        let unit = Some(&Unit::Seconds);
        let expires = encoder.encode_descriptor("tls_certificate_expiry_timestamp", help, unit, MetricType::Gauge)?;
        let since = self.0.expires().duration_since(UNIX_EPOCH).unwrap_or_default();
        ConstGauge::new(since.as_secs_f64()).encode(expires)
    }
}

impl Serving {
    fn is_good(&self, now: SystemTime) -> bool {
        (self.begins..self.expires).contains(&now)
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
    let Some((begins, expires)) = validity(&chain) else {
        let problem = "one of its certificates cannot be read".to_owned();
        return Err(malformed("cert", &settings.cert, problem));
    };
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
        begins,
        expires,
        files,
    })
}

/// From when and until when all of them are good; none if one of them cannot be read.
fn validity(certificates: &[CertificateDer<'_>]) -> Option<(SystemTime, SystemTime)> {
    let (mut begins, mut expires) = (UNIX_EPOCH, SystemTime::UNIX_EPOCH + MAX);
    for certificate in certificates {
        let (_, read) = parse_x509_certificate(certificate).ok()?;
        let at = |time: ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            UNIX_EPOCH + Duration::from_secs(seconds).min(MAX)
        };
        begins = begins.max(at(read.validity().not_before));
        expires = expires.min(at(read.validity().not_after));
    }
    Some((begins, expires))
}

/// When the first ends of those that sign clients' certificates, if there are any. Who shows one is let in all the same: what a
/// certificate is signed by has no end for rustls.
pub(crate) fn signers_expire(settings: &TlsSettings) -> Option<SystemTime> {
    let path = settings.client_ca.as_ref()?;
    let signers = certificates("client_ca", path, &fs::read(path).ok()?).ok()?;
    Some(validity(&signers)?.1)
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
