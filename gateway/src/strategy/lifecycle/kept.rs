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

use super::quarantine::Quarantine;
use super::stages::sha256;
use super::{Lifecycle, Mode, Seen};
use crate::folder::{FolderError, PrivateFolder};
use crate::settings::StrategySettings;
use crate::strategy::memory::{Bags, KnownName};
use crate::strategy::version::Identity;

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
pub(super) struct KeptSet {
    pub(super) generation: u64,
    pub(super) strategies: BTreeMap<String, KeptStrategy>,
}

/// Of one strategy.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct KeptStrategy {
    pub(super) mode: Mode,
    pub(super) active: Option<KeptVersion>,
    pub(super) seen: Option<Seen>,
    pub(super) quarantine: Quarantine,
}

/// A version that was active, and what it was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptVersion {
    pub(super) version: Identity,
    pub(super) generation: u64,
    pub(super) activated: SystemTime,
    settings: Map<String, Value>,
    tags: Vec<String>,
    backends: Vec<String>,
    shared_scope: bool,
}

/// A name, as it is written down.
#[derive(Serialize, Deserialize)]
struct KeptName {
    tenant: String,
    key: String,
    bags: Bags,
}

impl Kept {
    /// The folder at that path, which is made if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        Ok(Self {
            folder: PrivateFolder::open(path)?,
            components: PrivateFolder::open(&path.join(COMPONENTS))?,
        })
    }

    /// What there was; nothing, if it cannot be read.
    pub(super) fn set(&self) -> io::Result<KeptSet> {
        match self.folder.read(SET)? {
            None => Ok(KeptSet::default()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        }
    }

    /// From here on there is that. Components that it does not name, nor `others`, are removed.
    pub(super) fn keep_set(&self, set: &KeptSet, others: &BTreeSet<String>) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(set).map_err(io::Error::other)?;
        self.folder.write(SET, &bytes)?;
        let active = set.strategies.values().filter_map(|kept| kept.active.as_ref());
        let named: BTreeSet<String> = active
            .map(|active| &active.version.digest)
            .chain(others)
            .map(|digest| file_of(digest))
            .collect();
        for file in fs::read_dir(self.components.path())? {
            let file = file?;
            if !file.file_name().to_str().is_some_and(|name| named.contains(name)) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// Keeps a component.
    pub(super) fn keep_component(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let file = file_of(digest);
        if self.components.path().join(&file).exists() {
            return Ok(());
        }
        self.components.write(&file, bytes)
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
            })
            .collect();
        let names = postcard::to_stdvec(&names).map_err(io::Error::other)?;
        self.folder.write(NAMES, &[NAMES_FORMAT, &names].concat())
    }
}

impl KeptVersion {
    /// That version, made with those settings.
    pub(super) fn new(version: Identity, settings: &StrategySettings, generation: u64, activated: SystemTime) -> Self {
        Self {
            version,
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
        settings
            .tags
            .retain(|tag| self.tags.iter().any(|kept| kept == tag.as_str()));
        settings.backends.retain(|backend| self.backends.contains(backend));
        settings.shared_scope &= self.shared_scope;
        settings
    }
}

impl Lifecycle {
    /// What is active outlives a restart.
    pub(super) async fn keep(&self) {
        let Some(kept) = self.kept.clone() else { return };
        let _one_at_a_time = self.keeping.lock().await;
        let (set, others) = self.kept_set();
        let keep = tokio::task::spawn_blocking(move || kept.keep_set(&set, &others)).await;
        match keep {
            Ok(Ok(())) => self.made.part.is_ready(""),
            Ok(Err(error)) => self
                .made
                .part
                .is_away(&format!("what is active could not be kept: {error}")),
            Err(panic) => self
                .made
                .part
                .is_away(&format!("what is active could not be kept: {panic}")),
        }
    }

    pub(super) fn kept_set(&self) -> (KeptSet, BTreeSet<String>) {
        let slots = self.slots();
        let current = self.registry.current();
        let mut others = BTreeSet::new();
        let strategies = slots.iter().map(|(name, slot)| {
            let version = current.serving(name).map(|serving| Arc::clone(serving.decides()));
            let version = version.or_else(|| slot.disabled.clone());
            others.extend(slot.earlier.iter().map(|version| version.identity.digest.clone()));
            let record = self.records.active(name);
            let kept = KeptStrategy {
                mode: slot.mode,
                active: version.map(|version| {
                    let generation = record.as_ref().map_or(1, |record| record.generation);
                    let activated = record.and_then(|record| record.activated);
                    let activated = activated.unwrap_or_else(|| self.made.clock.now());
                    KeptVersion::new(version.identity.clone(), &version.settings, generation, activated)
                }),
                seen: slot.seen.clone(),
                quarantine: slot.quarantine.clone(),
            };
            (name.to_string(), kept)
        });
        let set = KeptSet {
            strategies: strategies.collect(),
            generation: current.generation(),
        };
        (set, others)
    }

    pub(super) async fn keep_names(&self) {
        let Some(kept) = self.kept.clone() else { return };
        let names = self.known_names(&self.registry.current());
        let keep = tokio::task::spawn_blocking(move || kept.keep_names(names)).await;
        if let Ok(Err(error)) = keep {
            self.made
                .part
                .is_away(&format!("the names that are known could not be kept: {error}"));
        }
    }
}

/// `sha256:<hex>` as the name of a file.
fn file_of(digest: &str) -> String {
    format!("{}.wasm", digest.trim_start_matches("sha256:"))
}
