//! Promise: Durability. Power is lost at any point: of what was written since the last sync, any sectors are there and any
//! are not. No acknowledged write is lost, none is torn, and values, history and change log agree.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redb::{ReadableTable as _, StorageBackend};

use super::tests::name;
use super::*;
use crate::backend::WriteError;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a file system gives a file at a time.
const BLOCK: usize = 4096;

/// A disk that forgets what was not synced.
#[derive(Debug, Default)]
struct Disk {
    /// What is safe.
    synced: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// Since the last sync, sector by sector.
    pending: Vec<(usize, Vec<u8>)>,
    /// Operations until the power goes. None: it stays.
    left: Option<usize>,
    /// What it says that it has room for.
    free: Option<u64>,
    /// Nothing is left, whatever it says: takes writes only where it took some before.
    full: bool,
    /// Blocks that were written once.
    taken: BTreeSet<usize>,
    /// Does not honour syncs: the seeded mutant, to show that the validator would notice.
    lies: bool,
}

#[derive(Debug, Clone)]
struct Power(Arc<Mutex<Disk>>);

impl Power {
    fn on(image: Vec<u8>, left: Option<usize>) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            synced: image.clone(),
            seen: image,
            left,
            ..Disk::default()
        })))
    }

    /// What is found when the power comes back.
    fn image(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut disk = self.0.lock().unwrap();
        let mut image = disk.synced.clone();
        random.shuffle(&mut disk.pending);
        for (at, sector) in &disk.pending {
            if random.bool() {
                if image.len() < at + sector.len() {
                    image.resize(at + sector.len(), 0);
                }
                image[*at..at + sector.len()].copy_from_slice(sector);
            }
        }
        image
    }
}

impl Disk {
    fn step(&mut self) -> Result<(), io::Error> {
        match &mut self.left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl StorageBackend for Power {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&disk.seen[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let len = usize::try_from(len).unwrap();
        disk.seen.resize(len, 0);
        // A journalling file system keeps a length, and shorter is not asked for between two syncs.
        let kept = len.max(disk.synced.len());
        disk.synced.resize(kept, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        if !disk.lies {
            disk.pending.clear();
            disk.synced = disk.seen.clone();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let at = usize::try_from(offset).unwrap();
        let blocks = at / BLOCK..(at + data.len()).div_ceil(BLOCK);
        if disk.full && !blocks.clone().all(|block| disk.taken.contains(&block)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.taken.extend(blocks);
        disk.seen[at..at + data.len()].copy_from_slice(data);
        for (index, sector) in data.chunks(SECTOR).enumerate() {
            disk.pending.push((at + index * SECTOR, sector.to_vec()));
        }
        Ok(())
    }
}

impl Medium for Power {
    fn open(&self) -> Result<Database, redb::DatabaseError> {
        Database::builder().create_with_backend(self.clone())
    }

    fn keep(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.0.lock().unwrap().free.ok_or_else(|| io::Error::other("who knows"))
    }
}

/// A disk with a store on it that is empty.
fn formatted() -> Power {
    let power = Power::on(Vec::new(), None);
    super::format::begin(&power.open().unwrap()).unwrap();
    power
}

fn open(power: &Power) -> Result<Embedded, OpenError> {
    Embedded::over(power.clone(), 3, Clock::system())
}

/// Says whose it is and which, all over, so that a torn one shows.
fn value(key: usize, n: u64) -> Vec<u8> {
    format!("{key}:{n};").repeat(400 + key * 100).into_bytes()
}

/// What each key may hold after the power was lost: the last that was acknowledged, or the one that was under way.
type Expected = BTreeMap<usize, (u64, u64)>;

/// Writes to some keys at once until the power goes, each key in order; every fifth change deletes.
async fn write_until_the_power_goes(store: Embedded, expected: &mut Expected) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..6)
        .map(|key| {
            let store = Arc::clone(&store);
            let begin = expected.get(&key).map_or(0, |(_, tried)| *tried);
            tokio::spawn(async move {
                let acme = VerifiedTenant::for_tests("acme");
                let name = name(&acme, &format!("t_{key}"));
                let mut acknowledged = None;
                for n in begin + 1.. {
                    let changed = if n % 5 == 0 {
                        store.delete(&acme, &name, false, Conditions::default()).await.map(drop)
                    } else {
                        let entry = NewEntry {
                            value: value(key, n).into(),
                            content_type: "text/plain".to_owned(),
                            secret: false,
                        };
                        store.write(&acme, &name, entry, Conditions::default()).await.map(drop)
                    };
                    match changed {
                        Ok(()) => acknowledged = Some(n),
                        Err(WriteError::Backend(_)) => return (key, acknowledged, n),
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("it goes on until the power is gone")
            })
        })
        .collect();
    for task in tasks {
        let (key, acknowledged, tried) = task.await.unwrap();
        let before = expected.get(&key).map_or(0, |(acknowledged, _)| *acknowledged);
        expected.insert(key, (acknowledged.unwrap_or(before), tried));
    }
}

/// What broke the promise, if anything did.
async fn broken(store: &Embedded, expected: &mut Expected) -> Option<String> {
    let acme = VerifiedTenant::for_tests("acme");
    for (key, (acknowledged, tried)) in expected.iter_mut() {
        let found = store.read(&acme, &name(&acme, &format!("t_{key}"))).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        // What was under way before the last loss may have been lost with it: then the one before stands.
        let candidates = [*acknowledged, *tried];
        let fits = |n: &&u64| match &found {
            None => n.is_multiple_of(5),
            Some(entry) => !n.is_multiple_of(5) && entry.value == value(*key, **n),
        };
        match candidates.iter().find(fits) {
            Some(n) => (*acknowledged, *tried) = (*n, (*tried).max(*n)),
            None => return Some(format!("t_{key} holds none of {candidates:?}")),
        }
    }
    disagreement(store).err()
}

/// Values, history and change log tell one story.
fn disagreement(store: &Embedded) -> Result<(), String> {
    let read = |error: redb::Error| error.to_string();
    let database = store.store.database().ok_or("it is not open")?;
    let transaction = database.begin_read().map_err(|error| read(error.into()))?;
    let values = transaction.open_table(VALUES).map_err(|error| read(error.into()))?;
    let history = transaction.open_table(HISTORY).map_err(|error| read(error.into()))?;
    let changes = transaction.open_table(CHANGES).map_err(|error| read(error.into()))?;
    let mut newest: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    for item in history.iter().map_err(|error| read(error.into()))? {
        let (place, bytes) = item.map_err(|error| read(error.into()))?;
        let (path, place) = place.value();
        newest.insert(path.to_owned(), (place, bytes.value().to_vec()));
    }
    let mut logged: BTreeMap<String, String> = BTreeMap::new();
    for item in changes.iter().map_err(|error| read(error.into()))? {
        let (_, change) = item.map_err(|error| read(error.into()))?;
        let (path, etag) = change.value();
        logged.insert(path.to_owned(), etag.to_owned());
    }
    for (path, (_, bytes)) in &newest {
        let record = Record::read(bytes).map_err(|error| error.to_string())?;
        let standing = values.get(path.as_str()).map_err(|error| read(error.into()))?;
        let agrees = match (&standing, record.deleted) {
            (None, deleted) => deleted,
            (Some(standing), deleted) => !deleted && standing.value() == bytes.as_slice(),
        };
        if !agrees || logged.get(path) != Some(&record.etag().to_string()) {
            return Err(format!("{path}: value, history and log disagree"));
        }
    }
    Ok(())
}

/// Loses power `rounds` times over one disk, each time somewhere else. What broke the promise, if anything did.
async fn lose_power(seed: u64, rounds: usize, lies: bool) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    // A new store gets its name when it is whole, so that there is none to be found half made.
    let mut image = formatted().image(&mut random);
    let mut expected = Expected::new();
    for round in 0..rounds {
        // Also while it is being opened, which repairs what the last loss left behind.
        let power = Power::on(image, Some(random.usize(0..600)));
        power.0.lock().unwrap().lies = lies;
        if let Ok(store) = open(&power) {
            write_until_the_power_goes(store, &mut expected).await;
        }
        image = power.image(&mut random);
        let store = match open(&Power::on(image.clone(), None)) {
            Ok(store) => store,
            Err(error) => return Some(format!("round {round}: {error}")),
        };
        if let Some(broken) = broken(&store, &mut expected).await {
            return Some(format!("round {round}: {broken}"));
        }
    }
    let acknowledged: u64 = expected.values().map(|(acknowledged, _)| acknowledged).sum();
    println!("seed {seed}: {rounds} losses, {acknowledged} changes stand");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_none_is_torn() {
    for seed in [1, 2, fastrand::u64(..)] {
        assert_eq!(lose_power(seed, 60, false).await, None, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_lies_about_its_syncs_is_noticed() {
    let mut noticed = false;
    for seed in 0..10 {
        noticed |= lose_power(seed, 20, true).await.is_some();
    }
    assert!(noticed, "the validator sees what is lost");
}

fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

#[tokio::test]
async fn a_disk_without_room_is_an_error_to_the_writer_and_reads_go_on() {
    let power = formatted();
    let store = open(&power).unwrap();
    let acme = VerifiedTenant::for_tests("acme");
    let name = name(&acme, "t_a");
    let write = |value: &str| store.write(&acme, &name, entry(value), Conditions::default());
    write("before").await.unwrap();

    power.0.lock().unwrap().free = Some(100_000);
    for _ in 0..3 {
        let refused = write("too much").await;
        assert!(
            matches!(refused, Err(WriteError::Backend(BackendError::Full))),
            "{refused:?}"
        );
        let deleted = store.delete(&acme, &name, false, Conditions::default()).await;
        assert!(matches!(deleted, Err(WriteError::Backend(BackendError::Full))));
        assert_eq!(store.read(&acme, &name).await.unwrap().unwrap().value, "before");
    }

    power.0.lock().unwrap().free = Some(100_000_000);
    write("after").await.unwrap();
    assert_eq!(store.read(&acme, &name).await.unwrap().unwrap().value, "after");
    assert_eq!(disagreement(&store), Ok(()));
}

/// Whoever writes little has the room that there is, whatever others write at the same moment.
#[tokio::test]
async fn large_writes_for_which_there_is_no_room_fail_no_small_one() {
    let power = formatted();
    let store = open(&power).unwrap();
    power.0.lock().unwrap().free = Some(600_000);
    let large = "x".repeat(1 << 20);
    let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let writes = (0..50).flat_map(|key| {
        let key = format!("t_{key}");
        [(&acme, large.as_str()), (&globex, "small")].map(|(tenant, value)| {
            let name = name(tenant, &key);
            let store = &store;
            async move { store.write(tenant, &name, entry(value), Conditions::default()).await }
        })
    });
    for (number, written) in futures_util::future::join_all(writes).await.into_iter().enumerate() {
        let is_full = matches!(written, Err(WriteError::Backend(BackendError::Full)));
        assert_eq!((is_full, written.is_ok()), (number % 2 == 0, number % 2 == 1));
    }
}

#[tokio::test]
async fn a_disk_that_fails_is_opened_again_and_nothing_acknowledged_is_lost() {
    let power = formatted();
    let store = open(&power).unwrap();
    let acme = VerifiedTenant::for_tests("acme");
    let name = name(&acme, "t_a");
    let write = |value: &str| store.write(&acme, &name, entry(value), Conditions::default());
    write("before").await.unwrap();

    // Somebody else took the room that there was.
    power.0.lock().unwrap().full = true;
    assert!(matches!(
        write("lost").await,
        Err(WriteError::Backend(BackendError::Away(_)))
    ));
    let read = async || loop {
        match store.read(&acme, &name).await {
            Err(BackendError::Away(_)) => tokio::task::yield_now().await,
            other => return other,
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), read()).await;
    assert_eq!(found.unwrap().unwrap().unwrap().value, "before", "while it is full");

    power.0.lock().unwrap().full = false;
    let mended = async {
        while write("after").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), mended).await.unwrap();
    assert_eq!(store.read(&acme, &name).await.unwrap().unwrap().value, "after");
    assert_eq!(disagreement(&store), Ok(()));
}
