//! The command line where it needs no gateway: arguments, settings, and what they answer. (Being the binary's own
//! integration test, it also has cargo build the binary that the whole-system tests run.)

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A whole file that resolves, each section to be cut or changed by the tests.
const GOOD: &str = r#"
[server]
listen = "127.0.0.1:0"

[identity]
issuer = "https://issuer.test"
audiences = ["tagway"]
jwks = "file:keys.json"

[backends.local]
kind = "embedded"
path = "store.redb"

[strategies.tag-prefix]
source = "builtin:tag-prefix"
tags = ["tenant_config_"]
backends = ["local"]

[strategies.tag-prefix.settings]
tenant_config_ = { backend = "local" }
"#;

fn tagway(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagway"))
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Exit code, stdout, stderr.
fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    read(&tagway(folder, arguments, &[]))
}

fn read(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A folder with this file, and keys beside it.
fn folder_with(settings: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tagway.toml"), settings).unwrap();
    fs::write(folder.path().join("keys.json"), r#"{"keys": []}"#).unwrap();
    folder
}

fn check(settings: &str) -> (i32, String, String) {
    run(folder_with(settings).path(), &["check", "tagway.toml"])
}

#[test]
fn a_good_file_is_reported() {
    let (code, out, err) = check(GOOD);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        "127.0.0.1:0",
        "https://issuer.test",
        "file:keys.json",
        "local: embedded",
        "tag-prefix 0.1.0: tenant_config_, sha256:",
    ] {
        assert!(out.contains(part), "{part} in {out}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_named_with_file_line_and_key() {
    let changed = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    };
    let cases = [
        ("[server", changed("[server]", "[server"), "tagway.toml:2: "),
        (
            "an unknown key",
            changed("listen =", "lisen ="),
            "tagway.toml:3: server.lisen: unknown field",
        ),
        (
            "an unknown table",
            format!("{GOOD}[nosuch]\n"),
            "tagway.toml:21: nosuch: unknown field",
        ),
        (
            "a key twice",
            changed("issuer =", "issuer = \"\"\nissuer ="),
            "tagway.toml:7: ",
        ),
        (
            "a number for a text",
            changed("\"https://issuer.test\"", "7"),
            "tagway.toml:6: identity.issuer: invalid type",
        ),
        (
            "no address",
            changed("127.0.0.1:0", "localhost"),
            "tagway.toml:3: server.listen: ",
        ),
        (
            "plaintext beyond loopback",
            changed("127.0.0.1:0", "0.0.0.0:0"),
            "tagway.toml:3: server.listen: beyond loopback",
        ),
        (
            "no issuer",
            changed("issuer = \"https://issuer.test\"\n", ""),
            "tagway.toml:5: identity.issuer: name the issuer",
        ),
        (
            "no audience",
            changed("[\"tagway\"]", "[]"),
            "tagway.toml:7: identity.audiences: ",
        ),
        (
            "a symmetric algorithm",
            changed("jwks =", "algorithms = [\"HS256\"]\njwks ="),
            "tagway.toml:8: identity.algorithms: unknown variant `HS256`",
        ),
        (
            "keys over plaintext",
            changed("file:keys.json", "http://issuer.test/keys"),
            "tagway.toml:8: identity.jwks: ",
        ),
        (
            "an hour of leeway",
            changed("jwks =", "leeway = \"1h\"\njwks ="),
            "tagway.toml:8: identity.leeway: at most 5m",
        ),
        (
            "a duration without a unit",
            changed("jwks =", "leeway = \"30\"\njwks ="),
            "tagway.toml:8: identity.leeway: ",
        ),
        (
            "a refresh that no clock reaches",
            changed("jwks =", "jwks_refresh = \"1000000000 years\"\njwks ="),
            "tagway.toml:8: identity.jwks_refresh: at most 100 years",
        ),
        (
            "a rest that no clock reaches",
            changed("backends = ", "breaker = { rest = \"1000000000 years\" }\nbackends = "),
            "tagway.toml:17: strategies.tag-prefix.breaker.rest: at most 100 years",
        ),
        (
            "a permission that is none",
            changed("jwks =", "permissions = { reed = [\"r\"] }\njwks ="),
            "tagway.toml:8: identity.permissions.reed: ",
        ),
        (
            "a store without a path",
            changed("path = \"store.redb\"\n", ""),
            "tagway.toml:10: backends.local.path: ",
        ),
        (
            "a store that is not built",
            changed("\"embedded\"", "\"dynamodb\""),
            "tagway.toml:11: backends.local.kind: dynamodb is not built yet",
        ),
        (
            "one file for two stores",
            format!("{GOOD}[backends.other]\nkind = \"embedded\"\npath = \"store.redb\"\n"),
            "tagway.toml:23: backends.other.path: ",
        ),
        (
            "a tag that is none",
            changed("[\"tenant_config_\"]", "[\"tenant_config\"]"),
            "tagway.toml:16: strategies.tag-prefix.tags: ",
        ),
        (
            "a backend that is none",
            changed("[\"local\"]", "[\"hot\"]"),
            "tagway.toml:17: strategies.tag-prefix.backends: `hot` is not in [backends]",
        ),
        (
            "a digest that is none",
            changed("tags =", "digest = \"sha256:…\"\ntags ="),
            "tagway.toml:16: strategies.tag-prefix.digest: ",
        ),
        (
            "a source that is none",
            changed("builtin:tag-prefix", "router.wasm"),
            "tagway.toml:15: strategies.tag-prefix.source: ",
        ),
        (
            "a built-in that is none",
            changed("builtin:tag-prefix", "builtin:layered"),
            "tagway.toml:15: strategies.tag-prefix.source: ",
        ),
        (
            "TLS, not built yet",
            changed("listen =", "tls = { cert = \"c\", key = \"k\" }\nlisten ="),
            "tagway.toml:3: server.tls: this part of the gateway is not built yet",
        ),
        (
            "a cache, not built yet",
            format!("{GOOD}[cache]\nttl = \"1s\"\n"),
            "tagway.toml:22: cache.ttl: this part of the gateway is not built yet",
        ),
        (
            "a quota, not built yet",
            format!("{GOOD}[quota]\nstreams = 1\n"),
            "tagway.toml:22: quota.streams: this part of the gateway is not built yet",
        ),
        (
            "audit, not built yet",
            format!("{GOOD}[telemetry]\naudit = \"stdout\"\n"),
            "tagway.toml:22: telemetry.audit: this part of the gateway is not built yet",
        ),
        (
            "one tag of two strategies",
            GOOD.to_owned()
                + &GOOD[GOOD.find("[strategies.tag-prefix]").unwrap()..]
                    .replace("strategies.tag-prefix", "strategies.second"),
            "`tenant_config_` belongs to strategies.second too",
        ),
    ];
    for (what, settings, expected) in cases {
        let (code, _, err) = check(&settings);
        assert_eq!(code, 2, "{what}: {err}");
        assert!(err.contains(expected), "{what}: {expected:?} is not in: {err}");
        assert!(!err.contains("panicked"), "{what}: {err}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let (_, _, err) = check("[server]\nlisten = \"0.0.0.0:1\"\n[events]\nkind = \"sqs\"\n");
    for key in [
        "server.listen",
        "events.kind",
        "identity.issuer",
        "identity.jwks",
        "backends",
        "strategies",
    ] {
        assert!(err.contains(key), "{key} in {err}");
    }
}

#[test]
fn the_contracts_whole_file_parses_and_what_is_not_built_is_refused_by_name() {
    let (code, _, err) = check(include_str!("contract.toml"));
    assert_eq!(code, 2);
    let refused: Vec<&str> = err.lines().filter(|line| line.contains("not built yet")).collect();
    let others: Vec<&str> = err.lines().filter(|line| !line.contains("not built yet")).collect();
    for key in [
        "server.tls",
        "server.admin_listen",
        "backends.hot.table",
        "backends.params.kms_key",
        "cache.ttl",
        "events.queue",
        "quota.streams",
        "telemetry.audit",
    ] {
        assert!(refused.iter().any(|line| line.contains(key)), "{key} in {err}");
    }
    // The contract's digest is an ellipsis; nothing else in it is wrong.
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].contains("strategies.tag-prefix.digest"));
}

#[test]
fn variables_override_and_are_named_when_they_are_wrong() {
    let folder = folder_with(GOOD);
    let check = |variables: &[(&str, &str)]| read(&tagway(folder.path(), &["check", "tagway.toml"], variables));
    let (code, out, _) = check(&[
        ("TAGWAY_SERVER__LISTEN", "127.0.0.1:7"),
        ("TAGWAY_TOKEN", "x"),
        ("TAGWAYS", "x"),
        // What Kubernetes tells every pod of a service called tagway, and of one called tagway-admin.
        ("TAGWAY_SERVICE_HOST", "10.0.0.1"),
        ("TAGWAY_SERVICE_PORT_GRPC", "50051"),
        ("TAGWAY_PORT", "tcp://10.0.0.1:50051"),
        ("TAGWAY_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("TAGWAY_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ]);
    assert_eq!(code, 0);
    assert!(out.contains("127.0.0.1:7"));
    for (name, value, expected) in [
        (
            "TAGWAY_SERVER__LISTEN",
            "here",
            "TAGWAY_SERVER__LISTEN: server.listen: ",
        ),
        (
            "TAGWAY_SERVER__LISEN",
            "x",
            "TAGWAY_SERVER__LISEN: server.lisen: unknown field",
        ),
        (
            "TAGWAY_LIMITS__IN_FLIGHT",
            "many",
            "TAGWAY_LIMITS__IN_FLIGHT: limits.in_flight: ",
        ),
        (
            "TAGWAY_LIMITS__IN_FLIGHT",
            "0",
            "TAGWAY_LIMITS__IN_FLIGHT: limits.in_flight: ",
        ),
        (
            "TAGWAY_SERVER_LISTEN",
            "127.0.0.1:7",
            "TAGWAY_SERVER_LISTEN: names no setting",
        ),
        (
            "TAGWAY_SERVER__LISTEN__PORT",
            "7",
            "TAGWAY_SERVER__LISTEN__PORT: server.listen.port: `listen` is not a table",
        ),
        ("TAGWAY_CACHE__TTL", "1s", "TAGWAY_CACHE__TTL: cache.ttl: this part"),
        (
            "TAGWAY_IDENTITY__AUDIENCES",
            "[\"a\"",
            "TAGWAY_IDENTITY__AUDIENCES: identity.audiences: ",
        ),
        (
            "TAGWAY_IDENTITY__ALGORITHMS",
            "[\"RS256\", \"HS256\"]",
            "TAGWAY_IDENTITY__ALGORITHMS: identity.algorithms: unknown variant `HS256`",
        ),
        ("TAGWAY_", "x", "TAGWAY_: names no setting"),
    ] {
        let (code, _, err) = check(&[(name, value)]);
        assert_eq!(code, 2, "{name}: {err}");
        assert!(err.contains(expected), "{expected:?} is not in: {err}");
    }
    let (code, _, err) = check(&[
        ("TAGWAY_IDENTITY__AUDIENCES", "[\"a\", \"b\"]"),
        ("TAGWAY_STRATEGIES__TAG-PREFIX__LIMITS__FUEL", "1_000_000"),
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn strategies_that_cannot_serve_are_reported() {
    let folder = folder_with(GOOD);
    let check = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        fs::write(folder.path().join("tagway.toml"), GOOD.replace(from, to)).unwrap();
        run(folder.path(), &["check", "tagway.toml"])
    };
    fs::write(folder.path().join("text.wasm"), "no component").unwrap();
    for (from, to, expected) in [
        (
            "builtin:tag-prefix",
            "file:none.wasm",
            "could not be fetched: file:none.wasm: ",
        ),
        ("builtin:tag-prefix", "file:text.wasm", "could not be compiled: "),
        (
            "tags =",
            "limits = { component = \"1KiB\" }\ntags =",
            "could not be compiled: it has",
        ),
        (
            "tags =",
            "limits = { fuel = 10 }\ntags =",
            "could not be configured: it used up its",
        ),
        (
            "{ backend = \"local\" }",
            "{ backend = \"cold\" }",
            "could not be configured: it does not accept its settings",
        ),
        (
            "{ backend = \"local\" }",
            "{ backend = \"local\", ttl = 7 }",
            "does not accept its settings: /tenant_config_: ",
        ),
        (
            "[\"tenant_config_\"]",
            "[\"other_\"]",
            "its manifest claims `tenant_config_`, which",
        ),
    ] {
        let (code, _, err) = check(from, to);
        assert_eq!(code, 2, "{to}: {err}");
        assert!(
            err.contains("strategies.tag-prefix: could not be") && err.contains(expected),
            "{expected:?} is not in: {err}"
        );
    }
    let digest = format!("digest = \"sha256:{}\"\ntags =", "0".repeat(64));
    let (code, _, err) = check("tags =", &digest);
    assert!(code == 2 && err.contains("could not be verified"), "{err}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = TempDir::new().unwrap();
    let (code, _, err) = run(folder.path(), &["check", "none.toml"]);
    assert!(code == 2 && err.contains("none.toml: cannot be read"), "{err}");
    fs::write(folder.path().join("latin.toml"), b"# \xe4\n").unwrap();
    let (code, _, err) = run(folder.path(), &["check", "latin.toml"]);
    assert!(code == 2 && err.contains("latin.toml: cannot be read"), "{err}");
    fs::write(folder.path().join("tagway.toml"), GOOD).unwrap();
    for command in [&["serve", "--config", "tagway.toml"][..], &["check", "tagway.toml"]] {
        let (code, _, err) = run(folder.path(), command);
        assert!(code == 2 && err.contains("identity.jwks: keys.json: "), "{err}");
    }
    fs::write(folder.path().join("keys.json"), "{").unwrap();
    let (code, _, err) = run(folder.path(), &["check", "tagway.toml"]);
    assert!(
        code == 2 && err.contains("identity.jwks: not a JSON Web Key Set"),
        "{err}"
    );
}

#[test]
fn a_secret_in_the_place_of_its_file_is_not_repeated() {
    let secret = "correct-horse-battery-staple";
    let (code, _, err) = check(&GOOD.replace("listen =", &format!("page_token_key = \"{secret}\"\nlisten =")));
    assert_eq!(code, 2);
    assert!(
        err.contains("tagway.toml:3: server.page_token_key: the file that holds it"),
        "{err}"
    );
    assert!(!err.contains(secret), "{err}");
    let folder = folder_with(&GOOD.replace("listen =", "page_token_key = \"file:seal\"\nlisten ="));
    fs::write(folder.path().join("seal"), "short").unwrap();
    let (code, _, err) = run(folder.path(), &["check", "tagway.toml"]);
    assert!(
        code == 2 && err.contains("server.page_token_key = seal: a file of at least 32"),
        "{err}"
    );
    fs::write(folder.path().join("seal"), "s".repeat(32)).unwrap();
    assert_eq!(run(folder.path(), &["check", "tagway.toml"]).0, 0);
}

#[test]
fn tokens_need_a_gateway_that_was_here() {
    let folder = TempDir::new().unwrap();
    let (code, _, err) = run(folder.path(), &["token", "--tenant", "acme"]);
    assert!(
        code == 1 && err.contains("tagway-data/signing-key.p8") && err.contains("fix: run `tagway serve`"),
        "{err}"
    );
    for arguments in [
        &["token"][..],
        &["token", "--tenant", "a/b"],
        &["token", "--tenant", "_shared"],
        &["token", "--tenant", "acme", "--permissions", "everything"],
        &["token", "--tenant", "acme", "--lifetime", "long"],
        &["token", "--tenant", "acme", "--subject", ""],
        &["token", "--tenant", "acme", "--claim", "tenant_id=globex"],
        &["put", "k"],
        &["get"],
        &["put", "k", "v", "--if-absent", "--if-match", "e"],
        &["nosuch"],
    ] {
        let (code, _, err) = run(folder.path(), arguments);
        assert!(code == 2 && err.contains("--help"), "{arguments:?}: {err}");
    }
}

#[test]
fn nobody_there_is_an_exit_code_of_its_own() {
    let folder = TempDir::new().unwrap();
    // A port that is taken by nobody who listens: bound, and not listening.
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", held.local_addr().unwrap());
    for arguments in [&["get", "k"][..], &["put", "k", "v"], &["delete", "k"], &["list"]] {
        let (code, out, err) = read(&tagway(folder.path(), arguments, &[("TAGWAY_ENDPOINT", &endpoint)]));
        assert_eq!((code, out.as_str()), (6, ""));
        assert!(err.contains("no gateway answers at http://127.0.0.1:"), "{err}");
    }
    // TLS is not built: a token must not go where it was not meant to go in plaintext.
    for endpoint in [
        "no url",
        "https://127.0.0.1:1",
        "ftp://127.0.0.1:1",
        "127.0.0.1:1",
        "http://127.0.0.1:1/path",
    ] {
        let (code, _, err) = read(&tagway(folder.path(), &["list"], &[("TAGWAY_ENDPOINT", endpoint)]));
        assert!(code == 2 && err.contains("TAGWAY_ENDPOINT"), "{endpoint}: {err}");
    }
}

#[test]
fn help_shows_an_example_of_every_command() {
    let folder = TempDir::new().unwrap();
    let (code, out, _) = run(folder.path(), &["--help"]);
    assert!(code == 0 && out.contains("Exit codes: "));
    for command in [
        "serve", "check", "token", "get", "put", "delete", "list", "history", "rollback", "explain",
    ] {
        let (code, out, _) = run(folder.path(), &[command, "--help"]);
        assert!(
            code == 0 && out.contains("Example") && out.contains(&format!("tagway {command} ")),
            "{out}"
        );
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tagway"))
        .current_dir(folder.path())
        .args(["--help"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().flush().unwrap();
    let (_, _, err) = read(&child.wait_with_output().unwrap());
    assert!(!err.contains("panicked"), "{err}");
}
