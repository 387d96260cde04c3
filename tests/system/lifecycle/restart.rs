//! What outlives a restart, whatever the source holds by then.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tagway_proto::v1;
use tagway_proto::v1::strategy::{Mode, State};
use tagway_tests::admin::{activate, distinct};
use tagway_tests::client::why;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{SCRIPTED, World, active, becomes, both, home, taken, versions};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_disabled_or_pinned_stays_so_over_a_restart() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let set = |mode: Mode| v1::SetStrategyModeRequest {
        name: "scripted".to_owned(),
        mode: mode.into(),
    };
    let disabled = (Code::Unavailable, "STRATEGY_DISABLED".to_owned());
    let answer = admin.set_strategy_mode(set(Mode::Disabled)).await.unwrap().into_inner();
    assert_eq!(answer.strategy, None);
    assert_eq!(why(client.get("t_x").await), disabled);
    let refused = why(admin
        .activate_strategy(activate("scripted", Some(distinct(&SCRIPTED, 1))))
        .await);
    assert_eq!(refused, (Code::FailedPrecondition, "STRATEGY_DISABLED".to_owned()));
    gateway.signal("KILL");
    gateway.wait();

    let mut gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    let mut admin = gateway.admin().await;
    assert_eq!(why(client.get("t_x").await), disabled);
    let answer = admin.set_strategy_mode(set(Mode::Pinned)).await.unwrap().into_inner();
    assert_eq!(answer.strategy.unwrap().state(), State::Active);
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
    let pinned = active(&mut admin).await;
    assert_eq!(pinned.mode(), Mode::Pinned);
    gateway.signal("KILL");
    gateway.wait();

    world.put(&distinct(&SCRIPTED, 1));
    let gateway = world.start(&home("a"));
    let mut admin = gateway.admin().await;
    let client = gateway.client("acme").await;
    client.get("t_x").await.unwrap();
    assert_eq!(active(&mut admin).await.digest, pinned.digest);
    admin.set_strategy_mode(set(Mode::Follow)).await.unwrap();
    becomes(&mut admin, "what the source holds", |active| {
        active.digest != pinned.digest
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_what_served_whatever_the_source_holds() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 1)))).await;
    let second = active(&mut admin).await;
    gateway.signal("TERM");
    gateway.wait();
    for content in [None, Some(b"bad".as_slice())] {
        let source = world.folder.path().join("scripted.wasm");
        match content {
            None => fs::remove_file(&source).unwrap(),
            Some(bad) => fs::write(&source, bad).unwrap(),
        }
        let mut gateway = world.start(&home("a"));
        let mut admin = gateway.admin().await;
        assert_eq!(active(&mut admin).await.digest, second.digest);
        let client = gateway.client("acme").await;
        assert_eq!(client.get("t_x").await.unwrap().value, "1");
        gateway.signal("KILL");
        gateway.wait();
    }
    // A version that would move keys waits for somebody to accept it, though all that is known is what was before.
    world.put(&SCRIPTED);
    let gateway = world.start(&home("b"));
    let mut admin = gateway.admin().await;
    assert!(gateway.logs("could be compared"));
    assert_eq!(active(&mut admin).await.digest, second.digest);
    let client = gateway.client("acme").await;
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_and_is_damaged_is_not_served() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    gateway.signal("TERM");
    gateway.wait();
    let components = world.folder.path().join("state/components");
    for file in fs::read_dir(&components).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    // Compiled code that is none is made anew.
    let compiled = files_below(&world.folder.path().join("state/compiled"));
    assert!(!compiled.is_empty(), "it is kept");
    for file in compiled {
        fs::write(file, b"none").unwrap();
    }
    fs::write(world.folder.path().join("state/names"), b"tagway names 1\n\xff\xff\xff").unwrap();
    let mut gateway = world.start(&home("a"));
    assert!(gateway.logs("what served before cannot serve again"));
    assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");
    gateway.signal("TERM");
    gateway.wait();
    // What says who is disabled and pinned is not to be guessed.
    fs::write(world.folder.path().join("state/strategies.json"), b"{").unwrap();
    let refused = gateway.tagway("acme", &["serve", "--config", "tagway.toml"], b"");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && told.contains("server.state") && told.contains("strategies.json"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_while_it_takes_up_a_version_serves_the_old_or_the_new() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let mut digests = vec![active(&mut gateway.admin().await).await.digest];
    let mut seen = BTreeSet::new();
    for round in 0..8u32 {
        let mut admin = gateway.admin().await;
        let client = gateway.client("acme").await;
        client.get("t_x").await.unwrap();
        let component = distinct(&SCRIPTED, round);
        let begun = Instant::now();
        let activation = tokio::spawn(async move {
            let answer = admin.activate_strategy(activate("scripted", Some(component))).await;
            answer.map(|answer| answer.into_inner().strategy.unwrap())
        });
        // From before it is fetched to after it serves.
        sleep(Duration::from_millis(u64::from(round) * 15)).await;
        let mut watching = gateway.admin().await;
        let on_its_way = versions(&mut watching).await;
        seen.insert(on_its_way[0].state());
        gateway.signal("KILL");
        gateway.wait();
        let acknowledged = activation
            .await
            .unwrap()
            .ok()
            .filter(|taken| taken.state() == State::Active);
        println!("killed after {:?}, {:?}", begun.elapsed(), on_its_way[0].state());
        gateway = world.start(&home("a"));
        let served = active(&mut gateway.admin().await).await.digest;
        if let Some(acknowledged) = acknowledged {
            assert_eq!(served, acknowledged.digest, "what was acknowledged is kept");
        } else {
            assert!(digests.last() == Some(&served) || digests.iter().all(|digest| *digest != served));
        }
        digests.push(served);
        assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");
    }
    println!("{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_can_still_go_back_and_what_was_rolled_back_stays_away() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;
    world.put(&distinct(&SCRIPTED, 1));
    becomes(&mut admin, "what the file holds", |active| {
        active.digest != first.digest
    })
    .await;
    // Asked for, it is told only once it outlives this.
    let second = taken(&mut admin, activate("scripted", None)).await.strategy.unwrap();
    gateway.signal("KILL");
    gateway.wait();
    let mut gateway = world.start(&home("a"));
    let mut admin = gateway.admin().await;
    let back = v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation: second.generation,
    };
    admin.rollback_strategy(back).await.unwrap();
    assert_eq!(active(&mut admin).await.digest, first.digest);
    gateway.signal("KILL");
    gateway.wait();
    // The source still holds it, given otherwise or not.
    world.put(&distinct(&SCRIPTED, 1));
    let mut gateway = world.start(&both(&json!({ "home": ["a", ""], "defaults": [["b", ""]] })));
    assert!(gateway.logs("was rolled back, and is held back"), "{}", gateway.log());
    assert_eq!(active(&mut gateway.admin().await).await.digest, first.digest);
    // Nor does it serve because what served is lost.
    gateway.signal("KILL");
    gateway.wait();
    fs::remove_dir_all(world.folder.path().join("state/components")).unwrap();
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    assert_eq!(
        why(client.get("t_x").await),
        (Code::Internal, "STRATEGY_FAILED".to_owned())
    );
    let mut admin = gateway.admin().await;
    taken(&mut admin, activate("scripted", None)).await;
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_may_end_the_process_is_not_begun_for_ever() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let first = active(&mut gateway.admin().await).await;
    gateway.signal("TERM");
    gateway.wait();
    // As if it had ended while it took this one up, and once more.
    let bad = distinct(&SCRIPTED, 66);
    world.put(&bad);
    let file = world.folder.path().join("state/strategies.json");
    let digest = {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bad);
        let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{}", hex.concat())
    };
    let mut set: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    set["strategies"]["scripted"]["attempts"] = json!([{ "digest": digest, "times": 2 }]);
    fs::write(&file, set.to_string()).unwrap();
    let gateway = world.start(&home("a"));
    assert!(gateway.logs("is held back"));
    let mut admin = gateway.admin().await;
    assert_eq!(active(&mut admin).await.digest, first.digest);
    assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");
    // Another one is begun.
    world.put(&distinct(&SCRIPTED, 67));
    becomes(&mut admin, "the next", |active| active.digest != first.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_were_rolled_back_do_not_keep_their_component_away() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;
    let file = world.folder.path().join("tagway.toml");
    let bad = both(&json!({ "home": ["a", ""], "defaults": [["b", ""]] }));
    fs::write(&file, world.settings(&bad)).unwrap();
    let second = becomes(&mut admin, "as the settings say", |active| {
        active.generation > first.generation
    })
    .await;
    let back = v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation: second.generation,
    };
    admin.rollback_strategy(back).await.unwrap();
    gateway.signal("KILL");
    gateway.wait();
    // The file still says so, and what served serves.
    let gateway = world.start(&bad);
    assert!(gateway.logs("was rolled back, and is held back"), "{}", gateway.log());
    assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");
    let mut admin = gateway.admin().await;
    let again = active(&mut admin).await;
    // Mended, they are taken up.
    let good = both(&json!({ "home": ["a", ""], "defaults": [["b", "other"]] }));
    fs::write(&file, world.settings(&good)).unwrap();
    becomes(&mut admin, "as they are mended", |active| {
        active.generation > again.generation
    })
    .await;
}
