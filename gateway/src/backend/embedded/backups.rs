//! Which stores of a gateway can be backed up, and where to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Embedded;
use super::backup::BackupError;
use super::contents::Contents;
use crate::clock::Clock;
use crate::folder::{FolderError, PrivateFolder};

/// All of them.
pub struct Backups {
    targets: BTreeMap<Arc<str>, Target>,
    /// One at a time, of all stores: each reads a whole store.
    turn: Arc<Semaphore>,
    clock: Clock,
}

struct Target {
    store: Arc<Embedded>,
    folder: Option<PathBuf>,
}

/// One that may begin.
pub struct Backup {
    id: Arc<str>,
    store: Arc<Embedded>,
    folder: PrivateFolder,
    name: String,
    _turn: OwnedSemaphorePermit,
}

/// Why none begins.
#[derive(Debug, thiserror::Error)]
pub enum NoBackup {
    /// There is no such store.
    #[error("no embedded store has the id `{0}`")]
    Unknown(String),
    /// It was not said which.
    #[error("there are {0} embedded stores: say which")]
    Which(usize),
    /// There is no folder for them.
    #[error("backends.{0}.backups names no folder")]
    Nowhere(Arc<str>),
    /// The folder cannot be used.
    #[error("backends.{id}.backups: {}: {error}", folder.display())]
    Folder {
        /// The store's.
        id: Arc<str>,
        /// Which.
        folder: PathBuf,
        /// Why.
        error: FolderError,
    },
    /// Another one is made now.
    #[error("another backup is under way: try again when it has ended")]
    UnderWay,
}

impl Backups {
    /// Of no store yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            targets: BTreeMap::new(),
            turn: Arc::new(Semaphore::new(1)),
            clock,
        }
    }

    /// Of that store too, into that folder.
    pub fn add(&mut self, id: &str, store: &Arc<Embedded>, folder: Option<&Path>) {
        let target = Target {
            store: Arc::clone(store),
            folder: folder.map(Path::to_owned),
        };
        self.targets.insert(id.into(), target);
    }

    /// Begins one of the store with that id; of the only store, if it is empty.
    pub fn begin(&self, id: &str) -> Result<Backup, NoBackup> {
        let found = if id.is_empty() && self.targets.len() == 1 {
            self.targets.first_key_value()
        } else if id.is_empty() {
            return Err(NoBackup::Which(self.targets.len()));
        } else {
            self.targets.get_key_value(id)
        };
        let (id, target) = found.ok_or_else(|| NoBackup::Unknown(id.to_owned()))?;
        let folder = target
            .folder
            .as_ref()
            .ok_or_else(|| NoBackup::Nowhere(Arc::clone(id)))?;
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_| NoBackup::UnderWay)?;
        let folder = PrivateFolder::open(folder).map_err(|error| NoBackup::Folder {
            id: Arc::clone(id),
            folder: folder.clone(),
            error,
        })?;
        let time = humantime::format_rfc3339_millis(self.clock.now()).to_string();
        Ok(Backup {
            id: Arc::clone(id),
            store: Arc::clone(&target.store),
            folder,
            // Names that sort by time, and that no tool takes for more than a name.
            name: format!("{id}-{}.redb", time.replace(':', "")),
            _turn: turn,
        })
    }
}

impl Backup {
    /// The store's id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Makes it, on a thread that may block: see [`Embedded::back_up`]. Returns what it holds, and where it is.
    pub fn make(self, goes_on: impl Fn(&Contents) -> bool) -> Result<(Contents, PathBuf), BackupError> {
        let contents = self.store.back_up(&self.folder, &self.name, goes_on)?;
        Ok((contents, self.folder.path().join(&self.name)))
    }
}
