//! Every format that was ever released opens, and one that was not is left alone.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::cell::RefCell;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use redb::ReadableTable as _;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::backend::embedded::tests::{entry, name, open};
use crate::backend::embedded::{Embedded, check};
use crate::backend::{Backend as _, Conditions, Once};
use crate::clock::Clock;
use crate::identity::VerifiedTenant;

/// When the fixtures were written, in seconds since the epoch.
const WRITTEN: u64 = 1_795_000_000;

fn fixture(format: u64) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/backend/embedded/formats/{format}.redb"))
}

fn once() -> Conditions {
    Conditions {
        once: Some(Once {
            id: Uuid::from_u128(7),
            digest: [7; 32],
        }),
        ..Conditions::default()
    }
}

/// What each fixture holds: keys of two tenants, one that changed, one that was deleted, and one that was written by a request with an
/// id.
async fn write_fixture(store: &Embedded) {
    for tenant in ["acme", "globex"] {
        let tenant = VerifiedTenant::for_tests(tenant);
        for (key, values) in [("t_a", vec!["1", "2", "3"]), ("t_b/c", vec!["x"])] {
            for value in values {
                let name = name(&tenant, key);
                store
                    .write(&tenant, &name, entry(value), Conditions::default())
                    .await
                    .unwrap();
            }
        }
        store
            .delete(&tenant, &name(&tenant, "t_b/c"), false, Conditions::default())
            .await
            .unwrap();
        store
            .write(&tenant, &name(&tenant, "t_once"), entry("once"), once())
            .await
            .unwrap();
    }
}

async fn holds_what_was_written(store: &Embedded, clock: &Clock) {
    for tenant in ["acme", "globex"] {
        let tenant = VerifiedTenant::for_tests(tenant);
        let a = store.read(&tenant, &name(&tenant, "t_a")).await.unwrap().unwrap();
        assert_eq!((&*a.value, a.etag.version), (b"3".as_slice(), 3));
        let second = store
            .read_version(&tenant, &name(&tenant, "t_a"), 2)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((&*second.value, second.etag.life), (b"2".as_slice(), a.etag.life));
        assert!(store.read(&tenant, &name(&tenant, "t_b/c")).await.unwrap().is_none());
        let deleted = store
            .history(&tenant, &name(&tenant, "t_b/c"), "", 10, 1000)
            .await
            .unwrap();
        assert_eq!(deleted.entries.len(), 1);
        // A retry of the very request is answered as then, and does nothing.
        let once_written = store.read(&tenant, &name(&tenant, "t_once")).await.unwrap().unwrap();
        clock.set(WRITTEN + 60);
        let again = store
            .write(&tenant, &name(&tenant, "t_once"), entry("once"), once())
            .await
            .unwrap();
        assert_eq!(again.etag, once_written.etag);
        let next = store
            .write(&tenant, &name(&tenant, "t_a"), entry("4"), Conditions::default())
            .await
            .unwrap();
        assert_eq!((next.etag.life, next.etag.version), (a.etag.life, 4));
    }
}

/// A new format needs its file: `TAGWAY_WRITE_FIXTURE=1 cargo test --package tagway every_released_format` writes it, once.
#[tokio::test]
async fn every_released_format_opens_and_holds_what_was_written() {
    let newest = fixture(FORMAT);
    if env::var_os("TAGWAY_WRITE_FIXTURE").is_some() && !newest.exists() {
        let store = Embedded::open(&newest, 10, Clock::standing_at(WRITTEN)).unwrap();
        write_fixture(&store).await;
    }
    for format in 1..=FORMAT {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store.redb");
        fs::copy(fixture(format), &path).unwrap();
        let contents = check(&path).unwrap();
        assert_eq!((contents.keys, contents.versions), (4, 12), "format {format}");
        let clock = Clock::standing_at(WRITTEN);
        let store = open(&folder, 10, &clock);
        holds_what_was_written(&store, &clock).await;
        let kept = folder.path().join(format!("store.redb.format-{format}"));
        assert_eq!(
            kept.exists(),
            format < FORMAT,
            "what was brought to a newer format is kept as it was"
        );
    }
}

const NEW: TableDefinition<'_, &str, u64> = TableDefinition::new("new");

fn two_more(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(NEW)?.insert("two", 2)?;
    Ok(())
}

fn doubles_it(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut new = transaction.open_table(NEW)?;
    let two = new.get("two")?.map_or(0, |two| two.value());
    new.insert("two", 2 * two)?;
    Ok(())
}

fn fails(_: &WriteTransaction) -> Result<(), redb::Error> {
    Err(redb::Error::Corrupted("half-way".to_owned()))
}

fn a_store(folder: &TempDir) -> Database {
    let database = Database::create(folder.path().join("store.redb")).unwrap();
    begin(&database).unwrap();
    database
}

fn new(database: &Database) -> Option<u64> {
    let transaction = database.begin_read().unwrap();
    Some(transaction.open_table(NEW).ok()?.get("two").unwrap()?.value())
}

#[test]
fn steps_are_taken_in_order_from_where_a_file_is_and_once() {
    let folder = TempDir::new().unwrap();
    let database = a_store(&folder);
    let kept = RefCell::new(Vec::new());
    let keep = |format| {
        kept.borrow_mut().push(format);
        Ok(())
    };
    upgrade_by(&[two_more], &database, keep).unwrap();
    assert_eq!((new(&database), of(&database).unwrap()), (Some(2), 2));
    upgrade_by(&[two_more, doubles_it], &database, keep).unwrap();
    upgrade_by(&[two_more, doubles_it], &database, keep).unwrap();
    assert_eq!((new(&database), of(&database).unwrap()), (Some(4), 3));
    assert_eq!(*kept.borrow(), [1, 2]);
}

#[test]
fn a_file_that_cannot_be_brought_all_the_way_or_kept_before_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let database = a_store(&folder);
    upgrade_by(&[two_more, fails], &database, |_| Ok(())).unwrap_err();
    assert_eq!((new(&database), of(&database).unwrap()), (None, 1));
    upgrade_by(&[two_more], &database, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
    assert_eq!((new(&database), of(&database).unwrap()), (None, 1));
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    for unknown in [0, FORMAT + 1, u64::MAX] {
        let path = folder.path().join("store.redb");
        drop(open(&folder, 10, &Clock::system()));
        {
            let database = Database::open(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction
                .open_table(META)
                .unwrap()
                .insert(FORMAT_KEY, unknown)
                .unwrap();
            transaction.commit().unwrap();
        }
        let before = fs::read(&path).unwrap();
        assert!(matches!(check(&path), Err(OpenError::Format(found)) if found == unknown));
        assert_eq!(fs::read(&path).unwrap(), before);
        for _ in 0..2 {
            let error = Embedded::open(&path, 10, Clock::system()).err().unwrap();
            assert!(matches!(error, OpenError::Format(found) if found == unknown), "{error}");
        }
        fs::remove_file(&path).unwrap();
    }
}
