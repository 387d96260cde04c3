//! `tagway watch`: what it prints, what it runs, and how it comes again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tagway_tests::gateway::{Gateway, command, settings};
use tagway_tests::issuer::{Key, claims, key_set, with};
use tempfile::TempDir;

const A: &str = "tenant_config_a";
const MISSING: &str = "tenant_config_missing";

/// How long anything may take, on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_mins(1);

/// The command, and what it prints.
struct Watch {
    process: Child,
    lines: mpsc::Receiver<Value>,
}

impl Watch {
    fn of(gateway: &Gateway, arguments: &[&str]) -> Self {
        Self::with_token(gateway, &gateway.key.token(&claims("acme")), arguments)
    }

    fn with_token(gateway: &Gateway, token: &str, arguments: &[&str]) -> Self {
        let mut process = command(gateway.folder.path())
            .arg("watch")
            .args(arguments)
            .env("TAGWAY_ENDPOINT", format!("http://{}", gateway.address))
            .env("TAGWAY_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // Who waits for no more lets the pipe be closed.
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    /// The next line.
    fn line(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// The events up to one, and their keys.
    fn until(&self, event: &str) -> Vec<(String, String)> {
        let mut before = Vec::new();
        loop {
            let (name, key) = told(&self.line());
            if name == event {
                return before;
            }
            before.push((name, key));
        }
    }

    /// What came out of it, and what it said to that.
    fn ends(mut self) -> (ExitStatus, String) {
        // Whatever it still has to say.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        let err = self.process.stderr.take().unwrap();
        let status = self.process.wait().unwrap();
        (status, std::io::read_to_string(err).unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Already gone is as good.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn told(line: &Value) -> (String, String) {
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    (text("event"), text("key"))
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_stands_is_printed_once() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let written = client.put(A, "1").await.unwrap();
    client.put("tenant_config_x/b", "2").await.unwrap();
    let watch = |more: &[&str]| {
        let named = ["watch", A, MISSING, "--prefix", "tenant_config_x/", "--once"];
        gateway.tagway("acme", &[&named[..], more].concat(), b"")
    };
    let mut printed = lines(&watch(&[]));
    assert_eq!(printed.pop(), Some(json!({ "event": "synced", "stale": false })));
    printed.sort_by_key(|line| line["key"].to_string());
    let [a, missing, b] = &printed[..] else {
        panic!("{printed:?}");
    };
    // What `get` prints, and the event.
    let mut got: Value = serde_json::from_slice(&gateway.tagway("acme", &["get", A], b"").stdout).unwrap();
    got["event"] = "put".into();
    assert_eq!(*a, got);
    assert_eq!((&a["value"], &a["etag"]), (&json!("1"), &json!(written.etag)));
    assert_eq!(*missing, json!({ "event": "removed", "key": MISSING, "etag": "" }));
    assert_eq!((told(b).1.as_str(), &b["value"]), ("tenant_config_x/b", &json!("2")));

    let keys_only = lines(&watch(&["--keys-only"]));
    assert!(keys_only.len() == 4 && keys_only.iter().all(|line| line["value"].is_null()));

    let text = watch(&["--output", "text"]);
    assert!(text.status.success());
    let out = String::from_utf8(text.stdout).unwrap();
    let put = out
        .lines()
        .find(|line| line.starts_with("put") && line.contains(A))
        .unwrap();
    assert!(put.contains("v1 ") && put.ends_with(&written.etag), "{out}");
    assert!(out.lines().any(|line| line == format!("removed {MISSING}")), "{out}");
    assert_eq!(String::from_utf8(text.stderr).unwrap(), "tagway: that is what stands\n");
}

#[tokio::test]
async fn changes_are_printed_as_they_come_until_nobody_reads() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let mut watch = Watch::of(&gateway, &["--prefix", "tenant_config_"]);
    assert!(watch.until("synced").is_empty());
    let mut last = String::new();
    for value in ["1", "2"] {
        last = client.put(A, value).await.unwrap().etag;
        let line = watch.line();
        assert_eq!(
            (told(&line), &line["value"]),
            (("put".into(), A.into()), &json!(value)),
            "{line}"
        );
    }
    client.delete(A).await.unwrap();
    assert_eq!(watch.line(), json!({ "event": "removed", "key": A, "etag": last }));

    let (nobody, lines) = mpsc::channel();
    drop(nobody);
    watch.lines = lines;
    // The first ends who reads, and some later one is written into a closed pipe.
    let status = loop {
        client.put(A, "more").await.unwrap();
        if let Some(status) = watch.process.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success(), "{status}");
    let err = std::io::read_to_string(watch.process.stderr.take().unwrap()).unwrap();
    assert_eq!(err, "");
}

#[tokio::test]
async fn a_command_is_handed_each_new_value_in_order_and_its_refusal_is_told() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let script = "env >> env; v=$(cat); \
        echo \"$TAGWAY_EVENT $TAGWAY_KEY $TAGWAY_ETAG ${TAGWAY_VERSION-none} $v\" >> told; \
        echo seen; [ \"$v\" != bad ] || exit 3";
    let token = gateway.key.token(&claims("acme"));
    let watch = Watch::with_token(&gateway, &token, &[A, "--exec", script]);
    assert_eq!(watch.until("synced"), [("removed".to_owned(), A.to_owned())]);
    let mut expected = vec![format!("removed {A}  none ")];
    let mut last = String::new();
    for (value, version) in [("1", 1), ("2", 2), ("bad", 3), ("4", 4)] {
        last = client.put(A, value).await.unwrap().etag;
        expected.push(format!("put {A} {last} {version} {value}"));
        // What it says goes elsewhere: each line of ours is JSON.
        assert_eq!(told(&watch.line()), ("put".to_owned(), A.to_owned()));
    }
    client.delete(A).await.unwrap();
    assert_eq!(told(&watch.line()), ("removed".to_owned(), A.to_owned()));
    expected.push(format!("removed {A} {last} none "));
    // A line is printed before its command is run, and after the command of the one before it has ended.
    client.put(A, "bad").await.unwrap();
    watch.line();
    let told = fs::read_to_string(gateway.folder.path().join("told")).unwrap();
    assert_eq!(told.lines().take(expected.len()).collect::<Vec<_>>(), expected);
    assert!(gateway.logs("a watcher refuses a value"));
    assert!(gateway.logs("exit status 3"));
    let env = fs::read_to_string(gateway.folder.path().join("env")).unwrap();
    assert!(env.contains("TAGWAY_KEY=") && env.contains("TAGWAY_ENDPOINT="), "{env}");
    assert!(!env.contains("TAGWAY_TOKEN") && !env.contains(&token), "{env}");
}

#[tokio::test]
async fn a_command_that_reads_nothing_is_no_matter_and_the_last_refusal_arrives() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put(A, &"x".repeat(300_000)).await.unwrap();
    let run = |command: &str| gateway.tagway("acme", &["watch", A, "--once", "--exec", command], b"");
    let ignored = run("true");
    assert!(ignored.status.success() && ignored.stderr.is_empty(), "{ignored:?}");
    let refused = run("exit 7");
    assert_eq!(lines(&refused).len(), 2);
    let note = format!("tagway: --exec for {A}: exit status 7\n");
    assert_eq!(String::from_utf8(refused.stderr).unwrap(), note);
    assert!(gateway.logs("exit status 7"));
}

#[tokio::test]
async fn a_token_in_a_file_is_read_again_when_it_has_ended() {
    let gateway = Gateway::start_with("jwks_refresh = \"1s\"");
    let client = gateway.client("acme").await;
    client.put(A, "1").await.unwrap();
    let key_of_next = Key::ed("next");
    let folder = gateway.folder.path();
    let token = folder.join("token");
    let keys = |keys: &[&Key]| fs::write(folder.join("keys.json"), key_set(keys).to_string()).unwrap();
    fs::write(&token, gateway.key.token(&claims("acme")) + "\n").unwrap();
    let watch = Watch::with_token(&gateway, &format!("@{}", token.display()), &[A]);
    assert_eq!(watch.until("synced"), [("put".to_owned(), A.to_owned())]);
    // The next one is there before this one ends, as with everybody who renews tokens.
    fs::write(&token, key_of_next.token(&claims("acme"))).unwrap();
    keys(&[&key_of_next]);
    let mut told = watch.until("synced");
    assert_eq!(told.remove(0).0, "reconnecting");
    assert_eq!(told, [], "it goes on with what it holds");
    // Where there is no newer one, it ends.
    keys(&[&gateway.key]);
    let (status, err) = watch.ends();
    assert_eq!(status.code(), Some(5), "{err}");
    assert!(err.contains("(TOKEN_SIGNATURE)"), "{err}");
}

#[tokio::test]
async fn a_gateway_that_comes_again_is_watched_again_and_only_what_differs_is_printed() {
    let plain = settings("file:keys.json", "").replace("[server]", "[server]\ndrain = \"1s\"");
    let key = Arc::new(Key::ed("first"));
    let folder = Arc::new(TempDir::new().unwrap());
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let stop = |mut gateway: Gateway| {
        gateway.signal("TERM");
        assert!(gateway.wait().success());
        gateway
    };
    let first = Gateway::start_in(folder.clone(), key.clone(), &plain);
    let client = first.client("acme").await;
    for key in ["same", "changed", "gone"] {
        client.put(&format!("tenant_config_{key}"), "1").await.unwrap();
    }
    let watch = Watch::of(&first, &[MISSING, "--prefix", "tenant_config_"]);
    assert_eq!(watch.until("synced").len(), 4);
    let first = stop(first);
    let line = watch.line();
    assert!(
        told(&line).0 == "reconnecting" && line["why"].is_string() && line["seconds"].is_number(),
        "{line}"
    );

    // Behind its back, at another address.
    let second = Gateway::start_in(folder.clone(), key.clone(), &plain);
    let client = second.client("acme").await;
    client.put("tenant_config_changed", "2").await.unwrap();
    client.delete("tenant_config_gone").await.unwrap();
    stop(second);
    let there = format!("listen = \"{}\"\nops_listen", first.address);
    let settings = plain.replace("listen = \"127.0.0.1:0\"\nops_listen", &there);
    let third = Gateway::start_in(folder, key, &settings);
    assert_eq!(third.address, first.address);
    let mut differs = watch.until("synced");
    differs.retain(|(event, _)| event != "reconnecting");
    differs.sort();
    let expected = [("put", "tenant_config_changed"), ("removed", "tenant_config_gone")];
    assert_eq!(differs, expected.map(|(event, key)| (event.to_owned(), key.to_owned())));
    third.client("acme").await.put(MISSING, "here").await.unwrap();
    assert_eq!(told(&watch.line()), ("put".to_owned(), MISSING.to_owned()));
}

#[tokio::test]
async fn what_a_retry_does_not_help_ends_it() {
    let gateway = Gateway::start_with("leeway = \"0s\"");
    let failed = |arguments: &[&str]| {
        let output = gateway.tagway("acme", arguments, b"");
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, code, reason) in [
        (
            &["watch", A, "--token", "nonsense"][..],
            5,
            "(TOKEN_MALFORMED)\n  fix: ",
        ),
        (&["watch", "nosuch_tag"], 3, "(TAG_UNKNOWN)"),
        (&["watch", "--prefix", "tenant_config_ü"], 2, "(INVALID_ARGUMENT)"),
    ] {
        let (exit, err) = failed(arguments);
        assert!(exit == Some(code) && err.contains(reason), "{exit:?}: {err}");
    }
    let claims = claims("acme");
    let soon = claims["iat"].as_u64().unwrap() + 2;
    let short = gateway.key.token(&with(claims, "exp", soon.into()));
    let watch = Watch::with_token(&gateway, &short, &[A]);
    watch.until("synced");
    let (status, err) = watch.ends();
    assert!(
        status.code() == Some(5) && err.contains("(TOKEN_OVER)\n  fix: "),
        "{err}"
    );
}
