//! The small types that settings are made of.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::Error as _;

/// A signature algorithm. Asymmetric ones alone exist here, so that none can be confused with a shared secret
/// (RFC 8725, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA over P-256 with SHA-256.
    ES256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// What a bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// See the tenant's configurations.
    Read,
    /// Change and delete them.
    Write,
    /// Write what all tenants read.
    Share,
    /// Everything about the gateway, and nothing of any tenant.
    Admin,
}

impl Permission {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Share, Self::Admin];
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Share => "share",
            Self::Admin => "admin",
        })
    }
}

/// Which store a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// One file on this machine.
    Embedded,
    /// Amazon DynamoDB.
    DynamoDb,
    /// AWS Systems Manager Parameter Store.
    Ssm,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::DynamoDb => "dynamodb",
            Self::Ssm => "ssm",
        })
    }
}

/// Where events come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventsKind {
    /// Nowhere: the sweep is all there is.
    #[default]
    None,
    /// An SQS queue.
    Sqs,
}

/// An SQS queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queue {
    /// This replica's own, made when it starts and removed when it goes.
    Auto,
    /// The operator's, by its URL.
    Url(String),
}

impl<'de> Deserialize<'de> for Queue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            url if url.starts_with("https://") || url.starts_with("http://") => Ok(Self::Url(text)),
            _ => Err(D::Error::custom(format!(
                "`{text}` is neither \"auto\" nor the URL of an SQS queue"
            ))),
        }
    }
}

/// Where the audit goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTo {
    /// To stdout.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    Text,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Not at all: the empty text.
    Nowhere,
    /// There.
    At(SocketAddr),
}

impl Listen {
    /// Where, if anywhere.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Nowhere => None,
            Self::At(address) => Some(address),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::Nowhere);
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| D::Error::custom(format!("`{text}` is no address such as \"127.0.0.1:9901\", nor empty")))
    }
}

/// `file:<path>` of a file that holds a secret. What is written in its place may be the secret itself, so no error
/// repeats it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile(pub PathBuf);

impl<'de> Deserialize<'de> for KeyFile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err(D::Error::custom(
                "the file that holds it, as in \"file:page-token.key\"",
            )),
        }
    }
}

/// Where something is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `builtin:<name>`: came with the gateway.
    Builtin(String),
    /// `file:<path>`
    File(PathBuf),
    /// `https://...` or `http://...`
    Url(String),
    /// `s3://<bucket>/<key>`
    S3(String),
}

impl Source {
    /// Bucket and key of an object in S3.
    #[must_use]
    pub fn s3(&self) -> Option<(&str, &str)> {
        match self {
            Self::S3(url) => url.strip_prefix("s3://")?.split_once('/'),
            _ => None,
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("builtin", name)) => Ok(Self::Builtin(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("http" | "https", _)) => Ok(Self::Url(text.to_owned())),
            Some(("s3", _)) => Ok(Self::S3(text.to_owned())),
            _ => Err(format!(
                "`{text}` is no source; one begins with file:, s3://, https:// or builtin:"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What is answered for a strategy that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// An error.
    #[default]
    Closed,
    /// What was answered to the same question last, by any version; an error where there is none.
    LastDecision,
}

/// How a strategy's instances are made: out of the pool, small and ready. There is no other way yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Class {
    /// Out of the pool.
    Strict,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Url(url) | Self::S3(url) => f.write_str(url),
        }
    }
}
