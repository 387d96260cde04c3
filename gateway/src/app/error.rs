//! Why a gateway does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::audit::AuditError;
use crate::backend::{NoRegion, embedded};
use crate::folder::FolderError;
use crate::identity::KeysError;
use crate::tls::TlsError;

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be had.
    #[error("{key} = {address}: {error}; another gateway may run there: choose another address")]
    Bind {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The issuer's keys.
    #[error("identity.jwks: {0}")]
    Keys(#[from] KeysError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A store.
    #[error("backends.{id}.path = {path}: {error}", path = path.display())]
    Store {
        /// Which.
        id: String,
        /// Where.
        path: PathBuf,
        /// Why.
        error: embedded::OpenError,
    },
    /// A store whose place is not known.
    #[error("backends.{id}.region: {error}")]
    Region {
        /// Which.
        id: String,
        /// Why.
        error: NoRegion,
    },
    /// The events' place is not known.
    #[error("events.region: {0}")]
    EventsRegion(NoRegion),
    /// A folder of the gateway's own.
    #[error("{key} = {folder}: {error}", folder = folder.display())]
    Folder {
        /// The setting.
        key: &'static str,
        /// Where.
        folder: PathBuf,
        /// Why.
        error: FolderError,
    },
    /// The secret of page tokens.
    #[error("server.page_token_key = {path}: {problem}", path = path.display())]
    PageTokenKey {
        /// Where.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// This machine.
    #[error("{0}")]
    Machine(String),
}
