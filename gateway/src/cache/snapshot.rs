//! What was last known good, on disk: for a gateway that starts while its stores are away. It is served there as what it
//! is, past its time and as old as it says; where a store answers, nothing of it is.
//!
//! The file holds the shape of the stores that it was read from, the records, and a digest of all that, in this order. It is
//! written beside the one before and takes its place whole. It holds no secret; but every other value, for whom the operator lets
//! into the folder: so that is the gateway's own, or refused.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Cache;
use super::known::Known;
use crate::backend::Entry;
use crate::clock::Clock;
use crate::folder::PrivateFolder;
use crate::placement::Place;

/// What a file of this format begins with.
const FORMAT: &[u8] = b"tagway cache 1\n";
/// Its name.
const FILE: &str = "known";
/// How often it is written, if something changed.
const EVERY: Duration = Duration::from_mins(1);
/// Longest record: the longest value, and texts of a few hundred bytes.
const RECORD_BYTES: u32 = 64 << 20;

/// Where what is known is kept, and of which stores it is.
#[derive(Debug, Clone)]
pub struct Snapshot {
    folder: PrivateFolder,
    /// What tells these stores from others.
    shape: Vec<u8>,
    clock: Clock,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The folder or the file cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not whole.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is of other stores, or of another format.
    #[error("it was written by another version, or over other stores")]
    Other,
}

/// One place, and what was known of it.
#[derive(Serialize, Deserialize)]
struct Record {
    backend: String,
    /// None: everybody's.
    tenant: Option<String>,
    folder: String,
    name: String,
    as_of: SystemTime,
    entry: Option<RecordEntry>,
}

#[derive(Serialize, Deserialize)]
struct RecordEntry {
    value: Vec<u8>,
    content_type: String,
    etag: String,
    updated_at: SystemTime,
    updated_by: String,
}

impl Snapshot {
    /// One in that folder, of stores of that `shape`.
    #[must_use]
    pub fn new(folder: PrivateFolder, shape: &str, clock: Clock) -> Self {
        let shape = aws_lc_rs::digest::digest(&SHA256, shape.as_bytes()).as_ref().to_vec();
        Self { folder, shape, clock }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes what `cache` knows; returns of how many places.
    pub fn write(&self, cache: &Cache) -> Result<usize, SnapshotError> {
        let mut file = self.folder.begin()?;
        let mut out = Digesting::new(BufWriter::new(file.as_file_mut()));
        out.write_all(FORMAT)?;
        out.write_all(&self.shape)?;
        let mut records = 0;
        for (place, known) in cache.known.iter() {
            let Some(record) = self.record(&place, &known) else {
                continue;
            };
            let record = postcard::to_stdvec(&record).map_err(io::Error::other)?;
            let Ok(length @ 1..=RECORD_BYTES) = u32::try_from(record.len()) else {
                continue;
            };
            out.write_all(&length.to_le_bytes())?;
            out.write_all(&record)?;
            records += 1;
        }
        out.write_all(&0u32.to_le_bytes())?;
        let (mut out, digest) = out.finish();
        out.write_all(&digest)?;
        out.flush()?;
        drop(out);
        self.folder.keep(file, FILE)?;
        Ok(records)
    }

    /// Reads what was known, and has `cache` know it; returns of how many places. Nothing is taken from a file that is not whole.
    pub fn restore(&self, cache: &Cache) -> Result<usize, SnapshotError> {
        let file = match File::open(self.folder().join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        let mut file = Digesting::new(BufReader::new(file));
        let mut head = vec![0; FORMAT.len() + self.shape.len()];
        file.fill(&mut head)?;
        let (format, shape) = head.split_at(FORMAT.len());
        if format != FORMAT || shape != self.shape {
            return Err(SnapshotError::Other);
        }
        let mut restored = Vec::new();
        loop {
            let mut length = [0; 4];
            file.fill(&mut length)?;
            let length = match u32::from_le_bytes(length) {
                0 => break,
                length @ 1..=RECORD_BYTES => length,
                _ => return Err(SnapshotError::Damaged("a record that is too long")),
            };
            // As much as there is, and not as much as it says there is.
            let mut record = Vec::new();
            let read = file.by_ref().take(length.into()).read_to_end(&mut record)?;
            if read < length as usize {
                return Err(SnapshotError::Damaged("it ends too early"));
            }
            let record = postcard::from_bytes(&record).map_err(|_| SnapshotError::Damaged("a record that is none"))?;
            restored.extend(self.known(record)?);
        }
        let (mut file, digest) = file.finish();
        let mut trailer = Vec::new();
        file.read_to_end(&mut trailer)?;
        if trailer != digest {
            return Err(SnapshotError::Damaged("its digest is another"));
        }
        let records = restored.len();
        for (place, known) in restored {
            cache.restore(place, known);
        }
        Ok(records)
    }

    /// Writes every minute, if something changed, until `stop`; and once more then.
    pub async fn run(self, cache: Arc<Cache>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut written = 0;
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                () = stop.cancelled() => true,
            };
            let changes = cache.changes();
            if changes != written {
                let (snapshot, cache) = (self.clone(), Arc::clone(&cache));
                let write = tokio::task::spawn_blocking(move || snapshot.write(&cache)).await;
                match write.unwrap_or_else(|panic| Err(io::Error::other(panic).into())) {
                    Ok(places) => {
                        tracing::debug!(places, "wrote what is known to cache.snapshot");
                        written = changes;
                    }
                    Err(error) => {
                        tracing::warn!(folder = %self.folder().display(), %error, "cache.snapshot could not be written");
                    }
                }
            }
            if last {
                return;
            }
        }
    }

    fn record(&self, place: &Place, known: &Known) -> Option<Record> {
        if !known.is_good() || known.entry.as_ref().is_some_and(|entry| entry.secret) {
            return None;
        }
        let (tenant, folder) = place.name.range().parts();
        Some(Record {
            backend: place.backend.to_string(),
            tenant: tenant.map(ToString::to_string),
            folder: folder.to_owned(),
            name: place.name.name().to_string(),
            as_of: self.clock.now().checked_sub(known.as_of.elapsed())?,
            entry: known.entry.as_ref().map(|entry| RecordEntry {
                value: entry.value.to_vec(),
                content_type: entry.content_type.clone(),
                etag: entry.etag.to_string(),
                updated_at: entry.updated_at,
                updated_by: entry.updated_by.clone(),
            }),
        })
    }

    /// None: it is of a time that has not come, so that nobody knows how old it is.
    fn known(&self, record: Record) -> Result<Option<(Place, Known)>, SnapshotError> {
        let damaged = || SnapshotError::Damaged("a name that is none");
        let place = Place::restored(&record.backend, record.tenant.as_deref(), &record.folder, &record.name);
        let place = place.ok_or_else(damaged)?;
        let Ok(age) = self.clock.now().duration_since(record.as_of) else {
            return Ok(None);
        };
        let Some(as_of) = Instant::now().checked_sub(age) else {
            return Ok(None);
        };
        let entry = record.entry.map(|entry| {
            Ok::<_, SnapshotError>(Entry {
                value: entry.value.into(),
                content_type: entry.content_type,
                etag: entry.etag.parse().map_err(|_| damaged())?,
                updated_at: entry.updated_at,
                updated_by: entry.updated_by,
                secret: false,
            })
        });
        let entry = entry.transpose()?;
        Ok(Some((place, Known::restored(entry, as_of))))
    }
}

/// Digests what passes.
struct Digesting<T> {
    inner: T,
    digest: Context,
}

impl<T> Digesting<T> {
    fn new(inner: T) -> Self {
        let digest = Context::new(&SHA256);
        Self { inner, digest }
    }

    fn finish(self) -> (T, [u8; SHA256_OUTPUT_LEN]) {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(self.digest.finish().as_ref());
        (self.inner, digest)
    }
}

impl<T: Read> Digesting<T> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), SnapshotError> {
        self.read_exact(buffer)
            .map_err(|_| SnapshotError::Damaged("it ends too early"))
    }
}

impl<T: Read> Read for Digesting<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Digesting<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.digest.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
