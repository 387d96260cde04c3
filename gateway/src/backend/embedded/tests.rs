#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeMap;

use redb::ReadableTable as _;
use tempfile::TempDir;

use super::*;
use crate::backend::{Once, Precondition, conformance};

/// A name that the second wall made.
pub(super) fn name(tenant: &VerifiedTenant, key: &str) -> PhysicalName {
    let [own, _] = conformance::names(tenant, "ns", key);
    own
}

pub(super) fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

pub(super) fn open(folder: &TempDir, history: u32, clock: &Clock) -> Embedded {
    Embedded::open(&folder.path().join("store.redb"), history, clock.clone()).unwrap()
}

#[tokio::test]
async fn it_keeps_every_promise_of_a_store() {
    let folder = TempDir::new().unwrap();
    conformance::keeps_every_promise(Arc::new(open(&folder, 100, &Clock::system()))).await;
}

#[tokio::test]
async fn lives_follow_each_other_also_where_the_clock_goes_back() {
    let folder = TempDir::new().unwrap();
    let clock = Clock::standing_at(2_000_000);
    let store = open(&folder, 100, &clock);
    let acme = VerifiedTenant::for_tests("acme");
    let name = name(&acme, "t_a");
    let mut last = None;
    for time in [2_000_000, 2_000_000, 1_000_000, 1_500_000, 3_000_000] {
        clock.set(time);
        let etag = store
            .write(&acme, &name, entry("x"), Conditions::default())
            .await
            .unwrap()
            .etag;
        assert_eq!(etag.version, 1);
        assert!(last < Some(etag.life), "{time}");
        last = Some(etag.life);
        let deleted = store.delete(&acme, &name, false, Conditions::default()).await;
        assert!(deleted.unwrap().something());
    }
}

#[tokio::test]
async fn history_and_the_log_of_changes_agree_with_what_stands() {
    let folder = TempDir::new().unwrap();
    let acme = VerifiedTenant::for_tests("acme");
    let keys = ["t_a", "t_b", "t_c"];
    let mut random = fastrand::Rng::with_seed(3);
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    {
        let store = open(&folder, 5, &Clock::system());
        for step in 0..200 {
            let key = keys[random.usize(0..3)];
            let name = name(&acme, key);
            let states = expected.entry(name.to_string()).or_default();
            if random.u8(0..4) > 0 {
                let written = store
                    .write(&acme, &name, entry(&step.to_string()), Conditions::default())
                    .await
                    .unwrap();
                states.push(written.etag.to_string());
            } else if store
                .delete(&acme, &name, false, Conditions::default())
                .await
                .unwrap()
                .something()
            {
                states.push("deleted".to_owned());
            }
        }
    }
    let database = Database::open(folder.path().join("store.redb")).unwrap();
    let transaction = database.begin_read().unwrap();
    let (values, history) = (
        transaction.open_table(VALUES).unwrap(),
        transaction.open_table(HISTORY).unwrap(),
    );
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for change in transaction.open_table(CHANGES).unwrap().iter().unwrap() {
        let (path, etag) = change.as_ref().unwrap().1.value();
        changes.entry(path.to_owned()).or_default().push(etag.to_owned());
    }
    for (path, states) in expected {
        let kept: Vec<String> = history
            .range((path.as_str(), 0)..=(path.as_str(), u64::MAX))
            .unwrap()
            .map(|item| {
                let (place, bytes) = item.unwrap();
                let record = Record::read(bytes.value()).unwrap();
                assert_eq!(record.place, place.value().1);
                if record.deleted {
                    "deleted".to_owned()
                } else {
                    record.etag().to_string()
                }
            })
            .collect();
        assert_eq!(kept, states[states.len() - kept.len()..], "{path}");
        assert_eq!(kept.len(), states.len().min(5));
        let log = &changes[&path];
        assert_eq!(log.len(), states.len());
        for (logged, state) in log.iter().zip(&states) {
            assert!(logged == state || state == "deleted");
        }
        let standing = values
            .get(path.as_str())
            .unwrap()
            .map(|bytes| Record::read(bytes.value()).unwrap().etag());
        let last = states.last().filter(|state| *state != "deleted");
        assert_eq!(standing.map(|etag| etag.to_string()).as_ref(), last);
    }
}

#[tokio::test]
async fn a_group_shares_one_transaction_and_each_change_has_its_own_answer() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(open(&folder, 10, &Clock::system()));
    let acme = VerifiedTenant::for_tests("acme");
    let first = store
        .write(&acme, &name(&acme, "t_0"), entry("x"), Conditions::default())
        .await
        .unwrap()
        .etag;
    // Polled together they queue together; of those with the same etag one wins, and the others fail alone.
    let writes: Vec<_> = (0..100)
        .map(|i| {
            let (store, acme) = (Arc::clone(&store), acme.clone());
            tokio::spawn(async move {
                let (key, precondition) = match i % 2 {
                    0 => ("t_0".to_owned(), Precondition::Match(first)),
                    _ => (format!("t_{i}"), Precondition::Absent),
                };
                let conditions = Conditions {
                    precondition,
                    once: None,
                };
                store.write(&acme, &name(&acme, &key), entry("y"), conditions).await
            })
        })
        .collect();
    let mut won = 0;
    let mut refused = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(_) => won += 1,
            Err(WriteError::PreconditionFailed) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((won, refused), (51, 49));
}

#[test]
fn a_file_that_is_no_store_is_not_made_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.redb");
    std::fs::write(&path, b"").unwrap();
    assert!(Embedded::open(&path, 10, Clock::system()).is_err());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    std::fs::remove_file(&path).unwrap();
    drop(Database::create(&path).unwrap());
    let error = Embedded::open(&path, 10, Clock::system()).err().unwrap();
    assert!(matches!(error, OpenError::Database(_)), "{error}");
}

#[test]
fn the_file_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("new/store.redb");
    drop(Embedded::open(&path, 10, Clock::system()).unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
}

fn once(id: u128, digest: u8) -> Conditions {
    Conditions {
        precondition: Precondition::None,
        once: Some(Once {
            id: uuid::Uuid::from_u128(id),
            digest: [digest; 32],
        }),
    }
}

#[tokio::test]
async fn a_request_is_remembered_for_ten_minutes_also_over_a_restart() {
    let folder = TempDir::new().unwrap();
    let clock = Clock::standing_at(1_000_000);
    let acme = VerifiedTenant::for_tests("acme");
    let name = name(&acme, "t_a");
    let store = open(&folder, 10, &clock);
    let first = store.write(&acme, &name, entry("x"), once(1, 1)).await.unwrap();
    let later = store.write(&acme, &name, entry("later"), Conditions::default()).await;
    let later = later.unwrap();
    drop(store);

    let store = open(&folder, 10, &clock);
    clock.set(1_000_599);
    assert_eq!(store.write(&acme, &name, entry("x"), once(1, 1)).await.unwrap(), first);
    assert_eq!(store.read(&acme, &name).await.unwrap().unwrap().etag, later.etag);
    clock.set(1_000_600);
    let again = store.write(&acme, &name, entry("x"), once(1, 1)).await.unwrap();
    assert_eq!(again.etag.version, later.etag.version + 1);
    // What is not remembered any more is not kept either.
    let database = store.store.database().unwrap();
    let kept = database.begin_read().unwrap().open_table(REQUESTS).unwrap();
    assert_eq!(kept.iter().unwrap().count(), 1);
}
