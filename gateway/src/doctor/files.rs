//! What the gateway keeps on disk besides its stores: folders of its own, and secrets that it reads.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Check, Examined, Finding};
use crate::app;
use crate::clock::Clock;
use crate::settings::{BackendKind, KeyFile, Settings};

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let Settings {
        server,
        cache,
        backends,
        ..
    } = &*of.settings;
    let backups = backends
        .iter()
        .map(|(id, backend)| (format!("backends.{id}.backups"), backend.backups.as_deref()));
    let mut checks: Vec<Check> = [("server.state", server.state()), ("cache.snapshot", cache.snapshot())]
        .map(|(key, folder)| (key.to_owned(), folder))
        .into_iter()
        .chain(backups)
        .filter_map(|(key, folder)| {
            let folder = folder?.to_owned();
            Some(Check::blocking(key.clone(), move || vec![of_its_own(&key, &folder)]))
        })
        .collect();
    let (settings, clock) = (of.settings.clone(), of.clock.clone());
    checks.push(Check::blocking(PAGE_TOKEN_KEY, move || {
        page_token_key(&settings, &clock)
    }));
    checks
}

const PAGE_TOKEN_KEY: &str = "server.page_token_key";

/// A folder that has to be the gateway's alone, or that it is yet to make.
fn of_its_own(key: &str, folder: &Path) -> Finding {
    let place = folder.display();
    let mode = match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Some(mode_of(&metadata)),
        Ok(_) => {
            let fix = format!("set {key} to a folder");
            return Finding::fail(key, format!("{place} is no folder"), fix);
        }
        Err(_) => None,
    };
    if let Some(mode) = mode.filter(|mode| mode & 0o077 != 0) {
        let found = format!("{place} has the mode {mode:o}, and holds what is nobody else's");
        return Finding::fail(key, found, format!("chmod 700 {place}"));
    }
    if let Err(finding) = can_hold(key, folder) {
        return finding;
    }
    let found = match mode {
        Some(_) => format!("{place} is this user's alone"),
        None => format!("{place} is made when it is needed"),
    };
    Finding::ok(key, found)
}

fn page_token_key(settings: &Settings, clock: &Clock) -> Vec<Finding> {
    let make = "head -c 32 /dev/urandom > page-token.key && chmod 600 page-token.key";
    let Some(KeyFile(path)) = &settings.server.page_token_key else {
        let is_shared = |kind| kind != BackendKind::Embedded;
        if !settings.backends.values().any(|backend| is_shared(backend.kind)) {
            return Vec::new();
        }
        let found = "none: a page token is good on the replica that gave it, until that restarts";
        let fix =
            format!("{make}; set {PAGE_TOKEN_KEY} = \"file:page-token.key\", with the same bytes on each replica");
        return vec![Finding::warn(PAGE_TOKEN_KEY, found, fix)];
    };
    let place = path.display();
    match app::page_tokens(settings, clock) {
        Ok(_) => {
            let mut findings = vec![Finding::ok(PAGE_TOKEN_KEY, format!("{place} is read"))];
            findings.extend(is_open(path));
            findings
        }
        Err(error) => vec![Finding::fail(
            PAGE_TOKEN_KEY,
            error.to_string(),
            make.replace("page-token.key", &place.to_string()),
        )],
    }
}

/// A file that others than its owner may change, or than those whom its owner's group was made for may read.
pub(super) fn is_open(path: &Path) -> Option<Finding> {
    let mode = mode_of(&fs::metadata(path).ok()?);
    (mode & 0o027 != 0).then(|| {
        let place = path.display();
        let found = format!("{mode:o}: others may look into it, or change it");
        Finding::warn(format!("mode of {place}"), found, format!("chmod g-w,o-rwx {place}"))
    })
}

fn mode_of(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o777
}

/// Whether this user may make files in the folder, or the folder itself where it is not there.
pub(super) fn can_hold(subject: &str, folder: &Path) -> Result<(), Finding> {
    let there = nearest(folder);
    access(&there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        let place = there.display();
        let found = format!("this user may not write to {place}: {}", io::Error::from(error));
        let fix = format!("chown $(id -un) {place}, mount it to be written to, or set {subject} to another place");
        Finding::fail(subject, found, fix)
    })
}

/// Itself, or the nearest above it that is there.
pub(super) fn nearest(folder: &Path) -> PathBuf {
    let there = folder.ancestors().find(|above| above.exists());
    match there {
        Some(there) if !there.as_os_str().is_empty() => there.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The folder of a file.
pub(super) fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
