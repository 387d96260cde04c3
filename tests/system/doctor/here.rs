//! What is on the machine itself, and whose keys it believes.

use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;
use tagway_servers::{Microburst, Ministack};
use tagway_tests::authority::Authority;
use tagway_tests::gateway::{Gateway, command};
use tagway_tests::issuer::{Key, key_set};

use super::{Machine, Told};

#[test]
fn an_issuer_whose_keys_cannot_be_used_is_told_from_one_that_is_away() {
    let machine = Machine::new();
    let keys = key_set(&[&machine.key]).to_string();
    machine.issuer.set(Err(StatusCode::SERVICE_UNAVAILABLE));
    machine.told().fails("identity.jwks", "503");
    machine.issuer.set(Ok("<html>".to_owned()));
    machine.told().fails("identity.jwks", "not a JSON Web Key Set");
    machine.issuer.set(Ok(json!({ "keys": [] }).to_string()));
    machine.told().fails("identity.jwks", "no key");
    let other = Key::ed("other");
    machine.issuer.set(Ok(key_set(&[&other]).to_string()));
    let fix = machine
        .told()
        .fails("identity.jwks", "none of its keys is for signing with");
    assert!(fix.contains("set identity.algorithms"), "{fix}");
    let machine = machine.with("TAGWAY_IDENTITY__ALGORITHMS", "[\"EdDSA\"]");
    machine.told().is_well();
    machine.issuer.set(Ok(keys));
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys.json?key=hush", nobody.local_addr().unwrap());
    let told = machine.with("TAGWAY_IDENTITY__JWKS", &url).told();
    told.fails("identity.jwks", "onnection refused");
    assert!(!told.text.contains("hush"), "{}", told.text);
}

#[test]
fn a_clock_that_is_off_is_told_by_whoever_answers() {
    let machine = Machine::new();
    machine.issuer.set_date("Sat, 01 Jan 2000 00:00:00 GMT");
    let fix = machine
        .told()
        .fails("clock, beside the issuer", "ahead of it: beyond identity.leeway");
    assert!(fix.contains("timedatectl"), "{fix}");
    machine.issuer.set_date("Fri, 31 Dec 2100 23:59:59 GMT");
    machine.told().fails("clock, beside the issuer", "behind it");
    // Where nobody tells the time, that is said.
    fs::write(machine.path("keys.json"), key_set(&[&machine.key]).to_string()).unwrap();
    let machine = machine.with("TAGWAY_IDENTITY__JWKS", "file:keys.json");
    let told = machine.told();
    told.is_well();
    told.says("clock", "was not compared");

    let ministack = Ministack::start();
    let faults = Microburst::start(ministack.endpoint());
    let machine = Machine::with_aws(ministack.endpoint());
    machine.run("tagway provision tagway.toml");
    let date = json!({ "operation": "GetCallerIdentity",
        "response": { "set_headers": { "Date": "Sat, 01 Jan 2000 00:00:00 GMT" } } });
    faults.rule(&date);
    let machine = machine.at(faults.endpoint());
    machine.told().fails("clock, beside AWS", "ahead of it");
}

#[test]
fn folders_that_others_may_look_into_are_closed_as_told() {
    for key in ["TAGWAY_SERVER__STATE", "TAGWAY_CACHE__SNAPSHOT"] {
        let machine = Machine::new().with(key, "own");
        machine.told().is_well();
        fs::create_dir(machine.path("own")).unwrap();
        fs::set_permissions(machine.path("own"), Permissions::from_mode(0o755)).unwrap();
        let subject = key.trim_start_matches("TAGWAY_").replace("__", ".").to_lowercase();
        let fix = machine.told().fails(&subject, "755");
        machine.run(&fix);
        machine.told().is_well();
    }
}

#[test]
fn a_certificate_is_looked_at_before_clients_do() {
    let authority = Authority::new();
    let tls = "{ cert = \"server.pem\", key = \"server.key\", client_ca = \"clients.pem\" }";
    let machine = Machine::new().with("TAGWAY_SERVER__TLS", tls);
    let write = |name: &str, text: &str| {
        fs::write(machine.path(name), text).unwrap();
        fs::set_permissions(machine.path(name), Permissions::from_mode(0o600)).unwrap();
    };
    let good = authority.sign();
    write("clients.pem", &authority.pem());
    write("server.pem", &good.cert);
    write("server.key", &good.key);
    machine.told().is_well();
    write("server.key", &authority.sign().key);
    let fix = machine.told().fails("server.tls", "");
    assert!(fix.contains("into server.key"), "{fix}");
    let over = authority.sign_until(2020);
    write("server.pem", &over.cert);
    write("server.key", &over.key);
    machine.told().fails("server.tls", "was good until 2020-01-01");
    write("server.pem", "none");
    machine.told().fails("server.tls", "server.tls.cert = server.pem");
    write("server.pem", &good.cert);
    write("server.key", &good.key);
    fs::set_permissions(machine.path("server.key"), Permissions::from_mode(0o644)).unwrap();
    let told = machine.told();
    assert_eq!(told.not_well(), ["warn mode of server.key"], "{}", told.text);
    machine.run(told.about("mode of server.key")["fix"].as_str().unwrap());
    machine.told().is_well();
}

#[test]
fn who_has_a_port_is_named() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let machine = Machine::new().with("TAGWAY_SERVER__LISTEN", &held.local_addr().unwrap().to_string());
    let fix = machine
        .told()
        .fails("server.listen", &format!("process {}", process::id()));
    assert!(fix.contains(&format!("kill {}", process::id())), "{fix}");
    drop(held);
    machine.told().is_well();
}

#[test]
fn beside_a_gateway_that_runs_all_is_well() {
    let gateway = Gateway::start();
    let doctor = || {
        let mut command = command(gateway.folder.path());
        command.env("TAGWAY_SERVER__LISTEN", &gateway.address);
        command.env("TAGWAY_SERVER__OPS_LISTEN", &gateway.ops);
        Told::of(
            &command
                .args(["doctor", "tagway.toml", "--output", "json"])
                .output()
                .unwrap(),
        )
    };
    let told = doctor();
    told.is_well();
    told.says("backends.local.path", "a gateway that runs has it");
    for subject in ["server.listen", "server.ops_listen"] {
        told.says(
            subject,
            &format!("a gateway that runs has it (process {})", gateway.id()),
        );
    }
    // One that was killed left a store that is repaired when it is opened, and not before.
    let put = gateway.tagway("acme", &["put", "tenant_config_a", "1"], b"");
    assert!(put.status.success(), "{put:?}");
    gateway.signal("KILL");
    let folder = Arc::clone(&gateway.folder);
    drop(gateway);
    let before = fs::read(folder.path().join("store.redb")).unwrap();
    let mut command = command(folder.path());
    let told = Told::of(
        &command
            .args(["doctor", "tagway.toml", "--output", "json"])
            .output()
            .unwrap(),
    );
    told.is_well();
    told.says("backends.local.path", "was not closed");
    assert!(fs::read(folder.path().join("store.redb")).unwrap() == before);
}

#[test]
fn a_store_that_is_damaged_is_told_and_moved_away_as_told() {
    let machine = Machine::new();
    fs::create_dir(machine.path("tagway-data")).unwrap();
    let store = machine.path("tagway-data/store.redb");
    fs::write(&store, vec![7; 1 << 20]).unwrap();
    fs::set_permissions(&store, Permissions::from_mode(0o600)).unwrap();
    let fix = machine
        .told()
        .fails("backends.local.path", "no store of ours, or damaged");
    let (_, command) = fix.split_once("to begin with nothing, ").unwrap();
    machine.run(command);
    machine.told().is_well();
}

#[test]
fn a_strategy_that_cannot_serve_is_told_with_the_stage() {
    let machine = Machine::new().with("TAGWAY_STRATEGIES__TAG-PREFIX__SOURCE", "file:none.wasm");
    machine
        .told()
        .fails("strategies.tag-prefix", "could not be fetched: file:none.wasm");
    fs::write(machine.path("none.wasm"), "text").unwrap();
    machine.told().fails("strategies.tag-prefix", "could not be compiled");
    let digest = format!("sha256:{}", "0".repeat(64));
    let machine = machine.with("TAGWAY_STRATEGIES__TAG-PREFIX__DIGEST", &digest);
    machine.told().fails("strategies.tag-prefix", "could not be verified");
    // And one in S3.
    let ministack = Ministack::start();
    let machine = machine
        .with("TAGWAY_STRATEGIES__TAG-PREFIX__SOURCE", "s3://components/router.wasm")
        .with("TAGWAY_STRATEGIES__TAG-PREFIX__REGION", "eu-west-1")
        .with("TAGWAY_STRATEGIES__TAG-PREFIX__ENDPOINT_URL", ministack.endpoint())
        .with("AWS_ENDPOINT_URL", ministack.endpoint());
    let told = machine.told();
    told.fails(
        "strategies.tag-prefix",
        "could not be fetched: s3://components/router.wasm",
    );
}
