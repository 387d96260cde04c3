//! Where a component's bytes come from.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::settings::{Source, StrategySettings};

/// The default strategy, as this gateway's own build made it.
const TAG_PREFIX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tag-prefix.wasm"));

/// What fetches components.
#[derive(Debug, Default)]
pub(super) struct Sources {}

impl Sources {
    /// The bytes behind the source of a strategy; of what is too large only so many that this shows.
    pub(super) async fn fetch(&self, settings: &StrategySettings) -> io::Result<Vec<u8>> {
        let limit = settings.limits.component.0;
        match &settings.source {
            Source::Builtin(name) if name == "tag-prefix" => Ok(TAG_PREFIX.to_vec()),
            Source::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read(&path, limit)).await?
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("no component can be had from {other}"),
            )),
        }
    }
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // A pipe or a device may never end, or never begin.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
