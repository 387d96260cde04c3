//! Two replicas at once, one ahead in its strategy: see gateway/docs/overlap.md.

use serde_json::json;

use super::key::{delete_if, put, value};
use super::scripted::Stores;
use crate::backend::Precondition;

#[tokio::test]
async fn while_replicas_disagree_no_replica_loses_what_it_acknowledged_to_a_write_that_it_never_saw() {
    let stores = Stores::new();
    let behind = std::sync::Arc::new(
        stores
            .deciding(json!({ "home": ["a", ""], "former": [["b", ""]] }))
            .await,
    );
    let ahead = std::sync::Arc::new(
        stores
            .deciding(json!({ "home": ["b", ""], "former": [["a", ""]] }))
            .await,
    );
    for round in 0..50 {
        let writes = [("behind", &behind), ("ahead", &ahead)].map(|(name, configs)| {
            let (configs, value) = (configs.clone(), format!("{name} {round}"));
            tokio::spawn(async move {
                put(&configs, &value).await;
            })
        });
        for write in writes {
            write.await.unwrap();
        }
        // Whichever came last, or both: never neither, and what each shows was written in this round.
        for configs in [&behind, &ahead] {
            let found = value(configs)
                .await
                .expect("a write is never lost to the other's clearing");
            assert!(found.ends_with(&format!(" {round}")), "{found}");
        }
        // One after the other, each sees what the other wrote.
        put(&behind, "x").await;
        assert_eq!(value(&ahead).await.unwrap(), "x");
        put(&ahead, "y").await;
        assert_eq!(value(&behind).await.unwrap(), "y");
        assert!(delete_if(&behind, Precondition::None).await.unwrap());
        assert_eq!((value(&behind).await, value(&ahead).await), (None, None));
    }
}
