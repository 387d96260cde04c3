//! Where versions come from: files that change, objects in S3, and settings that are read again.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tagway_proto::v1;
use tagway_proto::v1::strategy::{Mode, State};
use tagway_servers::Ministack;
use tagway_tests::admin::{Admin, activate, distinct};
use tagway_tests::client::why;
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::key_set;
use tempfile::TempDir;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::{SCRIPTED, World, active, becomes, both, home, taken, versions};
use crate::fleet::{Fleet, with_queue};

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until the newest version is in that state.
async fn newest_is(admin: &mut Admin, state: State, digest_is_not: &str) -> v1::Strategy {
    let waited = timeout(PATIENCE, async {
        loop {
            let newest = versions(admin).await.remove(0);
            if newest.state() == state && newest.digest != digest_is_not {
                return newest;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("it comes to that")
}

async fn part(admin: &mut Admin, name: &str) -> v1::get_status_response::Part {
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    status.parts.into_iter().find(|part| part.name == name).unwrap()
}

/// Waits until a part is ready, or is not.
async fn part_is(admin: &mut Admin, name: &str, ready: bool, detail: &str) {
    let waited = timeout(PATIENCE, async {
        loop {
            let part = part(admin, name).await;
            if part.ready == ready && part.detail.contains(detail) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{:?}", part(admin, name).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_taken_up_and_a_bad_one_is_not() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;
    let mut last = first.clone();
    for round in 1..=3 {
        let put = Instant::now();
        world.put(&distinct(&SCRIPTED, round));
        last = becomes(&mut admin, "what the file holds", |active| active.digest != last.digest).await;
        println!("from file to active: {:?}", put.elapsed());
    }
    // Cut off where a tool might have been, and then whole.
    world.put(&SCRIPTED[..SCRIPTED.len() / 2]);
    let rejected = newest_is(&mut admin, State::Rejected, &last.digest).await;
    assert_eq!(rejected.rejected_stage(), State::Compiled);
    assert_eq!(active(&mut admin).await.digest, last.digest);
    world.put(&distinct(&SCRIPTED, 4));
    becomes(&mut admin, "whole again", |active| active.digest != last.digest).await;
    // Ten thousand times the same is nothing.
    let before = active(&mut admin).await;
    for _ in 0..100 {
        world.put(&distinct(&SCRIPTED, 4));
    }
    fs::remove_file(world.folder.path().join("scripted.wasm")).unwrap();
    assert!(gateway.logs("a strategy's source cannot be looked at"));
    assert_eq!(active(&mut admin).await, before);
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_chose_stays_until_the_source_holds_something_else() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;
    let chosen = taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 7)))).await;
    let chosen = chosen.strategy.unwrap();
    // The source is looked at, and holds what it held.
    gateway.signal("HUP");
    world.put(&SCRIPTED);
    // Another file beside it tells nothing, but is how we know that it was looked at: it is refused.
    world.put(b"bad");
    newest_is(&mut admin, State::Rejected, &first.digest).await;
    assert_eq!(active(&mut admin).await, chosen);
    // What was rolled back is not taken up again either.
    let back = v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation: chosen.generation,
    };
    admin.rollback_strategy(back).await.unwrap();
    world.put(&distinct(&SCRIPTED, 7));
    assert!(gateway.logs("was rolled back, and is held back"));
    assert_eq!(active(&mut admin).await.digest, first.digest);
    // Unless somebody asks for it.
    taken(&mut admin, activate("scripted", None)).await;
    assert_eq!(active(&mut admin).await.digest, chosen.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_a_bad_file_changes_nothing() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let first = active(&mut admin).await;
    let file = world.folder.path().join("tagway.toml");

    fs::write(&file, "[strategies.scripted]\nsauce = 1").unwrap();
    part_is(&mut admin, "settings", false, "sauce").await;
    assert_eq!(active(&mut admin).await, first);
    assert_eq!(client.get("t_x").await.unwrap().value, "1");

    let former = both(&json!({ "home": ["b", ""], "former": [["a", ""]] }));
    fs::write(&file, world.settings(&former)).unwrap();
    let second = becomes(&mut admin, "as the settings say", |active| {
        active.generation > first.generation
    })
    .await;
    assert_eq!(second.digest, first.digest);
    part_is(&mut admin, "settings", true, "").await;
    client.put("t_x", "2").await.unwrap();
    assert_eq!(client.get("t_x").await.unwrap().backend, "b");

    // What would lose keys is not taken up, from there either.
    fs::write(&file, world.settings(&home("a"))).unwrap();
    newest_is(&mut admin, State::Rejected, "").await;
    assert_eq!(active(&mut admin).await.generation, second.generation);

    // What needs a restart is said; what is new serves, and what is gone does not.
    let more = world.settings(&former)
        + "\n[strategies.more]\nsource = \"builtin:tag-prefix\"\ntags = [\"tenant_config_\"]\nbackends = [\"a\"]\n\
           [strategies.more.settings]\ntenant_config_ = { backend = \"a\" }\n\n\
           [limits]\nin_flight = 1\n\n[telemetry]\nlog = \"debug\"\ntrace_share = 0.5";
    fs::write(&file, &more).unwrap();
    let waits = "restart takes up what changed in limits, telemetry";
    part_is(&mut admin, "settings", true, waits).await;
    client.put("tenant_config_x", "1").await.unwrap();
    let without = more.split("[strategies.more]").next().unwrap();
    fs::write(&file, without).unwrap();
    gateway.signal("HUP");
    timeout(PATIENCE, async {
        while client.get("tenant_config_x").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(
        why(client.get("tenant_config_x").await),
        (Code::NotFound, "TAG_UNKNOWN".to_owned())
    );
    assert_eq!(client.get("t_x").await.unwrap().value, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_do_not_answer_are_waited_for_all_at_once() {
    const SILENT: usize = 3;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    // Nobody answers until all are asked. Then nobody listens any more.
    thread::spawn(move || {
        let asked: Vec<_> = silent.incoming().take(SILENT).collect();
        drop(asked);
    });
    let world = World::new();
    let far = (0..SILENT).map(|number| {
        format!(
            "[strategies.far-{number}]\nsource = \"s3://far/{number}.wasm\"\nunpinned = true\nregion = \"eu-west-1\"\n\
             endpoint_url = \"{endpoint}\"\ntags = [\"far{number}_\"]\nbackends = [\"a\"]\n"
        )
    });
    let settings = world.settings(&home("a")) + &far.collect::<String>();
    // One after the other takes longer than a gateway may to start.
    let gateway = Gateway::start_in(Arc::clone(&world.folder), Arc::clone(&world.key), &settings);
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    assert_eq!(
        why(client.get("far0_x").await),
        (Code::Internal, "STRATEGY_FAILED".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_answer_keeps_no_other_waiting() {
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", far.local_addr().unwrap());
    let is_silent = Arc::new(AtomicBool::new(false));
    let (asked, is_asked) = mpsc::channel();
    thread::spawn({
        let is_silent = Arc::clone(&is_silent);
        move || {
            let mut held = Vec::new();
            for peer in far.incoming() {
                // Until it is silent it hangs up, so that nobody waits.
                if is_silent.load(Ordering::Relaxed) {
                    held.push(peer);
                    if asked.send(()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    let world = World::new();
    let settings = world.settings(&home("a"))
        + &format!(
            "[strategies.far]\nsource = \"s3://far/away.wasm\"\nunpinned = true\nregion = \"eu-west-1\"\n\
             endpoint_url = \"{endpoint}\"\ntags = [\"far_\"]\nbackends = [\"a\"]\n"
        );
    let gateway = Gateway::start_in(Arc::clone(&world.folder), Arc::clone(&world.key), &settings);
    assert!(
        gateway.logs("a strategy's source cannot be looked at"),
        "{}",
        gateway.log()
    );
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let looks = || gateway.log().matches("a strategy's source cannot be looked at").count();
    let (before, mut admin) = (looks(), gateway.admin().await);
    let mut last = active(&mut admin).await;
    is_silent.store(true, Ordering::Relaxed);
    // With this look it is asked, and does not answer; the next begins while that one waits.
    for round in 1..=2 {
        world.put(&distinct(&SCRIPTED, round));
        last = becomes(&mut admin, "what the file holds", |active| active.digest != last.digest).await;
        if round == 1 {
            block_in_place(|| is_asked.recv_timeout(PATIENCE)).unwrap();
        }
    }
    assert_eq!(looks(), before, "it was given up, and only then was the file looked at");
}

/// Replicas that fetch from one bucket.
struct Bucket {
    fleet: Fleet,
}

impl Bucket {
    async fn new() -> Self {
        let fleet = tokio::task::spawn_blocking(Fleet::new).await.unwrap();
        fleet
            .does(
                "s3 = client('s3')\n\
                 s3.create_bucket(Bucket='plugins', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})\n\
                 s3.put_bucket_notification_configuration(Bucket='plugins', \
                 NotificationConfiguration={'EventBridgeConfiguration': {}})",
            )
            .await;
        Self { fleet }
    }

    async fn put(&self, component: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), component).unwrap();
        let script = format!(
            "client('s3').put_object(Bucket='plugins', Key='scripted.wasm', Body=open({:?}, 'rb').read())",
            file.path().display().to_string()
        );
        self.fleet.does(&script).await;
    }

    fn start(&self, pin: &str) -> Gateway {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[&self.fleet.key]).to_string()).unwrap();
        let world = World {
            folder: folder.into(),
            key: Arc::clone(&self.fleet.key),
            more: format!(
                "{pin}\nregion = \"eu-west-1\"\nendpoint_url = \"{}\"",
                self.fleet.aws.endpoint()
            ),
        };
        let events = with_queue(self.fleet.aws.endpoint(), "");
        let settings = world
            .settings(&home("a"))
            .replace("file:scripted.wasm", "s3://plugins/scripted.wasm")
            + &format!("\n[events]\n{events}");
        let gateway = Gateway::start_in(Arc::clone(&world.folder), Arc::clone(&world.key), &settings);
        assert!(gateway.logs("a part is ready"), "{}", gateway.log());
        gateway
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_put_is_taken_up_by_every_replica() {
    let bucket = Bucket::new().await;
    bucket.put(&SCRIPTED).await;
    let gateways = [bucket.start("unpinned = true"), bucket.start("unpinned = true")];
    let mut admins = Vec::new();
    for gateway in &gateways {
        gateway.client("acme").await.put("t_x", "1").await.unwrap();
        admins.push(gateway.admin().await);
    }
    let first = active(&mut admins[0]).await;
    let put = Instant::now();
    bucket.put(&distinct(&SCRIPTED, 1)).await;
    let mut second = first.clone();
    for admin in &mut admins {
        second = becomes(admin, "what the bucket holds", |active| active.digest != first.digest).await;
    }
    println!("from the bucket to both: {:?}", put.elapsed());

    // Without notifications of the bucket: whoever takes it up by hand tells the others.
    bucket
        .fleet
        .does("client('s3').put_bucket_notification_configuration(Bucket='plugins', NotificationConfiguration={})")
        .await;
    bucket.put(&distinct(&SCRIPTED, 2)).await;
    taken(&mut admins[0], activate("scripted", None)).await;
    becomes(&mut admins[1], "as the other is", |active| {
        active.digest != second.digest
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_object_is_that_one_or_none_and_modes_need_no_cloud() {
    let bucket = Bucket::new().await;
    bucket.put(&SCRIPTED).await;
    let unpinned = bucket.start("unpinned = true");
    let digest = active(&mut unpinned.admin().await).await.digest;
    let gateway = bucket.start(&format!("digest = \"{digest}\""));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    bucket.put(&distinct(&SCRIPTED, 1)).await;
    let rejected = newest_is(&mut admin, State::Rejected, &digest).await;
    assert_eq!(rejected.rejected_stage(), State::Verified);
    assert_eq!(active(&mut admin).await.digest, digest);

    // All of AWS is gone.
    let Bucket { fleet } = bucket;
    let Fleet { aws, .. } = fleet;
    drop::<Ministack>(aws);
    let set = |mode: Mode| v1::SetStrategyModeRequest {
        name: "scripted".to_owned(),
        mode: mode.into(),
    };
    let begun = Instant::now();
    admin.set_strategy_mode(set(Mode::Disabled)).await.unwrap();
    assert_eq!(
        why(client.get("t_x").await),
        (Code::Unavailable, "STRATEGY_DISABLED".to_owned())
    );
    admin.set_strategy_mode(set(Mode::Pinned)).await.unwrap();
    assert_eq!(client.get("t_x").await.unwrap().value, "1");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(active(&mut admin).await.mode(), Mode::Pinned);
    let away = why(admin.activate_strategy(activate("scripted", None)).await);
    assert_eq!(away, (Code::FailedPrecondition, "SOURCE".to_owned()));
}
