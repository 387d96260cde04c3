//! The command line where it needs no gateway: arguments, settings, and what they answer. (Being the binary's own
//! integration test, it also has cargo build the binary that the whole-system tests run.)

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod settings;

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
        &["watch"],
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
    for arguments in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["delete", "k"],
        &["list"],
        &["watch", "k"],
    ] {
        let (code, out, err) = read(&tagway(folder.path(), arguments, &[("TAGWAY_ENDPOINT", &endpoint)]));
        assert_eq!((code, out.as_str()), (6, ""));
        assert!(err.contains("no gateway answers at http://127.0.0.1:"), "{err}");
    }
    for endpoint in ["no url", "ftp://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:1/path"] {
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
        "serve", "check", "doctor", "token", "get", "put", "delete", "list", "history", "rollback", "explain", "watch",
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
