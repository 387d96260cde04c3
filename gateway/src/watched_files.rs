//! Files that somebody else changes: who cares is told that they may have.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// What Kubernetes puts another link in place of where a volume changes, whatever the files in it are called.
const VOLUME: &str = "..data";

/// Tells `told` whenever one of these files may have changed, until this is dropped. Their folders are watched, for a file is
/// replaced as often as it is written. None: this machine cannot tell.
pub(crate) fn watch(files: &[PathBuf], told: Arc<Notify>) -> Option<RecommendedWatcher> {
    let mut names: BTreeSet<OsString> = files
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_owned()))
        .collect();
    names.insert(VOLUME.into());
    let concerns = move |event: &Event| {
        event
            .paths
            .iter()
            .any(|path| path.file_name().is_some_and(|name| names.contains(name)))
    };
    let tell = move |event: notify::Result<Event>| match event {
        Ok(event) if !(event.need_rescan() || is_a_change(event.kind) && concerns(&event)) => {}
        // Or what was missed is not known.
        Ok(_) | Err(_) => told.notify_one(),
    };
    let not_at_once = |error: &notify::Error| {
        tracing::warn!(%error, "changes of files are found by looking once in a while, and not at once");
    };
    let mut watcher = notify::recommended_watcher(tell).inspect_err(not_at_once).ok()?;
    for folder in folders(files) {
        // One that is not there keeps no other from being watched.
        _ = watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .inspect_err(not_at_once);
    }
    Some(watcher)
}

fn is_a_change(kind: EventKind) -> bool {
    match kind {
        // Who reads changes nothing.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn folders(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let folder = |file: &PathBuf| match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    files.iter().map(folder).collect()
}
