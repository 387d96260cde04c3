//! A version on trial: what leaves by itself, and what does not.

use std::sync::Arc;

use serde_json::json;
use tagway_proto::v1;
use tagway_proto::v1::strategy::{Mode, State};
use tagway_tests::admin::{activate, distinct};
use tagway_tests::client::{Client, why};
use tonic::Code;

use super::{SCRIPTED, World, active, becomes, both, home, taken, versions, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_where_the_one_before_answered_leaves_by_itself() {
    let world = World::with("rollback = { failures = 5, window = \"10m\" }");
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_known", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let good = active(&mut admin).await;
    // One name in a hundred, and none of those that are known.
    let traps: Vec<String> = (0..10).map(|number| format!("n{}", number * 100)).collect();
    let bad = both(&json!({ "home": ["a", ""], "traps": traps }));
    let bad = taken(&mut admin, with_settings(&bad)).await.strategy.unwrap();
    let mut failed = 0;
    for number in 0..1000 {
        let (code, _) = why(client.get(&format!("t_n{number}")).await);
        match code {
            Code::NotFound => {}
            Code::Internal => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, 5, "so many, and then it was gone");
    let back = becomes(&mut admin, "the good one", |active| {
        active.digest == good.digest && active.generation > bad.generation
    })
    .await;
    let left = versions(&mut admin).await;
    let left = left
        .iter()
        .find(|version| version.generation == bad.generation)
        .unwrap();
    assert_eq!(left.state(), State::RolledBack);
    assert!(
        left.rejected_reason.contains("failed 5 keys"),
        "{}",
        left.rejected_reason
    );
    assert!(back.generation > bad.generation);
    assert_eq!(why(client.get("t_n0").await).0, Code::NotFound, "it is answered again");
    assert_eq!(client.get("t_known").await.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_version_could_answer_and_what_is_pinned_has_none_leave() {
    let world = World::new();
    let traps: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    let both_trap = both(&json!({ "home": ["a", ""], "traps": traps }));
    let gateway = world.start(&both_trap);
    let client = gateway.client("acme").await;
    client.put("t_known", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let second = taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 1)))).await;
    let second = second.strategy.unwrap();
    for name in &traps[..10] {
        assert_eq!(why(client.get(&format!("t_{name}")).await).0, Code::Internal);
    }
    assert_eq!(active(&mut admin).await, second, "the one before failed too");

    let pin = v1::SetStrategyModeRequest {
        name: "scripted".to_owned(),
        mode: Mode::Pinned.into(),
    };
    admin.set_strategy_mode(pin).await.unwrap();
    let worse: Vec<String> = (0..20).map(|number| format!("m{number}")).collect();
    let worse = both(&json!({ "home": ["a", ""], "traps": worse }));
    let third = taken(&mut admin, with_settings(&worse)).await.strategy.unwrap();
    for number in 0..10 {
        assert_eq!(why(client.get(&format!("t_m{number}")).await).0, Code::Internal);
    }
    assert!(gateway.logs("a version should leave, and is pinned"));
    assert_eq!(active(&mut admin).await.generation, third.generation);
    // It does not get away by a pause.
    for mode in [Mode::Disabled, Mode::Follow] {
        let mode = v1::SetStrategyModeRequest {
            name: "scripted".to_owned(),
            mode: mode.into(),
        };
        admin.set_strategy_mode(mode).await.unwrap();
    }
    assert_eq!(why(client.get("t_m0").await).0, Code::NotFound, "it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_alone_has_a_version_leave_that_others_use_well() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let (acme, globex) = (gateway.client("acme").await, gateway.client("globex").await);
    for client in [&acme, &globex] {
        client.put("t_known", "1").await.unwrap();
    }
    let mut admin = gateway.admin().await;
    let names = |letter: char| -> Vec<String> { (0..20).map(|number| format!("{letter}{number}")).collect() };
    let ask = async |client: &Client, letter: char| {
        for name in names(letter) {
            let key = format!("t_{name}");
            assert_ne!(why(client.get(&key).await).0, Code::Ok);
            assert_ne!(why(client.delete(&key).await).0, Code::Ok);
        }
    };
    // Names that hold nothing may be refused.
    let strict = taken(
        &mut admin,
        with_settings(&both(&json!({ "home": ["a", ""], "refuses": names('r') }))),
    )
    .await;
    let strict = strict.strategy.unwrap();
    ask(&acme, 'r').await;
    ask(&globex, 'r').await;
    assert_eq!(active(&mut admin).await.generation, strict.generation);
    // What fails is another matter: but one who asks for nothing else is not all.
    let bad = taken(
        &mut admin,
        with_settings(&both(&json!({ "home": ["a", ""], "traps": names('t') }))),
    )
    .await;
    let bad = bad.strategy.unwrap();
    // The other has asked for something, so that it is known to be there.
    assert_eq!(why(globex.get("t_other").await).0, Code::NotFound);
    ask(&acme, 't').await;
    assert_eq!(active(&mut admin).await.generation, bad.generation);
    ask(&globex, 't').await;
    let back = becomes(&mut admin, "the one before", |active| {
        active.generation > bad.generation
    })
    .await;
    assert_eq!(back.digest, strict.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_machine_convicts_no_version() {
    // About half of what fuel allows, and a deadline that only an idle machine keeps.
    let world =
        World::with("limits = { fuel = 50_000_000, deadline = \"20ms\", memory = \"16MiB\", component = \"2MiB\" }");
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_known", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hogs: Vec<_> = (0..8)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box(0);
                }
            })
        })
        .collect();
    let slow = both(&json!({ "home": ["a", ""], "spins": 500_000 }));
    let slow = taken(&mut admin, with_settings(&slow)).await.strategy.unwrap();
    let mut busy = 0;
    for number in 0..100 {
        match why(client.get(&format!("t_n{number}")).await).0 {
            Code::NotFound => {}
            Code::Unavailable | Code::ResourceExhausted => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for hog in hogs {
        hog.join().unwrap();
    }
    println!("{busy} of 100 did not get to run");
    assert_eq!(active(&mut admin).await.generation, slow.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_decision_stands_in_where_the_settings_say_so() {
    let world = World::with("on_failure = \"last-decision\"\nrollback = { failures = 0, window = \"10m\" }");
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    client.get("t_x").await.unwrap();
    let mut admin = gateway.admin().await;
    let fails = both(&json!({ "home": ["a", ""], "traps": ["x", "y"] }));
    let fails = v1::ActivateStrategyRequest {
        allow_moves: true,
        ..with_settings(&fails)
    };
    taken(&mut admin, fails).await;
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
    // Nothing is written where a read might not look.
    assert_eq!(why(client.put("t_x", "2").await).0, Code::Internal);
    // Also once nobody calls it any more.
    for _ in 0..30 {
        assert_eq!(client.get("t_x").await.unwrap().value, "1");
    }
    assert_eq!(
        why(client.get("t_y").await).0,
        Code::Internal,
        "nobody ever decided that"
    );
    assert_eq!(
        why(gateway.client("globex").await.get("t_x").await).0,
        Code::Internal,
        "nor for this tenant"
    );
}
