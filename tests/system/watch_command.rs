//! `tagway watch`: what it prints, runs and survives.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tagway_tests::gateway::{Gateway, command, settings};
use tagway_tests::issuer::claims;

/// The command, while it runs.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(gateway: &Gateway, arguments: &[&str]) -> Self {
        let mut child = command(gateway.folder.path())
            .arg("watch")
            .args(arguments)
            .env("TAGWAY_ENDPOINT", format!("http://{}", gateway.address))
            .env("TAGWAY_TOKEN", gateway.key.token(&claims("acme")))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it goes on").unwrap()
    }

    /// The next event, and its key and value.
    fn event(&mut self) -> (String, String, String) {
        let line: Value = serde_json::from_str(&self.line()).unwrap();
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (text("event"), text("key"), text("value"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn event(event: &str, key: &str, value: &str) -> (String, String, String) {
    (event.to_owned(), key.to_owned(), value.to_owned())
}

#[tokio::test]
async fn it_prints_what_stands_and_what_changes() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "1").await.unwrap();
    let once = gateway.tagway("acme", &["watch", "--prefix", "tenant_config_", "--once"], b"");
    assert!(once.status.success(), "{once:?}");
    let printed = String::from_utf8(once.stdout).unwrap();
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{printed}");
    assert_eq!((&lines[0]["event"], &lines[0]["value"]), (&"put".into(), &"1".into()));
    assert_eq!(lines[1]["event"], "synced");

    let mut running = Running::start(&gateway, &["tenant_config_a", "tenant_config_b"]);
    let mut first = [running.event(), running.event()];
    first.sort();
    assert_eq!(
        first,
        [
            event("put", "tenant_config_a", "1"),
            event("removed", "tenant_config_b", "")
        ]
    );
    assert_eq!(running.event().0, "synced");
    client.put("tenant_config_b", "2").await.unwrap();
    assert_eq!(running.event(), event("put", "tenant_config_b", "2"));
    client.delete("tenant_config_a").await.unwrap();
    assert_eq!(running.event(), event("removed", "tenant_config_a", ""));

    let unknown = gateway.tagway("acme", &["watch", "nosuch_a"], b"");
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    let nothing = gateway.tagway("acme", &["watch"], b"");
    assert_eq!(nothing.status.code(), Some(2), "{nothing:?}");
    let denied = command(gateway.folder.path())
        .args(["watch", "tenant_config_a"])
        .env("TAGWAY_ENDPOINT", format!("http://{}", gateway.address))
        .output()
        .unwrap();
    assert_eq!(denied.status.code(), Some(5), "{denied:?}");
}

#[tokio::test]
async fn it_hands_each_value_to_a_command() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "good").await.unwrap();
    let tells = "value=$(cat); echo \"$TAGWAY_EVENT $TAGWAY_KEY $TAGWAY_VERSION $value ${TAGWAY_TOKEN:-no token}\" >&3; \
                 [ \"$value\" != bad ]";
    let exec = format!("exec 3>&1; {tells}");
    let mut running = Running::start(&gateway, &["tenant_config_a", "--exec", &exec, "--output", "text"]);
    // Each change is a line of its own, and then the command's.
    assert!(running.line().starts_with("tenant_config_a "));
    assert_eq!(running.line(), "put tenant_config_a 1 good no token");
    client.put("tenant_config_a", "bad").await.unwrap();
    running.line();
    assert_eq!(running.line(), "put tenant_config_a 2 bad no token");
    client.delete("tenant_config_a").await.unwrap();
    running.line();
    assert_eq!(running.line(), "removed tenant_config_a 0  no token");
    assert!(gateway.logs("a watcher refuses a value"), "{}", gateway.log());
    assert!(gateway.log().contains("exit status: 1"), "{}", gateway.log());
}

#[tokio::test]
async fn it_comes_back_and_prints_what_differs() {
    let mut gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "1").await.unwrap();
    client.put("tenant_config_b", "1").await.unwrap();
    let mut running = Running::start(&gateway, &["--prefix", "tenant_config_"]);
    while running.event().0 != "synced" {}
    gateway.signal("TERM");
    gateway.wait();
    // The same place.
    let again = settings("file:keys.json", "").replacen("127.0.0.1:0", &gateway.address, 1);
    let (folder, key) = (Arc::clone(&gateway.folder), Arc::clone(&gateway.key));
    let gateway = Gateway::start_in(folder, key, &again);
    let client = gateway.client("acme").await;
    assert_eq!(running.event().0, "synced", "nothing differs");
    client.put("tenant_config_b", "2").await.unwrap();
    assert_eq!(running.event(), event("put", "tenant_config_b", "2"));
}
