#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeMap;

use redb::ReadableTable as _;
use tempfile::TempDir;

use super::*;
use crate::backend::{Once, Precondition};
use crate::placement::Grants;
use crate::wit;

/// A name that the second wall made.
pub(super) fn name(tenant: &VerifiedTenant, key: &str) -> PhysicalName {
    let grants = Grants {
        backends: ["local".into()].into(),
        shared: false,
    };
    let tags = crate::key::Tags::new(["t_".parse().unwrap()]);
    let home = wit::Placement {
        backend: "local".to_owned(),
        scope: wit::Scope::Tenant,
        namespace: "ns".to_owned(),
        cache: None,
        options: Vec::new(),
    };
    let decision = wit::Decision {
        home,
        former: Vec::new(),
        defaults: Vec::new(),
        reason: None,
    };
    grants
        .place(tenant, &tags.parse(key).unwrap(), &decision)
        .unwrap()
        .home
        .name
}

fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
    }
}

fn open(folder: &TempDir, history: u32, clock: &Clock) -> Embedded {
    Embedded::open(&folder.path().join("store.redb"), history, clock.clone()).unwrap()
}

#[tokio::test]
async fn with_the_placement_check_out_of_the_way_the_store_still_refuses_another_tenants_name() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, 10, &Clock::system());
    let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let theirs = name(&globex, "t_a");
    store
        .write(&globex, &theirs, entry("secret"), Conditions::default())
        .await
        .unwrap();

    let foreign = |result: Result<(), BackendError>| matches!(result, Err(BackendError::Foreign));
    assert!(foreign(store.read(&acme, &theirs).await.map(drop)));
    assert!(foreign(store.read_version(&acme, &theirs, 1).await.map(drop)));
    let page = PageRequest {
        range: theirs.range(),
        prefix: "",
        after: "",
        entries: 10,
        bytes: 1 << 20,
        keys_only: true,
    };
    assert!(foreign(store.list(&acme, page).await.map(drop)));
    let written = store.write(&acme, &theirs, entry("mine"), Conditions::default()).await;
    assert!(matches!(written, Err(WriteError::Backend(BackendError::Foreign))));
    let deleted = store.delete(&acme, &theirs, false, Conditions::default()).await;
    assert!(matches!(deleted, Err(WriteError::Backend(BackendError::Foreign))));
    assert_eq!(store.read(&globex, &theirs).await.unwrap().unwrap().value, "secret");
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
        assert!(store.delete(&acme, &name, false, Conditions::default()).await.unwrap());
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
            } else if store.delete(&acme, &name, false, Conditions::default()).await.unwrap() {
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
fn a_store_of_another_format_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.redb");
    drop(open(&folder, 10, &Clock::system()));
    {
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(FORMAT_KEY, 2).unwrap();
        transaction.commit().unwrap();
    }
    let error = Embedded::open(&path, 10, Clock::system()).err().unwrap();
    assert!(matches!(error, OpenError::Format(2)), "{error}");
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
async fn a_request_is_done_once_for_ten_minutes_and_remembered_over_a_restart() {
    let folder = TempDir::new().unwrap();
    let clock = Clock::standing_at(1_000_000);
    let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let (mine, theirs) = (name(&acme, "t_a"), name(&globex, "t_a"));
    let store = open(&folder, 10, &clock);
    let first = store.write(&acme, &mine, entry("x"), once(1, 1)).await.unwrap();
    assert_eq!(store.write(&acme, &mine, entry("x"), once(1, 1)).await.unwrap(), first);
    let another = store.write(&acme, &mine, entry("y"), once(1, 2)).await;
    assert!(matches!(another, Err(WriteError::RequestReused)));
    let another = store.delete(&acme, &mine, false, once(1, 3)).await;
    assert!(matches!(another, Err(WriteError::RequestReused)));
    // Another tenant's request of the same id is another request.
    assert_eq!(
        store
            .write(&globex, &theirs, entry("z"), once(1, 2))
            .await
            .unwrap()
            .etag
            .version,
        1
    );
    // A delete that found nothing is done as well: it does not strike what comes later.
    store.delete(&acme, &mine, false, Conditions::default()).await.unwrap();
    assert!(!store.delete(&acme, &mine, false, once(2, 4)).await.unwrap());
    let later = store
        .write(&acme, &mine, entry("later"), Conditions::default())
        .await
        .unwrap();
    assert!(!store.delete(&acme, &mine, false, once(2, 4)).await.unwrap());
    drop(store);

    let store = open(&folder, 10, &clock);
    clock.set(1_000_599);
    assert_eq!(store.write(&acme, &mine, entry("x"), once(1, 1)).await.unwrap(), first);
    assert_eq!(store.read(&acme, &mine).await.unwrap().unwrap().etag, later.etag);
    clock.set(1_000_600);
    let again = store.write(&acme, &mine, entry("x"), once(1, 1)).await.unwrap();
    assert_eq!(again.etag.version, later.etag.version + 1);
    // What is not remembered any more is not kept either.
    let kept = store
        .store
        .database()
        .unwrap()
        .begin_read()
        .unwrap()
        .open_table(REQUESTS)
        .unwrap();
    assert_eq!(kept.iter().unwrap().count(), 1);
}

#[tokio::test]
async fn a_failed_precondition_is_no_answer_to_remember() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder, 10, &Clock::system());
    let acme = VerifiedTenant::for_tests("acme");
    let name = name(&acme, "t_a");
    let absent = Conditions {
        precondition: Precondition::Absent,
        ..once(1, 1)
    };
    store
        .write(&acme, &name, entry("x"), Conditions::default())
        .await
        .unwrap();
    assert!(matches!(
        store.write(&acme, &name, entry("y"), absent).await,
        Err(WriteError::PreconditionFailed)
    ));
    store.delete(&acme, &name, false, Conditions::default()).await.unwrap();
    let written = store.write(&acme, &name, entry("y"), absent).await.unwrap();
    // It holds no more, and the answer is still the first one.
    assert_eq!(store.write(&acme, &name, entry("y"), absent).await.unwrap(), written);
}
