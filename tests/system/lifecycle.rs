//! A strategy's life: what is taken up, what is refused and at which stage, what leaves by itself, and what outlives a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use tagway_proto::v1;
use tagway_proto::v1::strategy::{Mode, State};
use tagway_tests::admin::{Admin, activate, distinct};
use tagway_tests::client::{Client, refused, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::{AUDIENCE, ISSUER, Key, key_set};
use tagway_tests::watcher::{Watcher, to_prefix};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

pub(crate) static SCRIPTED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    tagway_plugin_builder::build("scripted", &target).unwrap()
});

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder with a scripted strategy and everything that a gateway needs.
pub(crate) struct World {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) key: Arc<Key>,
    pub(crate) more: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let key = Key::ed("key");
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
        fs::write(folder.path().join("scripted.wasm"), &*SCRIPTED).unwrap();
        Self {
            folder: folder.into(),
            key: key.into(),
            more: String::new(),
        }
    }

    /// With more of the strategy's settings.
    pub(crate) fn with(more: &str) -> Self {
        Self {
            more: more.to_owned(),
            ..Self::new()
        }
    }

    pub(crate) fn settings(&self, script: &Value) -> String {
        // JSON is not TOML, but a TOML string holds it for a strategy that reads it from there.
        let layers = script.as_object().unwrap().iter().map(|(tenant, layers)| {
            let layers = layers.as_object().unwrap().iter();
            let layers = layers.map(|(layer, rules)| format!("{layer:?} = {}", inline(rules)));
            format!("{tenant:?} = {{ {} }}\n", layers.collect::<Vec<_>>().join(", "))
        });
        format!(
            r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
ops_listen = ""
state = "state"

[identity]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
jwks = "file:keys.json"
algorithms = ["EdDSA"]

[backends.a]
kind = "embedded"
path = "a.redb"

[backends.b]
kind = "embedded"
path = "b.redb"

[strategies.scripted]
source = "file:scripted.wasm"
tags = ["t_"]
backends = ["a", "b"]
{}

[strategies.scripted.settings]
{}
"#,
            self.more,
            layers.collect::<String>()
        )
    }

    pub(crate) fn start(&self, script: &Value) -> Gateway {
        Gateway::start_in(Arc::clone(&self.folder), Arc::clone(&self.key), &self.settings(script))
    }

    pub(crate) fn put(&self, component: &[u8]) {
        // As tools do: beside it, and then in its place.
        let new = self.folder.path().join("new.wasm");
        fs::write(&new, component).unwrap();
        fs::rename(new, self.folder.path().join("scripted.wasm")).unwrap();
    }
}

/// JSON as TOML's inline tables.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let pairs = object.iter().map(|(key, value)| format!("{key:?} = {}", inline(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Array(array) => format!("[{}]", array.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Everything of both tenants, decided so.
pub(crate) fn both(layer: &Value) -> Value {
    json!({ "acme": { "": layer }, "globex": { "": layer } })
}

pub(crate) fn home(backend: &str) -> Value {
    both(&json!({ "home": [backend, ""] }))
}

/// The source again, with these settings.
pub(crate) fn with_settings(script: &Value) -> v1::ActivateStrategyRequest {
    v1::ActivateStrategyRequest {
        settings: script.to_string(),
        ..activate("scripted", None)
    }
}

pub(crate) async fn explained(client: &Client, key: &str) -> v1::ExplainRouteResponse {
    let request = client.request(v1::ExplainRouteRequest {
        key: key.to_owned(),
        ..v1::ExplainRouteRequest::default()
    });
    client.grpc.clone().explain_route(request).await.unwrap().into_inner()
}

pub(crate) async fn taken(admin: &mut Admin, request: v1::ActivateStrategyRequest) -> v1::ActivateStrategyResponse {
    let answer = admin.activate_strategy(request).await.unwrap().into_inner();
    let strategy = answer.strategy.as_ref().unwrap();
    assert_eq!(strategy.state(), State::Active, "{strategy:?}");
    answer
}

async fn not_taken(
    admin: &mut Admin,
    request: v1::ActivateStrategyRequest,
    stage: State,
) -> v1::ActivateStrategyResponse {
    let answer = admin.activate_strategy(request).await.unwrap().into_inner();
    let strategy = answer.strategy.as_ref().unwrap();
    assert_eq!(strategy.state(), State::Rejected, "{strategy:?}");
    assert_eq!(strategy.rejected_stage(), stage, "{strategy:?}");
    answer
}

pub(crate) async fn versions(admin: &mut Admin) -> Vec<v1::Strategy> {
    let listed = admin.list_strategies(v1::ListStrategiesRequest {}).await.unwrap();
    listed.into_inner().strategies
}

pub(crate) async fn active(admin: &mut Admin) -> v1::Strategy {
    let versions = versions(admin).await;
    let mut active = versions.into_iter().filter(|version| version.state() == State::Active);
    let first = active.next().expect("one serves");
    assert_eq!(active.next(), None, "and one alone");
    first
}

/// Waits until the active version is as wished.
pub(crate) async fn becomes(admin: &mut Admin, what: &str, is_so: impl Fn(&v1::Strategy) -> bool) -> v1::Strategy {
    let waited = timeout(PATIENCE, async {
        loop {
            let active = active(admin).await;
            if is_so(&active) {
                return active;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("no version became {what}"))
}

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
    let mut generations = std::collections::BTreeSet::new();
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
async fn fewer_tags_leave_the_others_as_they_are_over_a_restart() {
    let key = Arc::new(Key::ed("key"));
    let folder = Arc::new(TempDir::new().unwrap());
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let all = tagway_tests::gateway::settings("file:keys.json", "").replace(
        "[server]",
        "[server]\nadmin_listen = \"127.0.0.1:0\"\nstate = \"state\"",
    );
    let mut gateway = Gateway::start_in(Arc::clone(&folder), Arc::clone(&key), &all);
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "1").await.unwrap();
    client.put("param_config_a", "1").await.unwrap();
    let fewer = all.replace("\"param_config_\", ", "");
    assert_ne!(fewer, all);
    fs::write(folder.path().join("tagway.toml"), &fewer).unwrap();
    assert!(gateway.logs("the settings grant it less"));
    let gone = (Code::NotFound, "TAG_UNKNOWN".to_owned());
    assert_eq!(why(client.get("param_config_a").await), gone);
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "1");
    gateway.signal("KILL");
    gateway.wait();
    let gateway = Gateway::start_in(Arc::clone(&folder), Arc::clone(&key), &fewer);
    let client = gateway.client("acme").await;
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "1");
    assert_eq!(why(client.get("param_config_a").await), gone);
    // Granted again it is served again, as it was.
    fs::write(folder.path().join("tagway.toml"), &all).unwrap();
    timeout(PATIENCE, async {
        while client.get("param_config_a").await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
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
async fn what_the_settings_grant_no_more_is_gone_at_once_and_does_not_come_back() {
    let world = World::new();
    let former = both(&json!({ "home": ["b", ""], "former": [["a", ""]] }));
    let mut gateway = world.start(&former);
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let second = taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 1))))
        .await
        .strategy
        .unwrap();
    let file = world.folder.path().join("tagway.toml");
    let less = world
        .settings(&former)
        .replace("backends = [\"a\", \"b\"]", "backends = [\"a\"]");
    fs::write(&file, &less).unwrap();
    let failed = (Code::Internal, "STRATEGY_FAILED".to_owned());
    let clipped = becomes(&mut admin, "one with less", |active| {
        active.generation > second.generation
    })
    .await;
    assert_eq!(clipped.digest, second.digest);
    assert_eq!(why(client.get("t_x").await), failed);
    // Not by way of the version before, nor by way of a pause, nor by a restart.
    let back = v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation: 0,
    };
    admin.rollback_strategy(back).await.unwrap();
    assert_eq!(why(client.get("t_x").await), failed);
    for mode in [Mode::Disabled, Mode::Pinned] {
        let mode = v1::SetStrategyModeRequest {
            name: "scripted".to_owned(),
            mode: mode.into(),
        };
        admin.set_strategy_mode(mode).await.unwrap();
    }
    assert_eq!(why(client.get("t_x").await), failed);
    gateway.signal("KILL");
    gateway.wait();
    let gateway = Gateway::start_in(Arc::clone(&world.folder), Arc::clone(&world.key), &less);
    assert_eq!(why(gateway.client("acme").await.get("t_x").await), failed);
    // What is granted again is used again.
    fs::write(&file, world.settings(&former)).unwrap();
    assert!(gateway.logs("settings were read again"));
    let mut admin = gateway.admin().await;
    let follow = v1::SetStrategyModeRequest {
        name: "scripted".to_owned(),
        mode: Mode::Follow.into(),
    };
    admin.set_strategy_mode(follow).await.unwrap();
    let again = v1::ActivateStrategyRequest {
        allow_moves: true,
        ..activate("scripted", None)
    };
    taken(&mut admin, again).await;
    assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");
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
    assert!(gateway.logs("was rolled back, and is held back"));
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
async fn a_gateway_that_is_killed_while_it_takes_up_a_version_serves_the_old_or_the_new() {
    let world = World::new();
    let mut gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let mut digests = vec![active(&mut gateway.admin().await).await.digest];
    let mut seen = std::collections::BTreeSet::new();
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
