//! What every store owes to those above it, whichever it is: each runs through the same promises, and what one cannot do
//! its [`Capabilities`](super::Capabilities) say, and nothing else excuses.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

pub(crate) mod walk;

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::{
    Backend, BackendError, Conditions, Entry, NewEntry, Once, PageRequest, Precondition, Unfit, Urgency, WriteError,
};
use crate::identity::VerifiedTenant;
use crate::key::Tags;
use crate::placement::{Grants, PhysicalName, Placed};
use crate::settings::Permission;
use crate::wit;

/// Every promise, one after the other, each on keys of its own.
pub(crate) async fn keeps_every_promise(store: Arc<dyn Backend>) {
    walls(&*store).await;
    states(&*store).await;
    preconditions(&*store).await;
    races(Arc::clone(&store)).await;
    lists(&*store).await;
    histories(&*store).await;
    requests(&*store).await;
    values(&*store).await;
    secrets(&*store).await;
}

/// Names that the second wall made: one in the tenant's space, one in everybody's.
pub(crate) fn names(tenant: &VerifiedTenant, namespace: &str, key: &str) -> [PhysicalName; 2] {
    let grants = Grants {
        backends: ["store".into()].into(),
        shared: true,
    };
    let tags = Tags::new(["t_".parse().unwrap(), "u_".parse().unwrap()]);
    let place = |scope| wit::Placement {
        backend: "store".to_owned(),
        scope,
        namespace: namespace.to_owned(),
        cache: None,
        options: Vec::new(),
    };
    let decision = wit::Decision {
        home: place(wit::Scope::Tenant),
        former: Vec::new(),
        defaults: vec![place(wit::Scope::Shared)],
        reason: None,
    };
    let Placed { home, defaults, .. } = grants.place(tenant.id(), &tags.parse(key).unwrap(), &decision).unwrap();
    [home.name, defaults[0].name.clone()]
}

fn name(tenant: &VerifiedTenant, key: &str) -> PhysicalName {
    let [own, _] = names(tenant, "ns", key);
    own
}

fn tenant(id: &str) -> VerifiedTenant {
    VerifiedTenant::for_tests(id)
}

fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

fn only(precondition: Precondition) -> Conditions {
    Conditions {
        precondition,
        once: None,
    }
}

fn once(id: u128, digest: u8) -> Conditions {
    let id = Uuid::from_u128(id);
    let once = Some(Once {
        id,
        digest: [digest; 32],
    });
    Conditions {
        precondition: Precondition::None,
        once,
    }
}

async fn put(store: &dyn Backend, tenant: &VerifiedTenant, name: &PhysicalName, value: &str) -> Entry {
    let written = store.write(tenant, name, entry(value), Conditions::default()).await;
    written.unwrap()
}

async fn delete(store: &dyn Backend, tenant: &VerifiedTenant, name: &PhysicalName) -> bool {
    let deleted = store.delete(tenant, name, false, Conditions::default()).await;
    deleted.unwrap().something()
}

async fn value(store: &dyn Backend, tenant: &VerifiedTenant, name: &PhysicalName) -> Option<String> {
    let found = store.read(tenant, name).await.unwrap()?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

fn page<'n>(name: &'n PhysicalName, prefix: &'n str, after: &'n str) -> PageRequest<'n> {
    PageRequest {
        range: name.range(),
        prefix,
        after,
        since: None,
        entries: 100,
        bytes: 1 << 20,
        keys_only: false,
        urgency: Urgency::Asked,
    }
}

/// With the placement check out of the way the store still refuses what is not the token's.
async fn walls(store: &dyn Backend) {
    let foreign = |result: Result<(), BackendError>| assert!(matches!(result, Err(BackendError::Foreign)));
    let unwritten = |result: Result<(), WriteError>| {
        assert!(matches!(result, Err(WriteError::Backend(BackendError::Foreign))));
    };
    let [acme, globex] = ["acme", "globex"].map(tenant);
    let [theirs, shared] = names(&globex, "walls", "t_a");
    put(store, &globex, &theirs, "secret").await;
    foreign(store.read(&acme, &theirs).await.map(drop));
    foreign(store.read_version(&acme, &theirs, 1).await.map(drop));
    foreign(store.history(&acme, &theirs, "", 10, 1 << 20).await.map(drop));
    foreign(store.list(&acme, page(&theirs, "", "")).await.map(drop));
    unwritten(
        store
            .write(&acme, &theirs, entry("x"), Conditions::default())
            .await
            .map(drop),
    );
    unwritten(
        store
            .delete(&acme, &theirs, false, Conditions::default())
            .await
            .map(drop),
    );
    assert_eq!(value(store, &globex, &theirs).await.unwrap(), "secret");

    // What all tenants read is written by who may share.
    let reader = VerifiedTenant::who_may("acme", [Permission::Read, Permission::Write]);
    unwritten(
        store
            .write(&reader, &shared, entry("x"), Conditions::default())
            .await
            .map(drop),
    );
    unwritten(
        store
            .delete(&reader, &shared, false, Conditions::default())
            .await
            .map(drop),
    );
    put(store, &globex, &shared, "everybody's").await;
    assert_eq!(value(store, &reader, &shared).await.unwrap(), "everybody's");
    assert_eq!(
        store.list(&reader, page(&shared, "", "")).await.unwrap().entries.len(),
        1
    );
    // The same key of another tenant's is another's.
    let [mine, same] = names(&acme, "walls", "t_a");
    assert_eq!((value(store, &acme, &mine).await, same), (None, shared));
}

/// Versions count within a life, and no two states have one etag.
async fn states(store: &dyn Backend) {
    let by = if store.capabilities().updated_by { "tester" } else { "" };
    let acme = tenant("acme");
    let name = name(&acme, "t_states");
    let mut etags = BTreeSet::new();
    for life in 0..3 {
        assert_eq!(store.read(&acme, &name).await.unwrap(), None);
        assert!(!delete(store, &acme, &name).await, "nothing stands");
        for version in 1..=3 {
            let text = format!("{life}.{version}");
            let written = put(store, &acme, &name, &text).await;
            assert!(written.value.is_empty(), "a write answers without the value");
            assert_eq!(written.etag.version, version);
            assert!(etags.insert(written.etag.to_string()));
            let found = store.read(&acme, &name).await.unwrap().unwrap();
            assert_eq!(
                (found.value.as_ref(), found.content_type.as_str()),
                (text.as_bytes(), "text/plain")
            );
            assert_eq!((found.etag, found.updated_at), (written.etag, written.updated_at));
            assert_eq!((found.updated_by.as_str(), found.secret), (by, false));
        }
        assert!(delete(store, &acme, &name).await);
    }
}

async fn preconditions(store: &dyn Backend) {
    let can = store.capabilities().clone();
    let acme = tenant("acme");
    let name = name(&acme, "t_preconditions");
    let failed = |result: Result<(), WriteError>| assert!(matches!(result, Err(WriteError::PreconditionFailed)));
    let write = async |precondition| {
        store
            .write(&acme, &name, entry("x"), only(precondition))
            .await
            .map(drop)
    };
    let remove = async |precondition| store.delete(&acme, &name, false, only(precondition)).await.map(drop);
    failed(write(Precondition::Never).await);
    if can.if_absent {
        write(Precondition::Absent).await.unwrap();
        failed(write(Precondition::Absent).await);
        assert!(delete(store, &acme, &name).await);
    }
    if can.if_match {
        let old = put(store, &acme, &name, "old").await.etag;
        write(Precondition::Match(old)).await.unwrap();
        failed(write(Precondition::Match(old)).await);
        failed(remove(Precondition::Match(old)).await);
        let new = store.read(&acme, &name).await.unwrap().unwrap().etag;
        remove(Precondition::Match(new)).await.unwrap();
        failed(remove(Precondition::Match(new)).await);
        failed(write(Precondition::Match(new)).await);
    }
    assert_eq!(value(store, &acme, &name).await, None);
}

/// Of many writers with one etag one wins, and of many creators.
async fn races(store: Arc<dyn Backend>) {
    let can = store.capabilities().clone();
    let acme = tenant("acme");
    let name = name(&acme, "t_races");
    for round in 0..5 {
        let precondition = if round % 2 == 0 {
            delete(&*store, &acme, &name).await;
            Precondition::Absent
        } else {
            Precondition::Match(put(&*store, &acme, &name, "x").await.etag)
        };
        if !(if round % 2 == 0 { can.if_absent } else { can.if_match }) {
            continue;
        }
        let writers: Vec<_> = (0..16)
            .map(|i| {
                let (store, acme, name) = (Arc::clone(&store), acme.clone(), name.clone());
                tokio::spawn(async move {
                    let text = i.to_string();
                    let written = store.write(&acme, &name, entry(&text), only(precondition)).await;
                    written.map(|_| text)
                })
            })
            .collect();
        let mut won = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                Ok(text) => won.push(text),
                Err(WriteError::PreconditionFailed) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1, "{precondition:?}");
        assert_eq!(value(&*store, &acme, &name).await.as_ref(), won.first());
    }
}

/// By name, ascending, each once; what is in another range, of another tag or tenant is not there.
async fn lists(store: &dyn Backend) {
    let [acme, globex] = ["acme", "globex"].map(tenant);
    let [range, _] = names(&acme, "lists", "t_a");
    let keys = ["a", "a-b", "a/b", "a/c", "a0", "b", "ab/c/d"];
    for key in keys {
        let [name, _] = names(&acme, "lists", &format!("t_{key}"));
        put(store, &acme, &name, key).await;
    }
    for (namespace, key) in [("lists/b", "t_a"), ("lists", "u_a"), ("", "t_a"), ("lists-b", "t_z")] {
        let [name, _] = names(&acme, namespace, key);
        put(store, &acme, &name, "elsewhere").await;
    }
    let [theirs, shared] = names(&globex, "lists", "t_theirs");
    put(store, &globex, &theirs, "theirs").await;
    put(store, &globex, &shared, "shared").await;
    let mut sorted = keys;
    sorted.sort_unstable();
    for prefix in ["", "a", "a/", "b", "zz"] {
        for after in ["", "a", "a/b", "a/bb", "b", "0"] {
            for entries in [1, 2, 100] {
                let mut listed = Vec::new();
                let mut after = after.to_owned();
                let begin = after.clone();
                let mut since = None;
                loop {
                    let request = PageRequest {
                        since,
                        entries,
                        ..page(&range, prefix, &after)
                    };
                    let found = store.list(&acme, request).await.unwrap();
                    assert!(found.as_of >= *since.get_or_insert(found.as_of));
                    assert!(found.entries.len() <= entries);
                    listed.extend(found.entries.iter().map(|(name, entry)| {
                        assert_eq!(entry.value, name.as_str());
                        name.to_string()
                    }));
                    let Some((last, _)) = found.entries.last().filter(|_| found.more) else {
                        break;
                    };
                    last.as_str().clone_into(&mut after);
                }
                let expected = sorted.iter().filter(|key| key.starts_with(prefix) && ***key > *begin);
                let expected: Vec<String> = expected.map(|key| (*key).to_owned()).collect();
                assert_eq!(listed, expected, "{prefix:?} after {begin:?} by {entries}");
            }
        }
    }
    let keys_only = PageRequest {
        keys_only: true,
        ..page(&range, "", "")
    };
    let found = store.list(&acme, keys_only).await.unwrap();
    assert!(found.entries.iter().all(|(_, entry)| entry.value.is_empty()));
    let short = PageRequest {
        bytes: 1,
        ..page(&range, "", "")
    };
    let found = store.list(&acme, short).await.unwrap();
    assert!(
        found.more && found.entries.len() < keys.len(),
        "it ends where the bytes are together"
    );
}

/// The newest first, deletions not, over all lives if they outlive one.
async fn histories(store: &dyn Backend) {
    let can = store.capabilities().clone();
    if !can.history {
        return;
    }
    let acme = tenant("acme");
    let name = name(&acme, "t_histories");
    let mut newest = Vec::new();
    for life in 0..3 {
        for version in 1..=3 {
            let text = format!("{life}.{version}");
            newest.insert(0, (put(store, &acme, &name, &text).await.etag, text));
        }
        if life < 2 {
            delete(store, &acme, &name).await;
            if !can.deleted_history {
                newest.clear();
            }
        }
    }
    for entries in [1, 2, 100] {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let page = store.history(&acme, &name, &after, entries, 1 << 20).await.unwrap();
            assert!(page.entries.len() <= entries);
            found.extend(page.entries.into_iter().map(|entry| {
                let text = String::from_utf8(entry.value.to_vec()).unwrap();
                (entry.etag, text)
            }));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(found, newest, "by {entries}");
    }
    for version in 1..=3 {
        let found = store.read_version(&acme, &name, version).await.unwrap().unwrap();
        assert_eq!(found.value, format!("2.{version}"), "of the newest life that had it");
    }
    assert_eq!(store.read_version(&acme, &name, 4).await.unwrap(), None);
}

/// A request is done once, however often it is sent.
async fn requests(store: &dyn Backend) {
    if !store.capabilities().request_id {
        return;
    }
    let [acme, globex] = ["acme", "globex"].map(tenant);
    let mine = name(&acme, "t_requests");
    let theirs = name(&globex, "t_requests");
    let first = store.write(&acme, &mine, entry("x"), once(1, 1)).await.unwrap();
    assert_eq!(store.write(&acme, &mine, entry("x"), once(1, 1)).await.unwrap(), first);
    for another in [
        store.write(&acme, &mine, entry("y"), once(1, 2)).await.map(drop),
        store.delete(&acme, &mine, false, once(1, 3)).await.map(drop),
    ] {
        assert!(matches!(another, Err(WriteError::RequestReused)));
    }
    // Another tenant's request of the same id is another request.
    let written = store.write(&globex, &theirs, entry("z"), once(1, 2)).await.unwrap();
    assert_eq!(written.etag.version, 1);
    // A delete is done as well, whether or not it found something, here or elsewhere.
    for (id, elsewhere) in [(2, false), (3, true)] {
        delete(store, &acme, &mine).await;
        let deleted = store.delete(&acme, &mine, elsewhere, once(id, 4)).await.unwrap();
        assert_eq!(deleted.something(), elsewhere);
        put(store, &acme, &mine, "later").await;
        let again = store.delete(&acme, &mine, false, once(id, 4)).await.unwrap();
        assert_eq!(again.something(), deleted.something());
        assert_eq!(
            value(store, &acme, &mine).await.unwrap(),
            "later",
            "it does not strike what comes later"
        );
    }
    // A precondition that failed is no answer to remember; one that held is not judged again.
    if store.capabilities().if_absent {
        let absent = Conditions {
            precondition: Precondition::Absent,
            ..once(4, 5)
        };
        let refused = store.write(&acme, &mine, entry("y"), absent).await;
        assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
        delete(store, &acme, &mine).await;
        let written = store.write(&acme, &mine, entry("y"), absent).await.unwrap();
        assert_eq!(store.write(&acme, &mine, entry("y"), absent).await.unwrap(), written);
        let never = Conditions {
            precondition: Precondition::Never,
            ..once(4, 5)
        };
        assert_eq!(store.write(&acme, &mine, entry("y"), never).await.unwrap(), written);
    }
}

/// Text up to what it says that it takes, and any bytes; or it says that they are too many.
async fn values(store: &dyn Backend) {
    let acme = tenant("acme");
    let name = name(&acme, "t_values");
    let largest = store.capabilities().max_value_bytes as usize;
    let text = "text/plain";
    for (value, content_type) in [
        (vec![], text),
        (b"{{name}}".to_vec(), text),
        (b"data:,x".to_vec(), text),
        (vec![b'x'; largest], text),
        (vec![], "application/octet-stream"),
        (vec![0, 0xff, 0x80], "application/octet-stream"),
        (vec![0xff; largest], "application/octet-stream"),
    ] {
        let written = NewEntry {
            value: value.clone().into(),
            content_type: content_type.to_owned(),
            secret: false,
        };
        match store.write(&acme, &name, written, Conditions::default()).await {
            Ok(_) => {}
            Err(WriteError::Unfit(Unfit::Size { size, limit }))
                if content_type != text && value.len() <= largest && size > limit as usize =>
            {
                continue;
            }
            Err(error) => panic!("{} bytes of {content_type}: {error}", value.len()),
        }
        let found = store.read(&acme, &name).await.unwrap().unwrap();
        assert!(found.value == value, "{} bytes", value.len());
        assert_eq!(found.content_type, content_type);
    }
}

/// What is a secret stays one, whoever writes it next, until it is deleted.
async fn secrets(store: &dyn Backend) {
    let can = store.capabilities().clone();
    if !can.secret {
        return;
    }
    let acme = tenant("acme");
    let name = name(&acme, "t_secrets");
    let secret = NewEntry {
        secret: true,
        ..entry("hush")
    };
    let written = store.write(&acme, &name, secret.clone(), Conditions::default()).await;
    assert!(written.unwrap().secret);
    assert!(put(store, &acme, &name, "hush, too").await.secret);
    let found = store.read(&acme, &name).await.unwrap().unwrap();
    assert_eq!((found.value.as_ref(), found.secret), (&b"hush, too"[..], true));
    assert!(!format!("{found:?}{secret:?}").contains("hush"), "it is in no log");
    if can.history {
        let past = store.history(&acme, &name, "", 10, 1 << 20).await.unwrap().entries;
        assert!(past.len() == 2 && past.iter().all(|entry| entry.secret));
    }
    let listed = store.list(&acme, page(&name, "secrets", "")).await.unwrap().entries;
    assert!(listed.len() == 1 && listed[0].1.secret);
    assert!(delete(store, &acme, &name).await);
    assert!(!put(store, &acme, &name, "known").await.secret);
}
