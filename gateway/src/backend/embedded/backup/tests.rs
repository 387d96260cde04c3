//! Promises of a backup: it is one moment, whole or not there, and hinders nobody.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use crate::backend::embedded::tests::{entry, name, open};
use crate::backend::embedded::{Backups, NoBackup, check};
use crate::backend::{Backend as _, Conditions};
use crate::clock::Clock;
use crate::identity::VerifiedTenant;

fn files(folder: &PrivateFolder) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn value(store: &Embedded, tenant: &VerifiedTenant, key: &str) -> Option<u64> {
    let entry = store.read(tenant, &name(tenant, key)).await.unwrap()?;
    Some(std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
}

/// A writer counts in one key, then in another; so at every moment the first is as far as the second, or one further.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_one_moment_while_writers_go_on() {
    let folder = TempDir::new().unwrap();
    let backups = PrivateFolder::open(&folder.path().join("backups")).unwrap();
    let store = Arc::new(open(&folder, 5, &Clock::system()));
    let acme = VerifiedTenant::for_tests("acme");
    for number in 0..2000 {
        let name = name(&acme, &format!("t_bulk/{number}"));
        store
            .write(&acme, &name, entry("x"), Conditions::default())
            .await
            .unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let writer = {
        let (store, stop, acme) = (Arc::clone(&store), Arc::clone(&stop), acme.clone());
        tokio::spawn(async move {
            let (mut count, mut begun) = (0_u64, Some(begun));
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                for key in ["t_a", "t_z"] {
                    let name = name(&acme, key);
                    store
                        .write(&acme, &name, entry(&count.to_string()), Conditions::default())
                        .await
                        .unwrap();
                }
                begun.take().map(|begun| begun.send(()));
            }
            count
        })
    };
    has_begun.await.unwrap();
    let acknowledged = value(&store, &acme, "t_z").await.unwrap();
    let contents = {
        let (store, backups) = (Arc::clone(&store), backups.clone());
        let made = tokio::task::spawn_blocking(move || store.back_up(&backups, "b.redb", |_| true));
        made.await.unwrap().unwrap()
    };
    stop.store(true, Ordering::Relaxed);
    let last = writer.await.unwrap();
    assert!(last > acknowledged, "the writer went on");
    assert_eq!(contents, check(&backups.path().join("b.redb")).unwrap());
    assert_eq!(contents.keys, 2002);
    let copy = Embedded::open(&backups.path().join("b.redb"), 5, Clock::system()).unwrap();
    let (a, z) = (
        value(&copy, &acme, "t_a").await.unwrap(),
        value(&copy, &acme, "t_z").await.unwrap(),
    );
    assert!(
        z >= acknowledged,
        "what was acknowledged before is in it: {z} of {acknowledged}"
    );
    assert!(a == z || a == z + 1, "one moment: {a} and {z}");
}

#[tokio::test]
async fn one_that_nobody_waits_for_leaves_nothing_and_others_stay() {
    let folder = TempDir::new().unwrap();
    let backups = PrivateFolder::open(&folder.path().join("backups")).unwrap();
    let store = open(&folder, 5, &Clock::system());
    let acme = VerifiedTenant::for_tests("acme");
    for number in 0..1000 {
        let name = name(&acme, &format!("t_{number}"));
        store
            .write(&acme, &name, entry("x"), Conditions::default())
            .await
            .unwrap();
    }
    let asked = Cell::new(0);
    let left = store.back_up(&backups, "b.redb", |_| {
        asked.set(asked.get() + 1);
        asked.get() < 3
    });
    assert!(matches!(left, Err(BackupError::Left)), "{left:?}");
    assert_eq!(files(&backups), [""; 0]);
    fs::write(backups.path().join("yesterday.redb"), b"another's").unwrap();
    store.back_up(&backups, "b.redb", |_| true).unwrap();
    let mut left = files(&backups);
    left.sort();
    assert_eq!(left, ["b.redb", "yesterday.redb"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_no_backup() {
    let folder = TempDir::new().unwrap();
    let backups = PrivateFolder::open(&folder.path().join("backups")).unwrap();
    let store = open(&folder, 5, &Clock::system());
    let database = store.store.database().unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(VALUES)
        .unwrap()
        .insert("tenant/acme/x", b"\xff".as_slice())
        .unwrap();
    transaction.commit().unwrap();
    let made = store.back_up(&backups, "b.redb", |_| true);
    assert!(
        matches!(made, Err(BackupError::Store(BackendError::Damaged(_)))),
        "{made:?}"
    );
    assert_eq!(files(&backups), [""; 0]);
}

#[test]
fn which_store_where_to_and_one_at_a_time() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(open(&folder, 5, &Clock::system()));
    let mut backups = Backups::new(Clock::standing_at(1_795_000_000));
    let begin = |backups: &Backups, id| backups.begin(id).err().map(|problem| problem.to_string());
    assert_eq!(begin(&backups, "").unwrap(), "there are 0 embedded stores: say which");
    backups.add("a", &store, Some(&folder.path().join("backups")));
    assert_eq!(begin(&backups, "b").unwrap(), "no embedded store has the id `b`");
    let first = backups.begin("").unwrap();
    assert!(matches!(backups.begin("a"), Err(NoBackup::UnderWay)));
    let (_, file) = first.make(|_| true).unwrap();
    assert!(file.ends_with("backups/a-2026-11-18T110640.000Z.redb"), "{file:?}");
    assert!(backups.begin("a").is_ok());
    backups.add("b", &store, None);
    assert_eq!(begin(&backups, "").unwrap(), "there are 2 embedded stores: say which");
    assert_eq!(begin(&backups, "b").unwrap(), "backends.b.backups names no folder");
    backups.add("c", &store, Some(&folder.path().join("backups")));
    let _under_way = backups.begin("a").unwrap();
    assert!(
        matches!(backups.begin("c"), Err(NoBackup::UnderWay)),
        "the two share a folder"
    );
}
