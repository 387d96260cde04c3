//! Requests with an id: done once, also where a key moves, and completed by their repetition.

use serde_json::json;

use super::fuse::Cut;
use super::key::{KEY, delete_if, moved, put, value};
use super::scripted::Stores;
use super::{entry, writer};
use crate::backend::Precondition;
use crate::config::{ConfigError, WriteOptions};

#[tokio::test]
async fn a_request_is_done_once_also_where_it_moves_a_key() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    let old = put(&before, "old").await;
    let once = |precondition, id: u128| WriteOptions {
        precondition,
        request_id: Some(uuid::Uuid::from_u128(id)),
        ..WriteOptions::default()
    };
    let conditional = once(Precondition::Match(old.entry.etag), 1);
    let first = after
        .put(&writer("acme"), KEY, entry("new"), &conditional)
        .await
        .unwrap();
    let again = after
        .put(&writer("acme"), KEY, entry("new"), &conditional)
        .await
        .unwrap();
    assert_eq!(first, again);
    delete_if(&after, Precondition::None).await.unwrap();
    put(&before, "old").await;
    let delete = once(Precondition::None, 2);
    for _ in 0..3 {
        assert!(
            after.delete(&writer("acme"), KEY, &delete).await.unwrap(),
            "as it was the first time"
        );
    }
    let old = put(&before, "old").await;
    let delete = once(Precondition::Match(old.entry.etag), 3);
    for _ in 0..3 {
        assert!(after.delete(&writer("acme"), KEY, &delete).await.unwrap());
    }
}

fn with_id(id: u128) -> WriteOptions {
    WriteOptions {
        request_id: Some(uuid::Uuid::from_u128(id)),
        ..WriteOptions::default()
    }
}

#[tokio::test]
async fn a_delete_that_is_refused_for_its_id_has_cleared_nothing() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    after
        .put(&writer("acme"), "t_other", entry("x"), &with_id(1))
        .await
        .unwrap();
    put(&before, "old").await;
    let refused = after.delete(&writer("acme"), KEY, &with_id(1)).await;
    assert!(matches!(refused, Err(ConfigError::RequestReused)), "{refused:?}");
    assert_eq!(value(&after).await.unwrap(), "old");
}

#[tokio::test]
async fn a_request_that_is_repeated_leaves_what_came_after_it_alone() {
    let stores = Stores::new();
    let behind = stores
        .deciding(json!({ "home": ["b", ""], "former": [["a", ""]] }))
        .await;
    let ahead = stores
        .deciding(json!({ "home": ["a", ""], "former": [["b", ""]] }))
        .await;
    let first = ahead
        .put(&writer("acme"), KEY, entry("first"), &with_id(1))
        .await
        .unwrap();
    put(&behind, "second").await;
    let again = ahead
        .put(&writer("acme"), KEY, entry("first"), &with_id(1))
        .await
        .unwrap();
    assert_eq!(again, first);
    assert_eq!(
        (value(&ahead).await.unwrap(), value(&behind).await.unwrap()),
        ("second".into(), "second".into())
    );

    assert!(ahead.delete(&writer("acme"), KEY, &with_id(2)).await.unwrap());
    put(&behind, "third").await;
    assert!(ahead.delete(&writer("acme"), KEY, &with_id(2)).await.unwrap());
    assert_eq!(value(&ahead).await.unwrap(), "third");
}

#[tokio::test]
async fn a_request_that_was_cut_off_is_completed_by_its_repetition() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    for calls in 0..20 {
        put(&before, "old").await;
        stores.fuse.arm(calls, Cut::After);
        let id = 100 + calls as u128;
        let done = after.put(&writer("acme"), KEY, entry("new"), &with_id(id)).await;
        let blown = stores.fuse.disarm();
        assert_eq!(done.is_ok(), !blown);
        after
            .put(&writer("acme"), KEY, entry("new"), &with_id(id))
            .await
            .unwrap();
        assert_eq!(
            (value(&after).await.unwrap().as_str(), value(&before).await),
            ("new", None),
            "cut after {calls}"
        );
        delete_if(&after, Precondition::None).await.unwrap();
        if !blown {
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn a_rollback_that_is_repeated_is_answered_though_the_past_has_moved_away() {
    let stores = Stores::new();
    let before = stores.deciding(json!({ "home": ["b", "old"] })).await;
    let after = stores.deciding(moved()).await;
    for value in ["1", "2", "3"] {
        put(&before, value).await;
    }
    let first = after.rollback(&writer("acme"), KEY, 2, &with_id(1)).await.unwrap();
    let again = after.rollback(&writer("acme"), KEY, 2, &with_id(1)).await.unwrap();
    assert_eq!(first, again);
}
