//! Promise: Nothing moves unasked. What known keys would lose their values to is stopped.

use serde_json::json;
use tagway_proto::v1;
use tagway_proto::v1::strategy::State;
use tagway_tests::client::why;
use tagway_tests::watcher::{Watcher, to_prefix};
use tokio::time::timeout;
use tonic::Code;

use super::{PATIENCE, World, both, home, not_taken, taken, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn what_would_lose_keys_is_stopped_unless_they_are_found_or_somebody_accepts_it() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let (acme, globex) = (gateway.client("acme").await, gateway.client("globex").await);
    let mut admin = gateway.admin().await;
    // Nothing is known, so nothing can be said.
    let blind = not_taken(&mut admin, with_settings(&home("b")), State::Shadowed).await;
    assert_eq!((blind.known, blind.moved), (0, 0));
    assert!(blind.strategy.unwrap().rejected_reason.contains("no key"));

    for (client, name) in [(&acme, "x"), (&acme, "y"), (&globex, "x")] {
        client.put(&format!("t_{name}"), name).await.unwrap();
    }
    // It was asked for and holds nothing: it has nothing to lose.
    assert_eq!(why(acme.get("t_nothing").await).0, Code::NotFound);
    let mut watcher = Watcher::of(&acme, to_prefix("all", "t_")).await;

    let moves = not_taken(&mut admin, with_settings(&home("b")), State::Shadowed).await;
    assert_eq!((moves.known, moves.judged, moves.moved), (4, 4, 3));
    assert_eq!(moves.moved_keys, ["acme/t_x", "acme/t_y", "globex/t_x"]);
    let refuses = both(&json!({ "home": ["a", ""], "refuses": ["x"] }));
    let moves = not_taken(&mut admin, with_settings(&refuses), State::Shadowed).await;
    assert_eq!(moves.moved_keys, ["acme/t_x", "globex/t_x"]);
    let traps =
        json!({ "acme": { "": { "home": ["a", ""], "traps": ["y"] } }, "globex": { "": { "home": ["a", ""] } } });
    let moves = not_taken(&mut admin, with_settings(&traps), State::Shadowed).await;
    assert_eq!(moves.moved_keys, ["acme/t_y"]);

    // Where they lived before is asked too.
    let former = both(&json!({ "home": ["b", ""], "former": [["a", ""]] }));
    let kept = taken(&mut admin, with_settings(&former)).await;
    assert_eq!((kept.known, kept.judged, kept.moved), (4, 4, 0));
    let found = acme.get("t_x").await.unwrap();
    assert_eq!((&found.value[..], &*found.backend), (&b"x"[..], "a"));
    // A write moves one, and to forget the former home would lose the others.
    acme.put("t_x", "moved").await.unwrap();
    let moves = not_taken(&mut admin, with_settings(&home("b")), State::Shadowed).await;
    assert_eq!(moves.moved_keys, ["acme/t_y", "globex/t_x"]);
    // Back to the first home alone, another value would be found, or none.
    let moves = not_taken(&mut admin, with_settings(&home("a")), State::Shadowed).await;
    assert_eq!(moves.moved_keys, ["acme/t_x"]);

    let accepted = v1::ActivateStrategyRequest {
        allow_moves: true,
        ..with_settings(&home("b"))
    };
    let accepted = taken(&mut admin, accepted).await;
    assert_eq!(accepted.moved_keys, ["acme/t_y", "globex/t_x"]);
    assert_eq!(acme.get("t_x").await.unwrap().value, "moved");
    assert_eq!(why(acme.get("t_y").await).0, Code::NotFound);
    // Who watches is told.
    timeout(PATIENCE, async {
        while watcher.held.len() > 1 {
            watcher.next().await.unwrap();
        }
    })
    .await
    .unwrap();
    assert!(watcher.held.contains_key(&("all".to_owned(), "t_x".to_owned())));
}
