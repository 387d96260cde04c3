//! Every change of a key, cut off before and after each of its calls.

use serde_json::json;

use super::fuse::Cut;
use super::key::{KEY, delete_if, get, moved, put, put_if, value};
use super::scripted::Stores;
use super::writer;
use crate::backend::Precondition;
use crate::config::{ConfigError, Configs, WriteOptions};

/// Something that changes a key, given what a read returns.
#[derive(Debug, Clone, Copy)]
enum Change {
    Put,
    PutIf,
    Delete,
    DeleteIf,
    Rollback,
}

impl Change {
    async fn apply(self, configs: &Configs, standing: Precondition) -> Result<(), ConfigError> {
        let options = WriteOptions::default();
        match self {
            Self::Put => put_if(configs, "new", Precondition::None).await.map(drop),
            Self::PutIf => put_if(configs, "new", standing).await.map(drop),
            Self::Delete => delete_if(configs, Precondition::None).await.map(drop),
            Self::DeleteIf => delete_if(configs, standing).await.map(drop),
            Self::Rollback => configs.rollback(&writer("acme"), KEY, 1, &options).await.map(drop),
        }
    }

    fn after(self) -> Option<&'static str> {
        match self {
            Self::Put | Self::PutIf => Some("new"),
            Self::Rollback => Some("1"),
            Self::Delete | Self::DeleteIf => None,
        }
    }
}

/// What a read returns, as a precondition: its etag, or that there is nothing.
async fn standing(configs: &Configs) -> Precondition {
    get(configs)
        .await
        .map_or(Precondition::Absent, |config| Precondition::Match(config.entry.etag))
}

#[tokio::test]
async fn every_change_may_be_cut_off_at_every_step() {
    let stores = Stores::new();
    let after = stores.deciding(moved()).await;
    let (a, b, c) = (
        stores.deciding(json!({ "home": ["a", ""] })).await,
        stores.deciding(json!({ "home": ["b", "old"] })).await,
        stores.deciding(json!({ "home": ["c", ""] })).await,
    );
    let mut cuts = 0;
    for held in [&[&b][..], &[&c], &[&b, &c], &[&a, &b], &[&a], &[&a, &b, &c]] {
        for change in [
            Change::Put,
            Change::PutIf,
            Change::Delete,
            Change::DeleteIf,
            Change::Rollback,
        ] {
            for cut in [Cut::Before, Cut::After] {
                for calls in 0.. {
                    for place in [&a, &b, &c] {
                        delete_if(place, Precondition::None).await.unwrap();
                    }
                    // The first of them shows; what an earlier cut left in the others must never.
                    for (index, place) in held.iter().enumerate() {
                        for value in if index == 0 { ["1", "2"] } else { ["stale", "staler"] } {
                            put(place, value).await;
                        }
                    }
                    let etag = standing(&after).await;
                    stores.fuse.arm(calls, cut);
                    let done = change.apply(&after, etag).await;
                    let blown = stores.fuse.disarm();
                    let left = value(&after).await;
                    let left = left.as_deref();
                    let what = format!("{change:?} with {} places, cut {cut:?} {calls}", held.len());
                    assert!(left == Some("2") || left == change.after(), "{what} left {left:?}");
                    assert_eq!(done.is_ok(), !blown, "{what}");
                    if !blown {
                        assert_eq!(left, change.after(), "{what}");
                        break;
                    }
                    cuts += 1;
                    // Once more, as who reads again would do it.
                    let etag = standing(&after).await;
                    match change.apply(&after, etag).await {
                        // A delete that had done all but say so.
                        Ok(()) => {}
                        Err(ConfigError::NotFound) if left == change.after() => {}
                        Err(error) => panic!("{what}: {error}"),
                    }
                    let completed = value(&after).await;
                    if !matches!(change, Change::Rollback) {
                        assert_eq!(completed.as_deref(), change.after(), "{what}, again");
                    }
                    for former in [&b, &c] {
                        assert_eq!(value(former).await, None, "{what}: nothing is left to come back");
                    }
                }
            }
        }
    }
    println!("{cuts} cuts");
}
