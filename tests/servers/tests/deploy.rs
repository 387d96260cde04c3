//! The template that users deploy is sound, and the wall in it stands: what AWS lets each role do is what it should.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by failing"
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tagway_servers::{Ministack, boto3, cfn_lint};

fn template(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../gateway/deploy")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(template(name)).expect("it is in this repository")
}

#[test]
fn the_templates_are_clean() {
    for name in [
        "cloudformation.yaml",
        "events.yaml",
        "events-topic.yaml",
        "events-queue.yaml",
    ] {
        let output = cfn_lint(&template(name));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.is_empty(), "{name}: {output:?}");
    }
}

/// The policies evaluated by an emulator, so this holds as far as it reads policies as AWS does.
#[test]
fn a_tenant_reaches_its_own_and_reads_what_is_shared() {
    // A string in JSON is one in Python.
    let templates = format!(
        "template = {}\nevents = {}",
        json!(text("cloudformation.yaml")),
        json!(text("events.yaml"))
    );
    let script = format!("{templates}\n{}", include_str!("deploy.py"));
    let answer = boto3(&script, Ministack::start_with_auth().endpoint());
    let mut allowed: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));

    assert_eq!(allowed["role"].take(), json!(["for a tenant"]));
    let tenant = [
        "get TENANT#acme",
        "query TENANT#acme",
        "put TENANT#acme",
        "update TENANT#acme",
        "delete TENANT#acme",
        "batch TENANT#acme",
        "transact TENANT#acme",
        "get SHARED",
        "query SHARED",
        "batch SHARED",
        "batch of own and shared",
        "get acme",
        "get version acme",
        "get secret acme",
        "get path acme",
        "get all acme",
        "history acme",
        "put acme",
        "put secret acme",
        "put large secret acme",
        "delete acme",
        "get _shared",
        "get version _shared",
        "get secret _shared",
        "get path _shared",
        "get all _shared",
        "history _shared",
        "get own and shared",
    ];
    assert_eq!(allowed["tenant"].take(), json!(tenant));
    let gateway = [
        "get SHARED",
        "query SHARED",
        "put SHARED",
        "update SHARED",
        "delete SHARED",
        "batch SHARED",
        "transact SHARED",
        "put events",
        "get _shared",
        "get version _shared",
        "get secret _shared",
        "get path _shared",
        "get all _shared",
        "history _shared",
        "put _shared",
        "put secret _shared",
        "put large secret _shared",
        "delete _shared",
    ];
    assert_eq!(allowed["gateway"].take(), json!(gateway));
    let queues = [
        "create queue",
        "attributes of queue",
        "set attributes of queue",
        "tag queue",
        "tags of queue",
        "receive from queue",
        "delete from queue",
        "put rule",
        "put rule on bus",
        "put target",
        "remove target",
        "delete rule",
        "delete queue",
        "list queues",
        "list rules",
    ];
    assert_eq!(allowed["queues"].take(), json!(queues));
}
