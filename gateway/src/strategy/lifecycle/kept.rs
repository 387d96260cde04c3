//! What outlives a restart, in a folder of the gateway's own: which versions were active and their components, what operators
//! said of them, and the names that were known. So a gateway serves what it served, whatever its sources hold or do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Lifecycle;
use super::quarantine::Quarantine;
use super::slot::{Attempt, Mode, Seen, Slot, Stored};
use super::stages::sha256;
use crate::folder::{FolderError, PrivateFolder};
use crate::settings::StrategySettings;
use crate::strategy::memory::{Bags, KnownName};
use crate::strategy::version::{Fingerprint, Version};

/// Which versions were active.
const SET: &str = "strategies.json";
/// The names that were known.
const NAMES: &str = "names";
/// What the file of names begins with.
const NAMES_FORMAT: &[u8] = b"tagway names 1\n";
/// The folder of components.
const COMPONENTS: &str = "components";

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    folder: PrivateFolder,
    components: PrivateFolder,
}

/// What there was.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeptSet {
    pub(super) generation: u64,
    pub(super) strategies: BTreeMap<String, KeptStrategy>,
}

/// Of one strategy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KeptStrategy {
    pub(super) mode: Mode,
    pub(super) active: Option<KeptVersion>,
    pub(super) earlier: Vec<KeptVersion>,
    pub(super) seen: Option<Seen>,
    pub(super) quarantine: Quarantine,
    pub(super) attempts: Vec<Attempt>,
}

/// A version that was active, and what it was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptVersion {
    pub(super) version: Fingerprint,
    pub(super) generation: u64,
    pub(super) activated: SystemTime,
    settings: Map<String, Value>,
    tags: Vec<String>,
    backends: Vec<String>,
    shared_scope: bool,
}

/// Components by their digests. Those of which the bytes are not here are in the folder.
pub(super) type Components = BTreeMap<String, Option<Arc<[u8]>>>;

/// A name, as it is written down.
#[derive(Serialize, Deserialize)]
struct KeptName {
    tenant: String,
    key: String,
    bags: Bags,
    asked: SystemTime,
}

impl Kept {
    /// The folder at that path, which is made if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        Ok(Self {
            folder: PrivateFolder::open(path)?,
            components: PrivateFolder::open(&path.join(COMPONENTS))?,
        })
    }

    /// What there was.
    pub(super) fn set(&self) -> Result<KeptSet, FolderError> {
        let unreadable = |error: io::Error| FolderError::Unreadable { file: SET, error };
        match self.folder.read(SET).map_err(unreadable)? {
            None => Ok(KeptSet::default()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| unreadable(error.into())),
        }
    }

    /// From here on there is that, and these components of which the bytes are not here must be there already. Others are removed.
    fn keep_set(&self, set: &KeptSet, components: &Components) -> io::Result<()> {
        // First of all, so that what is named is there.
        for (digest, bytes) in components {
            if let Some(bytes) = bytes {
                self.keep_component(&file_of(digest), bytes)?;
            }
        }
        let bytes = serde_json::to_vec_pretty(set).map_err(io::Error::other)?;
        self.folder.write(SET, &bytes)?;
        let named: BTreeSet<String> = components.keys().map(|digest| file_of(digest)).collect();
        for file in fs::read_dir(self.components.path())? {
            let file = file?;
            if !file.file_name().to_str().is_some_and(|name| named.contains(name)) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    fn keep_component(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        // What cannot be read is written anew.
        let there = self.components.read(file).ok().flatten();
        if there.is_some_and(|there| there == bytes) {
            return Ok(());
        }
        self.components.write(file, bytes)
    }

    /// The component of that digest, if it is there and whole.
    pub(super) fn component(&self, digest: &str) -> io::Result<Vec<u8>> {
        let bytes = self.components.read(&file_of(digest))?;
        let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{digest} was not kept")))?;
        if sha256(&bytes) != digest {
            return Err(io::Error::other(format!("what was kept as {digest} is damaged")));
        }
        Ok(bytes)
    }

    /// The names that were known.
    pub(super) fn names(&self) -> io::Result<Vec<KnownName>> {
        let Some(bytes) = self.folder.read(NAMES)? else {
            return Ok(Vec::new());
        };
        let names = bytes
            .strip_prefix(NAMES_FORMAT)
            .ok_or_else(|| io::Error::other("of another format"))?;
        let names: Vec<KeptName> = postcard::from_bytes(names).map_err(io::Error::other)?;
        Ok(names
            .into_iter()
            .filter_map(|name| {
                Some(KnownName {
                    tenant: name.tenant.parse().ok()?,
                    verified: None,
                    key: name.key,
                    bags: name.bags,
                    asked: name.asked,
                })
            })
            .collect())
    }

    /// These are known.
    pub(super) fn keep_names(&self, names: Vec<KnownName>) -> io::Result<()> {
        let names: Vec<KeptName> = names
            .into_iter()
            .map(|name| KeptName {
                tenant: name.tenant.to_string(),
                key: name.key,
                bags: name.bags,
                asked: name.asked,
            })
            .collect();
        let names = postcard::to_stdvec(&names).map_err(io::Error::other)?;
        self.folder.write(NAMES, &[NAMES_FORMAT, &names].concat())
    }
}

impl KeptVersion {
    /// That version, which became active so.
    pub(super) fn new(version: &Version, generation: u64, activated: SystemTime) -> Self {
        let settings = &version.settings;
        Self {
            version: version.fingerprint.clone(),
            generation,
            activated,
            settings: settings.settings.clone(),
            tags: settings.tags.iter().map(ToString::to_string).collect(),
            backends: settings.backends.clone(),
            shared_scope: settings.shared_scope,
        }
    }

    /// The settings that it was made with, as far as `now` grants them still.
    pub(super) fn settings(&self, now: &StrategySettings) -> StrategySettings {
        let mut settings = now.clone();
        // What the operator names now is for what the source holds.
        settings.digest = None;
        settings.settings.clone_from(&self.settings);
        // Which of them it serves still, is seen once it is there: it claims what it claims.
        settings.tags = self.tags.iter().filter_map(|tag| tag.parse().ok()).collect();
        settings.backends.retain(|backend| self.backends.contains(backend));
        settings.shared_scope &= self.shared_scope;
        settings
    }
}

impl Lifecycle {
    /// What is active outlives a restart.
    pub(super) async fn keep(&self) {
        let _one_at_a_time = self.keeping.lock().await;
        let Some(kept) = self.kept.clone() else { return };
        let (set, components) = self.kept_set();
        let keep = tokio::task::spawn_blocking(move || kept.keep_set(&set, &components)).await;
        match keep.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => self.made.part.is_ready(""),
            Err(error) => self
                .made
                .part
                .is_away(&format!("what is active could not be kept: {error}")),
        }
    }

    fn kept_set(&self) -> (KeptSet, Components) {
        let slots = self.slots();
        let mut components = Components::new();
        let mut strategies = BTreeMap::new();
        for (name, kept) in self.absent().iter() {
            for version in kept.active.iter().chain(&kept.earlier) {
                components.entry(version.version.digest.clone()).or_default();
            }
            strategies.insert(name.clone(), kept.clone());
        }
        for (name, slot) in slots.iter() {
            strategies.insert(name.to_string(), self.kept(name, slot, &mut components));
        }
        let set = KeptSet {
            generation: self.registry.current().generation(),
            strategies,
        };
        (set, components)
    }

    /// What is kept of it.
    pub(super) fn kept(&self, name: &str, slot: &Slot, components: &mut Components) -> KeptStrategy {
        let current = self.registry.current();
        let record = self.records.active(name);
        let generation = record.as_ref().map_or(0, |record| record.generation);
        let activated = record.and_then(|record| record.activated);
        let activated = activated.unwrap_or_else(|| self.made.clock.now());
        let mut kept = |stored: &Stored| match stored {
            Stored::Here { version, .. } => {
                let digest = version.fingerprint.digest.clone();
                components.insert(digest, Some(Arc::clone(&version.bytes)));
                KeptVersion::new(version, generation, activated)
            }
            Stored::Kept(kept) => {
                components.entry(kept.version.digest.clone()).or_default();
                kept.clone()
            }
        };
        let serving = current.serving(name).map(|serving| Stored::Here {
            version: Arc::clone(serving.decides()),
            trial: None,
        });
        KeptStrategy {
            mode: slot.mode,
            active: serving.as_ref().or(slot.dormant.as_ref()).map(&mut kept),
            earlier: slot.earlier.iter().map(&mut kept).collect(),
            seen: slot.seen.clone(),
            quarantine: slot.quarantine.clone(),
            attempts: slot.attempts.clone(),
        }
    }

    pub(super) async fn keep_names(&self) {
        let Some(kept) = self.kept.clone() else { return };
        let known = self.names.all(self.registry.current()).await;
        let keep = tokio::task::spawn_blocking(move || kept.keep_names(known.names)).await;
        if let Err(error) = keep.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            tracing::warn!(%error, "the names that are known could not be kept");
        }
    }
}

/// `sha256:<hex>` as the name of a file.
fn file_of(digest: &str) -> String {
    format!("{}.wasm", digest.trim_start_matches("sha256:"))
}
