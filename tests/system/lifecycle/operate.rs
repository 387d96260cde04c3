//! What operators ask for: what is taken up, what is refused and at which stage, and what is gone back to.

use std::collections::BTreeSet;

use serde_json::json;
use tagway_proto::v1;
use tagway_proto::v1::strategy::State;
use tagway_tests::admin::{activate, distinct};
use tagway_tests::client::{refused, why};
use tonic::Code;

use super::{SCRIPTED, World, active, explained, home, not_taken, taken, versions, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_administrate_changes_no_strategy() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let mut nobody = gateway.admin_who_may("read write share").await;
    let missing = (Code::PermissionDenied, "PERMISSION_MISSING".to_owned());
    assert_eq!(why(nobody.list_strategies(v1::ListStrategiesRequest {}).await), missing);
    assert_eq!(why(nobody.activate_strategy(activate("scripted", None)).await), missing);
    let rollback = v1::RollbackStrategyRequest::default();
    assert_eq!(why(nobody.rollback_strategy(rollback).await), missing);
    let mode = v1::SetStrategyModeRequest::default();
    assert_eq!(why(nobody.set_strategy_mode(mode).await), missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_refuses_what_it_must_and_what_served_serves_on() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let before = active(&mut admin).await;
    let with = |component: &[u8]| activate("scripted", Some(component.to_vec()));

    let no_wasm = not_taken(&mut admin, with(b"hello"), State::Compiled).await;
    let reason = no_wasm.strategy.unwrap().rejected_reason;
    assert!(reason.contains("no WebAssembly"), "{reason}");
    not_taken(&mut admin, with(&SCRIPTED[..SCRIPTED.len() / 2]), State::Compiled).await;
    let unset = v1::ActivateStrategyRequest {
        settings: json!({ "acme": { "": { "home": "a" } } }).to_string(),
        ..activate("scripted", None)
    };
    not_taken(&mut admin, unset, State::Configured).await;
    // What the host asks of every strategy is asked of a tenant that nobody has: so this one may answer, and must as it says.
    let hides = json!({ "home": ["a", ""], "hidden": [["a", ""]] });
    let hides = json!({ "conformance-check": { "": hides }, "acme": { "": { "home": ["a", ""] } } });
    let hidden = not_taken(&mut admin, with_settings(&hides), State::Probed).await;
    let reason = hidden.strategy.unwrap().rejected_reason;
    assert!(reason.contains("enumerate does not name"), "{reason}");
    let traps = json!({ "conformance-check": { "": { "home": ["a", ""], "traps": ["a"] } } });
    not_taken(&mut admin, with_settings(&traps), State::Probed).await;
    let moves = not_taken(&mut admin, with_settings(&home("b")), State::Shadowed).await;
    assert_eq!(moves.moved_keys, ["acme/t_x"]);

    for (request, code, reason) in [
        (activate("nobody", None), Code::NotFound, "STRATEGY_UNKNOWN"),
        (
            v1::ActivateStrategyRequest {
                digest: "sha256:00".to_owned(),
                ..with(&SCRIPTED)
            },
            Code::FailedPrecondition,
            "SOURCE",
        ),
        (
            v1::ActivateStrategyRequest {
                generation: 77,
                ..with(&distinct(&SCRIPTED, 1))
            },
            Code::Aborted,
            "GENERATION_CHANGED",
        ),
        (
            v1::ActivateStrategyRequest {
                settings: "[]".to_owned(),
                ..activate("scripted", None)
            },
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
    ] {
        let status = admin.activate_strategy(request).await.unwrap_err();
        let refused = refused(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (code, reason), "{status:?}");
    }
    for source in ["file:/dev/zero", "file:/", "file:nowhere", "https://example.com/a.wasm"] {
        let request = v1::ActivateStrategyRequest {
            kind: Some(v1::activate_strategy_request::Kind::Source(source.to_owned())),
            ..activate("scripted", None)
        };
        let answer = why(admin.activate_strategy(request).await);
        assert_eq!(answer, (Code::FailedPrecondition, "SOURCE".to_owned()), "{source}");
    }

    assert_eq!(active(&mut admin).await, before);
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_active_then_draining_and_retired_and_may_be_gone_back_to() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;

    let only_tried = v1::ActivateStrategyRequest {
        validate_only: true,
        ..activate("scripted", Some(distinct(&SCRIPTED, 1)))
    };
    let tried = admin.activate_strategy(only_tried).await.unwrap().into_inner();
    assert_eq!(tried.strategy.unwrap().state(), State::Shadowed);
    assert_eq!((tried.known, tried.judged, tried.moved), (1, 1, 0));
    assert_eq!(active(&mut admin).await, first);

    let second = taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 1)))).await;
    let second = second.strategy.unwrap();
    assert!(second.generation > first.generation);
    assert_eq!(explained(&client, "t_x").await.generation, second.generation);
    // Asked twice it is the same.
    let again = taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 1)))).await;
    assert_eq!(again.strategy.unwrap(), second);
    let states: Vec<_> = versions(&mut admin).await.iter().map(v1::Strategy::state).collect();
    assert_eq!(states, [State::Active, State::Shadowed, State::Retired]);

    let back = |generation| v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation,
    };
    let others = why(admin.rollback_strategy(back(first.generation)).await);
    assert_eq!(others, (Code::Aborted, "GENERATION_CHANGED".to_owned()));
    let third = admin
        .rollback_strategy(back(second.generation))
        .await
        .unwrap()
        .into_inner();
    let third = third.strategy.unwrap();
    assert_eq!((third.state(), &third.digest), (State::Active, &first.digest));
    // A retry does not go back twice.
    assert_eq!(
        why(admin.rollback_strategy(back(second.generation)).await).0,
        Code::Aborted
    );
    let nothing = why(admin.rollback_strategy(back(0)).await);
    assert_eq!(nothing, (Code::FailedPrecondition, "NOTHING_EARLIER".to_owned()));
    let left = versions(&mut admin).await;
    let left = left
        .iter()
        .find(|version| version.generation == second.generation)
        .unwrap();
    assert_eq!(left.state(), State::RolledBack);
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_twice_at_once_gets_one() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;
    let asks = (0..3).map(|_| {
        let mut admin = admin.clone();
        let request = activate("scripted", Some(distinct(&SCRIPTED, 1)));
        tokio::spawn(async move {
            admin
                .activate_strategy(request)
                .await
                .unwrap()
                .into_inner()
                .strategy
                .unwrap()
        })
    });
    let mut generations = BTreeSet::new();
    for asked in asks.collect::<Vec<_>>() {
        let taken = asked.await.unwrap();
        assert_eq!(taken.state(), State::Active);
        generations.insert(taken.generation);
    }
    assert_eq!(generations.len(), 1);
    let back = v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation: 0,
    };
    admin.rollback_strategy(back).await.unwrap();
    assert_eq!(active(&mut admin).await.digest, first.digest);
}
