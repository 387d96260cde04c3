//! One key in several places: what reads, writes, deletes and preconditions mean.

use serde_json::json;

use super::fuse::Cut;
use super::key::{KEY, delete_if, get, get_in, keys, moved, options, put, put_if, value};
use super::scripted::Stores;
use super::{entry, reader, writer};
use crate::backend::{BackendError, Precondition};
use crate::cache::Consistency;
use crate::config::{ConfigError, Configs, HistoryRequest, ListRequest, PAGE_BYTES, Scope, WriteOptions};
use crate::placement::Origin;
use crate::strategy::{Context, DecideError};

#[tokio::test]
async fn a_write_moves_a_key_home_and_a_delete_brings_nothing_back() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    put(&before, "old").await;

    let found = get(&after).await.unwrap();
    assert_eq!((found.origin, &*found.backend), (Origin::Former, "b"));
    assert_eq!(keys(&after).await, [KEY]);
    put(&after, "new").await;
    let found = get(&after).await.unwrap();
    assert_eq!((found.origin, &*found.backend), (Origin::Home, "a"));
    assert_eq!(get(&before).await, None, "it has moved out");

    // As a write that was cut off leaves it: in both.
    put(&before, "older").await;
    assert_eq!(value(&after).await.unwrap(), "new");
    assert_eq!(keys(&after).await, [KEY], "once");
    assert!(delete_if(&after, Precondition::None).await.unwrap());
    assert_eq!((value(&after).await, value(&before).await), (None, None));
    assert!(!delete_if(&after, Precondition::None).await.unwrap());
    put(&before, "old").await;
    assert!(
        delete_if(&after, Precondition::None).await.unwrap(),
        "also of a former home alone"
    );
}

#[tokio::test]
async fn a_default_shows_until_it_is_hidden_and_again_when_that_is_deleted() {
    let stores = Stores::new();
    let script = json!({ "home": ["a", ""], "defaults": [["b", "base"], ["c", "", "shared"]] });
    let configs = stores.deciding(script).await;
    let base = stores.deciding(json!({ "home": ["b", "base"] })).await;
    assert_eq!(value(&configs).await, None);
    let shared = options(Precondition::None, Scope::Shared);
    let written = configs
        .put(&writer("acme"), KEY, entry("everybody's"), &shared)
        .await
        .unwrap();
    assert_eq!(
        (written.origin, written.entry.updated_by.as_str()),
        (Origin::Default, "")
    );
    let found = get(&configs).await.unwrap();
    assert_eq!(
        (found.origin, &*found.backend, found.entry.updated_by.as_str()),
        (Origin::Default, "c", "")
    );

    put(&base, "the tenant's").await;
    assert_eq!(value(&configs).await.unwrap(), "the tenant's");
    put(&configs, "its own").await;
    assert_eq!(value(&configs).await.unwrap(), "its own");
    assert_eq!(
        get_in(&configs, Scope::Shared).await.unwrap().entry.value,
        "everybody's"
    );
    assert_eq!(keys(&configs).await, [KEY]);
    assert!(delete_if(&configs, Precondition::None).await.unwrap());
    assert_eq!(value(&configs).await.unwrap(), "the tenant's");
    assert!(
        !delete_if(&configs, Precondition::None).await.unwrap(),
        "a default is not the key's to delete"
    );
    assert!(delete_if(&base, Precondition::None).await.unwrap());
    assert_eq!(value(&configs).await.unwrap(), "everybody's");
    assert!(configs.delete(&writer("acme"), KEY, &shared).await.unwrap());
    assert_eq!(value(&configs).await, None);

    let without = stores.deciding(json!({ "home": ["a", ""] })).await;
    let refused = without.put(&writer("acme"), KEY, entry("x"), &shared).await;
    assert!(matches!(refused, Err(ConfigError::Unshared)));
}

#[tokio::test]
async fn a_precondition_is_judged_on_what_a_read_would_return() {
    let stores = Stores::new();
    let script = json!({ "home": ["a", ""], "former": [["b", ""]], "defaults": [["c", "", "shared"]] });
    let configs = stores.deciding(script).await;
    let before = stores.deciding(json!({ "home": ["b", ""] })).await;
    let shared = options(Precondition::None, Scope::Shared);
    let changed = |result| matches!(result, Err(ConfigError::Changed));
    let exists = |result| matches!(result, Err(ConfigError::AlreadyExists));

    // Of a default.
    let default = configs
        .put(&writer("acme"), KEY, entry("default"), &shared)
        .await
        .unwrap();
    let default = Precondition::Match(default.entry.etag);
    assert!(exists(put_if(&configs, "x", Precondition::Absent).await));
    put_if(&configs, "one", default).await.unwrap();
    assert!(changed(put_if(&configs, "two", default).await), "it is hidden now");
    assert_eq!(value(&configs).await.unwrap(), "one");
    delete_if(&configs, Precondition::None).await.unwrap();
    assert!(
        !delete_if(&configs, default).await.unwrap(),
        "it holds, and there is nothing to delete"
    );

    // Of what is in a former home.
    let old = Precondition::Match(put(&before, "old").await.entry.etag);
    assert!(exists(put_if(&configs, "x", Precondition::Absent).await));
    assert!(changed(put_if(&configs, "x", default).await));
    let new = put_if(&configs, "new", old).await.unwrap();
    assert_eq!(value(&before).await, None);
    assert!(changed(put_if(&configs, "x", old).await));
    assert!(matches!(delete_if(&configs, old).await, Err(ConfigError::Changed)));
    assert!(delete_if(&configs, Precondition::Match(new.entry.etag)).await.unwrap());
    assert_eq!(value(&configs).await.unwrap(), "default");
    let old = Precondition::Match(put(&before, "old").await.entry.etag);
    assert!(delete_if(&configs, old).await.unwrap());
    assert_eq!(
        (value(&before).await, value(&configs).await.unwrap().as_str()),
        (None, "default")
    );

    // Of what is at home, over something that a cut left behind.
    put(&before, "left behind").await;
    let home = {
        let alone = stores.deciding(json!({ "home": ["a", ""] })).await;
        put(&alone, "home").await
    };
    let home = Precondition::Match(home.entry.etag);
    assert!(delete_if(&configs, home).await.unwrap());
    assert_eq!(value(&configs).await.unwrap(), "default", "nothing comes back");
}

#[tokio::test]
async fn of_many_with_the_etag_of_a_former_home_one_wins() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = std::sync::Arc::new(stores.deciding(moved()).await);
    for round in 0..20 {
        let etag = put(&before, "old").await.entry.etag;
        let tasks: Vec<_> = (0..8)
            .map(|i| {
                let after = after.clone();
                let precondition = Precondition::Match(etag);
                tokio::spawn(async move {
                    if i % 4 == 0 {
                        delete_if(&after, precondition).await.map(|_| None)
                    } else {
                        let value = format!("{round}/{i}");
                        put_if(&after, &value, precondition).await.map(|_| Some(value))
                    }
                })
            })
            .collect();
        let mut won = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(left) => won.push(left),
                Err(ConfigError::Changed) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(value(&after).await, won[0]);
        assert_eq!(value(&before).await, None);
        delete_if(&after, Precondition::None).await.unwrap();
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_asked_fails_the_read() {
    let stores = Stores::new();
    let script = json!({ "home": ["a", ""], "former": [["b", ""]], "defaults": [["c", "", "shared"]] });
    let configs = stores.deciding(script).await;
    let shared = options(Precondition::None, Scope::Shared);
    configs
        .put(&writer("acme"), KEY, entry("default"), &shared)
        .await
        .unwrap();
    let context = Context::default();
    // Home, former home, home again, default.
    for calls in 0..4 {
        stores.fuse.arm(calls, Cut::Before);
        let read = configs
            .get(&reader("acme"), KEY, 0, &context, Scope::Own, Consistency::Cached)
            .await;
        assert!(
            matches!(read, Err(ConfigError::Backend(BackendError::Away(_)))),
            "after {calls} calls"
        );
        assert!(stores.fuse.disarm());
    }
    stores.fuse.arm(4, Cut::Before);
    configs
        .get(&reader("acme"), KEY, 0, &context, Scope::Own, Consistency::Cached)
        .await
        .unwrap();
    stores.fuse.disarm();
}

#[tokio::test]
async fn the_past_is_that_of_the_place_that_answers() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    for value in ["1", "2", "3"] {
        put(&before, value).await;
    }
    let context = Context::default();
    let history = async |configs: &Configs| {
        let request = HistoryRequest {
            key: KEY,
            page_size: 10,
            page_token: "",
            context: &context,
            scope: Scope::Own,
        };
        let page = configs.history(&reader("acme"), request).await.unwrap();
        let values = page
            .versions
            .into_iter()
            .map(|config| String::from_utf8(config.entry.value.to_vec()).unwrap());
        values.collect::<Vec<_>>()
    };
    assert_eq!(history(&after).await, ["3", "2", "1"]);
    let options = WriteOptions::default();
    after.rollback(&writer("acme"), KEY, 2, &options).await.unwrap();
    assert_eq!(value(&after).await.unwrap(), "2");
    assert_eq!(history(&after).await, ["2"], "it has moved, and its past has not");
    delete_if(&after, Precondition::None).await.unwrap();
    // Of a key that is deleted, wherever it was.
    assert_eq!(history(&after).await, ["2"]);
    after.rollback(&writer("acme"), KEY, 3, &options).await.unwrap();
    assert_eq!(value(&after).await.unwrap(), "3");
}

#[tokio::test]
async fn every_step_is_explained() {
    let stores = Stores::new();
    let script = json!({ "home": ["a", "x"], "former": [["b", ""]], "defaults": [["c", "", "shared"]] });
    let configs = stores.deciding(script).await;
    let shared = options(Precondition::None, Scope::Shared);
    configs
        .put(&writer("acme"), KEY, entry("default"), &shared)
        .await
        .unwrap();
    let explained = configs
        .explain(&reader("acme"), KEY, &Context::default())
        .await
        .unwrap();
    let steps: Vec<_> = explained
        .steps
        .iter()
        .map(|step| (step.physical_name.to_string(), step.origin, step.holds_key))
        .collect();
    assert_eq!(
        steps,
        [
            ("acme/x/t_/a".to_owned(), Origin::Home, false),
            ("acme/t_/a".to_owned(), Origin::Former, false),
            ("_shared/t_/a".to_owned(), Origin::Default, true),
        ]
    );
}

#[tokio::test]
async fn a_strategy_that_does_not_enumerate_what_it_decides_is_at_fault() {
    let stores = Stores::new();
    let script = json!({ "home": ["a", ""], "former": [["b", ""]], "hidden": [["b", ""]] });
    let configs = stores.deciding(script).await;
    put(&configs, "x").await;
    let (prefix, context) = ("".parse().unwrap(), Context::default());
    let request = ListRequest {
        prefix: &prefix,
        page_size: 100,
        page_token: "",
        keys_only: false,
        bytes: PAGE_BYTES,
        context: &context,
        under_way: None,
    };
    let listed = configs.list(&reader("acme"), request).await;
    assert!(matches!(listed, Err(ConfigError::Decide(DecideError::Failed))));
}

#[tokio::test]
async fn a_writer_who_loses_to_another_leaves_nothing_under_its_value() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = std::sync::Arc::new(stores.deciding(moved()).await);
    for round in 0..100 {
        let etag = put(&before, "old").await.entry.etag;
        let writes = [Precondition::None, Precondition::Match(etag)].map(|precondition| {
            let after = after.clone();
            tokio::spawn(async move { put_if(&after, "new", precondition).await.map(drop) })
        });
        for write in writes {
            let done = write.await.unwrap();
            assert!(matches!(done, Ok(()) | Err(ConfigError::Changed)), "{done:?}");
        }
        assert_eq!(value(&before).await, None, "round {round}");
        assert_eq!(value(&after).await.unwrap(), "new");
        delete_if(&after, Precondition::None).await.unwrap();
    }
}

#[tokio::test]
async fn the_past_of_a_deleted_key_has_more_than_one_page() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    for value in ["1", "2", "3"] {
        put(&before, value).await;
    }
    delete_if(&after, Precondition::None).await.unwrap();
    let context = Context::default();
    let (mut page_token, mut found) = (String::new(), Vec::new());
    loop {
        let request = HistoryRequest {
            key: KEY,
            page_size: 2,
            page_token: &page_token,
            context: &context,
            scope: Scope::Own,
        };
        let page = after.history(&reader("acme"), request).await.unwrap();
        found.extend(page.versions.into_iter().map(|config| config.entry.value));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(found, ["3", "2", "1"]);
}
