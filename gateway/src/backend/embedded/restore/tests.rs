//! Promises of a restored store: it holds what the backup held, no state of it was ever given the etag of another, and a backup that is
//! damaged is noticed.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::embedded::tests::{entry, name, open};
use crate::backend::{Backend as _, Conditions, Precondition};
use crate::clock::Clock;
use crate::folder::PrivateFolder;
use crate::identity::VerifiedTenant;
use crate::key::Etag;

const NOW: u64 = 1_795_000_000;

/// A store with a few keys, and a backup of it.
struct World {
    folder: TempDir,
    store: Embedded,
    backup: PathBuf,
}

async fn world() -> World {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, 5, &Clock::standing_at(NOW));
    let acme = VerifiedTenant::for_tests("acme");
    for key in ["t_a", "t_b", "t_gone"] {
        put(&store, &acme, key, "1").await;
        put(&store, &acme, key, "2").await;
    }
    store
        .delete(&acme, &name(&acme, "t_gone"), false, Conditions::default())
        .await
        .unwrap();
    let backups = PrivateFolder::open(&folder.path().join("backups")).unwrap();
    store.back_up(&backups, "b.redb", |_| true).unwrap();
    let backup = backups.path().join("b.redb");
    World { folder, store, backup }
}

async fn put(store: &Embedded, tenant: &VerifiedTenant, key: &str, value: &str) -> Etag {
    let written = store
        .write(tenant, &name(tenant, key), entry(value), Conditions::default())
        .await;
    written.unwrap().etag
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

#[tokio::test]
async fn it_holds_what_the_backup_held_and_no_etag_that_was_ever_given() {
    let World { folder, store, backup } = world().await;
    let acme = VerifiedTenant::for_tests("acme");
    let mut given = BTreeSet::new();
    for key in ["t_a", "t_b"] {
        given.insert(store.read(&acme, &name(&acme, key)).await.unwrap().unwrap().etag);
    }
    // What is lost.
    for key in ["t_a", "t_b", "t_gone", "t_new"] {
        for value in ["lost", "lost too"] {
            given.insert(put(&store, &acme, key, value).await);
        }
    }
    drop(store);
    let to = folder.path().join("store.redb");
    let restored = restore(&backup, &to, 5, now(), true).unwrap();
    assert_eq!((restored.contents.keys, restored.contents.versions), (2, 7));
    // With the very clock of what is lost.
    let store = Embedded::open(&to, 5, Clock::standing_at(NOW)).unwrap();
    for key in ["t_a", "t_b"] {
        let stands = store.read(&acme, &name(&acme, key)).await.unwrap().unwrap();
        assert_eq!(&*stands.value, b"2");
        assert!(given.insert(stands.etag), "{key}: {}", stands.etag);
        let newest = given.iter().filter(|etag| etag.life < stands.etag.life).count();
        assert!(newest > 0, "a floor of what is lost lies below it");
        let history = store.history(&acme, &name(&acme, key), "", 10, 1000).await.unwrap();
        let values: Vec<&[u8]> = history.entries.iter().map(|entry| &*entry.value).collect();
        assert_eq!(values, [b"2".as_slice(), b"2", b"1"]);
        let first = store.read_version(&acme, &name(&acme, key), 2).await.unwrap().unwrap();
        assert_eq!(&*first.value, b"2");
    }
    assert!(store.read(&acme, &name(&acme, "t_new")).await.unwrap().is_none());
    assert!(store.read(&acme, &name(&acme, "t_gone")).await.unwrap().is_none());
    for key in ["t_a", "t_b", "t_gone", "t_new"] {
        let etag = put(&store, &acme, key, "after").await;
        assert!(given.insert(etag), "{key}: {etag}");
    }
    // Who holds what is lost cannot write over what stands.
    for etag in given.iter().filter(|etag| etag.version == 2) {
        let conditions = Conditions {
            precondition: Precondition::Match(*etag),
            ..Conditions::default()
        };
        let written = store.write(&acme, &name(&acme, "t_new"), entry("x"), conditions).await;
        assert!(written.is_err());
    }
}

#[tokio::test]
async fn what_is_replaced_is_kept_and_only_if_somebody_says_so() {
    let World { folder, store, backup } = world().await;
    let to = folder.path().join("store.redb");
    assert!(matches!(
        restore(&backup, &to, 5, now(), false),
        Err(RestoreError::Exists(_))
    ));
    assert!(matches!(
        restore(&backup, &to, 5, now(), true),
        Err(RestoreError::InUse(_))
    ));
    let before = std::fs::read(&to).unwrap();
    drop(store);
    let closed = std::fs::read(&to).unwrap();
    assert_eq!(before.len(), closed.len());
    let restored = restore(&backup, &to, 5, now(), true).unwrap();
    let kept = restored.replaced.unwrap();
    assert_eq!(std::fs::read(&kept).unwrap(), closed);
    assert_ne!(std::fs::read(&to).unwrap(), closed);
    let mode = std::fs::metadata(&to).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A damaged store is what a backup is for.
    std::fs::write(&to, b"damaged").unwrap();
    let later = now() + Duration::from_secs(1);
    restore(&backup, &to, 5, later, true).unwrap();
    check(&to).unwrap();
    // Where there is none, nobody has to say anything. What one left that was killed a while ago goes, and takes no room for ever.
    std::fs::remove_file(&to).unwrap();
    let killed = folder.path().join(".store.redb.restoring-abc");
    let file = std::fs::File::create(&killed).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - Duration::from_hours(1)).unwrap();
    let restored = restore(&backup, &to, 5, later, false).unwrap();
    assert_eq!(restored.replaced, None);
    check(&to).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        left.len(),
        4,
        "the store, its backups, and two that were replaced: {left:?}"
    );
}

#[tokio::test]
async fn whatever_byte_of_a_backup_is_damaged_it_is_noticed_or_does_not_matter() {
    let world = world().await;
    let whole = std::fs::read(&world.backup).unwrap();
    let contents = check(&world.backup).unwrap();
    assert_eq!(std::fs::read(&world.backup).unwrap(), whole, "to look is not to touch");
    let folder = TempDir::new().unwrap();
    let damaged = folder.path().join("damaged.redb");
    let mut random = fastrand::Rng::with_seed(11);
    let (mut noticed, mut of) = (0, 0);
    // Where something lies, as far as that can be told.
    let full: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for _ in 0..300 {
        let mut bytes = whole.clone();
        bytes[full[random.usize(..full.len())]] ^= 1 << random.u32(0..8);
        std::fs::write(&damaged, &bytes).unwrap();
        of += 1;
        match check(&damaged) {
            Err(error) => {
                assert!(
                    matches!(error, OpenError::Database(_) | OpenError::Format(_)),
                    "{error}"
                );
                noticed += 1;
            }
            Ok(found) => {
                assert_eq!(found, contents);
                let to = folder.path().join("restored.redb");
                restore(&damaged, &to, 5, now(), false).unwrap();
                let store = Embedded::open(&to, 5, Clock::system()).unwrap();
                let acme = VerifiedTenant::for_tests("acme");
                for key in ["t_a", "t_b"] {
                    assert_eq!(
                        &*store.read(&acme, &name(&acme, key)).await.unwrap().unwrap().value,
                        b"2"
                    );
                }
                drop(store);
                std::fs::remove_file(&to).unwrap();
            }
        }
    }
    assert!(noticed > of / 4, "{noticed} of {of}");
    for length in [0, 1, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&damaged, &whole[..length]).unwrap();
        assert!(check(&damaged).is_err(), "{length} bytes of {}", whole.len());
    }
}

#[tokio::test]
async fn a_store_whose_tables_disagree_is_no_good() {
    use crate::backend::embedded::{HISTORY, VALUES};

    type Damage = fn(&redb::WriteTransaction);
    let damages: [(&str, Damage); 3] = [
        ("lost", |transaction| {
            let mut values = transaction.open_table(VALUES).unwrap();
            let first = values.first().unwrap().unwrap().0.value().to_owned();
            values.remove(first.as_str()).unwrap();
        }),
        ("without history", |transaction| {
            let mut values = transaction.open_table(VALUES).unwrap();
            let record = values.first().unwrap().unwrap().1.value().to_owned();
            values.insert("tenant/acme/made-up", record.as_slice()).unwrap();
        }),
        ("older", |transaction| {
            let mut history = transaction.open_table(HISTORY).unwrap();
            let first = history.first().unwrap().unwrap();
            let (path, place) = first.0.value();
            let (path, newest) = (path.to_owned(), place + 1);
            drop(first);
            history.remove((path.as_str(), newest)).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let world = world().await;
        {
            let database = Database::open(&world.backup).unwrap();
            let transaction = database.begin_write().unwrap();
            damage(&transaction);
            transaction.commit().unwrap();
        }
        let error = check(&world.backup).unwrap_err().to_string();
        assert!(error.contains("its tables disagree"), "{what}: {error}");
    }
}
