//! The commands of those who operate a gateway, as they type them.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};
use tagway_tests::admin::distinct;
use tagway_tests::gateway::Gateway;
use tagway_tests::watcher::{Watcher, to_keys};

use crate::lifecycle::{SCRIPTED, World, both, home};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

/// What a command printed as JSON, an object a line.
fn objects(output: &Output) -> Vec<Value> {
    assert_eq!(code(output), Some(0), "{}", text(output));
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_are_listed_taken_up_rolled_back_pinned_and_disabled() {
    let world = World::new();
    let gateway = world.start(&home("a"));
    gateway.client("acme").await.put("t_x", "1").await.unwrap();
    let file = |name: &str, content: &[u8]| fs::write(world.folder.path().join(name), content).unwrap();
    file("one.wasm", &distinct(&SCRIPTED, 1));
    file("bad.wasm", b"bad");
    file("moves.json", home("b").to_string().as_bytes());
    file(
        "strict.json",
        both(&json!({ "home": ["a", ""], "defaults": [["b", ""]] }))
            .to_string()
            .as_bytes(),
    );
    let strategy = |arguments: &[&str]| gateway.operate(&[&["strategy"], arguments].concat());

    let listed = objects(&strategy(&["list"]));
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["state"], &listed[0]["mode"]),
        (&json!("active"), &json!("follow"))
    );
    let first = listed[0]["generation"].to_string();

    let tried = objects(&strategy(&[
        "activate",
        "scripted",
        "--component",
        "one.wasm",
        "--dry-run",
    ]));
    assert_eq!(
        (&tried[0]["state"], &tried[0]["known"], &tried[0]["moved"]),
        (&json!("shadowed"), &json!(1), &json!(0))
    );
    let bad = strategy(&["activate", "scripted", "--component", "bad.wasm"]);
    assert_eq!(code(&bad), Some(1));
    assert!(
        text(&bad).contains("not compiled: it is no WebAssembly"),
        "{}",
        text(&bad)
    );
    let moves = strategy(&["activate", "scripted", "--settings", "moves.json", "--output", "text"]);
    assert_eq!(code(&moves), Some(1));
    assert!(
        text(&moves).contains("compared   1 of 1 known keys, of which 1 would lose"),
        "{}",
        text(&moves)
    );
    assert!(text(&moves).contains("acme/t_x"), "{}", text(&moves));
    let taken = objects(&strategy(&[
        "activate",
        "scripted",
        "--settings",
        "strict.json",
        "--generation",
        &first,
    ]));
    assert_eq!(taken[0]["state"], json!("active"));
    let late = strategy(&[
        "activate",
        "scripted",
        "--component",
        "one.wasm",
        "--generation",
        &first,
    ]);
    assert_eq!(code(&late), Some(4), "{}", text(&late));
    let no_file = strategy(&["activate", "scripted", "--component", "none.wasm"]);
    assert_eq!(code(&no_file), Some(2));
    assert_eq!(code(&strategy(&["activate", "nobody"])), Some(3));
    let accepted = objects(&strategy(&[
        "activate",
        "scripted",
        "--settings",
        "moves.json",
        "--allow-moves",
    ]));
    assert_eq!(
        (&accepted[0]["state"], &accepted[0]["moved_keys"]),
        (&json!("active"), &json!(["acme/t_x"]))
    );
    let back = objects(&strategy(&["rollback", "scripted"]));
    assert_eq!(back[0]["state"], json!("active"));
    assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");

    assert_eq!(objects(&strategy(&["pin", "scripted"]))[0]["mode"], json!("pinned"));
    assert_eq!(objects(&strategy(&["disable", "scripted"])), Vec::<Value>::new());
    let away = gateway.operate(&["status"]);
    assert_eq!(code(&away), Some(1));
    assert!(text(&away).contains("away: strategy:scripted"), "{}", text(&away));
    let shown = gateway.operate(&["status", "--output", "text"]);
    assert!(text(&shown).contains("disabled by an operator"), "{}", text(&shown));
    assert_eq!(objects(&strategy(&["follow", "scripted"]))[0]["mode"], json!("follow"));
    let ready = objects(&gateway.operate(&["status"]));
    assert!(
        ready[0]["parts"]
            .as_array()
            .unwrap()
            .iter()
            .all(|part| part["ready"] == json!(true)),
        "{ready:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_listed_and_what_is_near_is_refreshed() {
    let gateway = Gateway::start_admin();
    let client = gateway.client("acme").await;
    let config = client.put("tenant_config_a", "1").await.unwrap();
    let watcher = Watcher::of(&client, to_keys("one", &["tenant_config_a"])).await;
    watcher.acknowledge("one", "tenant_config_a", &config.etag, "");
    watcher.acknowledge("one", "tenant_config_a", &config.etag, "too large");
    let told = || objects(&gateway.operate(&["watchers", "--tenant", "acme", "--key", "tenant_config_a"]));
    // What was said is on its way.
    while told()[0]["rejected"] != json!({ "tenant_config_a": "too large" }) {}
    assert_eq!(
        (&told()[0]["keys"], &told()[0]["etag"]),
        (&json!(1), &json!(config.etag))
    );
    let shown = gateway.operate(&["watchers", "--output", "text", "--key", "tenant_config_a"]);
    assert!(
        text(&shown).contains("refuses tenant_config_a: too large"),
        "{}",
        text(&shown)
    );
    assert_eq!(
        objects(&gateway.operate(&["watchers", "--tenant", "globex"])),
        Vec::<Value>::new()
    );

    let refreshed = objects(&gateway.operate(&["refresh", "--tenant", "acme", "tenant_config_a"]));
    assert_eq!(refreshed, [json!({ "refreshed": 1 })]);
    let bad = gateway.operate(&["refresh", "--tenant", "_shared"]);
    assert_eq!(code(&bad), Some(2), "{}", text(&bad));
    let nobody = gateway.tagway(
        "acme",
        &["status", "--endpoint", &format!("http://{}", gateway.admin)],
        b"",
    );
    assert_eq!(code(&nobody), Some(5), "{}", text(&nobody));
    let nowhere = gateway.tagway("acme", &["status", "--endpoint", "http://127.0.0.1:1"], b"");
    assert_eq!(code(&nowhere), Some(6), "{}", text(&nowhere));
    assert!(text(&nowhere).contains("server.admin_listen"), "{}", text(&nowhere));
}
