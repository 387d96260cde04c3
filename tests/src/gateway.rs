//! The real binary, in a folder of its own, on ports that the kernel chose.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Door};
use crate::issuer::{AUDIENCE, ISSUER, Key, claims, key_set};

/// How long a gateway may take to start, on a machine that is busy with everything else.
const START: Duration = Duration::from_mins(1);

/// A folder with settings, keys and store, and the process that runs on them.
pub struct Gateway {
    /// Where it keeps everything.
    pub folder: Arc<TempDir>,
    /// What signs the tokens that it believes.
    pub key: Arc<Key>,
    /// Where it listens for gRPC.
    pub address: String,
    /// Where it listens for operators.
    pub ops: String,
    /// And where for their gRPC, if it does.
    pub admin: String,
    process: Child,
    log: Arc<Log>,
}

/// The program, built by the same `cargo test --workspace`.
#[must_use]
pub fn binary() -> PathBuf {
    // target/<profile>/deps/system-<hash>, or target/<profile>/load
    let this = env::current_exe().expect("this program has a path");
    let folders = this.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("tagway")).find(|path| path.is_file());
    found.expect("no tagway beside the tests: run `cargo test --workspace`, which builds it")
}

/// The same with the tags of `tenant_config_` in a table at `endpoint`, which `tagway provision` makes; with more keys of that
/// store.
#[must_use]
pub fn settings_over_dynamodb(jwks: &str, endpoint: &str, keys: &str) -> String {
    let hot = format!(
        "[backends.hot]\nkind = \"dynamodb\"\ntable = \"tagway\"\nregion = \"eu-west-1\"\nendpoint_url = \"{endpoint}\"\n\
         {keys}\n[strategies.tag-prefix]"
    );
    settings(jwks, "")
        .replace("[strategies.tag-prefix]", &hot)
        .replace("backends = [\"local\"]", "backends = [\"local\", \"hot\"]")
        .replace(
            "tenant_config_ = { backend = \"local\" }",
            "tenant_config_ = { backend = \"hot\" }",
        )
}

/// The same with the tags of `param_config_` in Parameter Store at `endpoint`, and the rest in the embedded store; with more keys
/// of that store.
#[must_use]
pub fn settings_over_parameter_store(jwks: &str, endpoint: &str, keys: &str) -> String {
    let params = format!(
        "[backends.params]\nkind = \"ssm\"\nregion = \"eu-west-1\"\nendpoint_url = \"{endpoint}\"\n{keys}\n\
         [strategies.tag-prefix]"
    );
    settings(jwks, "")
        .replace("[strategies.tag-prefix]", &params)
        .replace("backends = [\"local\"]", "backends = [\"local\", \"params\"]")
        .replace(
            "param_config_ = { backend = \"local\"",
            "param_config_ = { backend = \"params\"",
        )
}

/// The same with tags in a table and in Parameter Store at `endpoint`, and with `events` there, as `[events]` says; and with
/// `AdminService`.
#[must_use]
pub fn settings_over_aws(jwks: &str, endpoint: &str, events: &str) -> String {
    let params = format!(
        "[backends.params]\nkind = \"ssm\"\nregion = \"eu-west-1\"\nendpoint_url = \"{endpoint}\"\n\
         requests_per_second = 1000\n\n[events]\n{events}\n[strategies.tag-prefix]"
    );
    settings_over_dynamodb(jwks, endpoint, "")
        .replace("[strategies.tag-prefix]\n", &format!("{params}\n"))
        .replace("[\"local\", \"hot\"]", "[\"local\", \"hot\", \"params\"]")
        .replace(
            "param_config_ = { backend = \"local\"",
            "param_config_ = { backend = \"params\"",
        )
        .replace("[server]", "[server]\nadmin_listen = \"127.0.0.1:0\"")
}

/// What `[events]` says of a queue at `endpoint`.
#[must_use]
pub fn with_queue(endpoint: &str, more: &str) -> String {
    format!("kind = \"sqs\"\nregion = \"eu-west-1\"\nendpoint_url = \"{endpoint}\"\n{more}")
}

/// More than any test asks for that is not about quotas.
pub const UNBOUNDED: &str =
    "quota = { requests_per_second = 1_000_000, streams = 100_000, watched_keys = 100_000_000 }";

/// Settings over the embedded store. `jwks` is where the keys are; `more` comes at the end.
#[must_use]
pub fn settings(jwks: &str, more: &str) -> String {
    format!(
        r#"
{UNBOUNDED}
[server]
listen = "127.0.0.1:0"
ops_listen = "127.0.0.1:0"

[backends.local]
kind = "embedded"
path = "store.redb"

[strategies.tag-prefix]
source = "builtin:tag-prefix"
tags = ["tenant_config_", "param_config_", "tenant_config_x_"]
backends = ["local"]

[strategies.tag-prefix.settings]
tenant_config_ = {{ backend = "local" }}
param_config_ = {{ backend = "local", namespace = "live/eu-1" }}
tenant_config_x_ = {{ backend = "local" }}

[identity]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
jwks = "{jwks}"
algorithms = ["EdDSA", "RS256", "ES256"]
{more}
"#
    )
}

/// What a process has printed.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().expect("no panic under the lock")
    }
}

impl Gateway {
    /// One with a key of its own and plain settings.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// As [`Self::start`], with more settings: first keys of `[identity]`, then further tables.
    #[must_use]
    pub fn start_with(more: &str) -> Self {
        let key = Key::ed("first");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
        Self::start_in(folder.into(), key.into(), &settings("file:keys.json", more))
    }

    /// As [`Self::start`], with this as the quota of each tenant.
    #[must_use]
    pub fn start_within(quota: &str) -> Self {
        let key = Key::ed("first");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
        let settings = settings("file:keys.json", "").replace(UNBOUNDED, &format!("quota = {{ {quota} }}"));
        Self::start_in(folder.into(), key.into(), &settings)
    }

    /// As [`Self::start_with`], with more keys of `[server]`.
    #[must_use]
    pub fn start_serving(keys: &str, more: &str) -> Self {
        let key = Key::ed("first");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
        let settings = settings("file:keys.json", more).replace("[server]", &format!("[server]\n{keys}"));
        Self::start_in(folder.into(), key.into(), &settings)
    }

    /// As [`Self::start`], with `AdminService`.
    #[must_use]
    pub fn start_admin() -> Self {
        let key = Key::ed("first");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
        let settings = settings("file:keys.json", "").replace("[server]", "[server]\nadmin_listen = \"127.0.0.1:0\"");
        Self::start_in(folder.into(), key.into(), &settings)
    }

    /// One over a table at `endpoint`, which is made; with more keys of that store.
    #[must_use]
    pub fn start_over_dynamodb(endpoint: &str, keys: &str) -> Self {
        let key = Key::ed("first");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
        let settings = settings_over_dynamodb("file:keys.json", endpoint, keys);
        let gateway = Self::start_in(folder.into(), key.into(), &settings);
        let made = gateway.tagway("acme", &["provision", "tagway.toml"], b"");
        assert!(made.status.success(), "{made:?}");
        gateway
    }

    /// Over Parameter Store at `endpoint`, with more keys of that store.
    #[must_use]
    pub fn start_over_parameter_store(endpoint: &str, keys: &str) -> Self {
        let key = Key::ed("first");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
        let settings = settings_over_parameter_store("file:keys.json", endpoint, keys);
        Self::start_in(folder.into(), key.into(), &settings)
    }

    /// On these settings, in this folder.
    #[must_use]
    pub fn start_in(folder: Arc<TempDir>, key: Arc<Key>, settings: &str) -> Self {
        let program = command(folder.path());
        Self::start_by(program, folder, key, settings)
    }

    /// The same, once more, with files that grow to so many KiB and not a byte further: what is written there fails.
    #[must_use]
    pub fn start_again_cramped(&self, kib: u64, settings: &str) -> Self {
        let mut program = Command::new("sh");
        // Without the trap the signal would end the process before the error could be told.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
        program.args(["-c", &script]).arg(binary());
        Self::start_by(program, Arc::clone(&self.folder), Arc::clone(&self.key), settings)
    }

    /// On these settings, in this folder, by a program that takes the gateway's arguments after its own and becomes the gateway.
    #[must_use]
    pub fn start_by(mut program: Command, folder: Arc<TempDir>, key: Arc<Key>, settings: &str) -> Self {
        fs::write(folder.path().join("tagway.toml"), settings).expect("written");
        let mut process = own_variables_only(&mut program)
            .current_dir(folder.path())
            .args(["serve", "--config", "tagway.toml"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = process.stderr.take().expect("it is piped");
        let log = Arc::new(Log::default());
        let (sender, addresses) = mpsc::channel();
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(addresses) = addresses_in(&line) {
                    // Nobody waits for a second one.
                    _ = sender.send(addresses);
                }
                lines.lines().push(line);
                lines.more.notify_all();
            }
        });
        let Ok((address, ops, admin)) = addresses.recv_timeout(START) else {
            _ = process.kill();
            panic!("the gateway did not start:\n{}", log.lines().join("\n"));
        };
        Self {
            folder,
            key,
            address,
            ops,
            admin,
            process,
            log,
        }
    }

    /// Where callers find it.
    #[must_use]
    pub fn door(&self) -> Door {
        Door {
            address: self.address.clone(),
            key: Arc::clone(&self.key),
        }
    }

    /// A client with a token that may read and write for `tenant`.
    pub async fn client(&self, tenant: &str) -> Client {
        self.door().client(tenant).await
    }

    /// A client with this token.
    pub async fn client_with(&self, token: &str) -> Client {
        Client::connect(&self.address, Some(token)).await
    }

    /// Runs a command of the client's as `tenant`, in the gateway's folder.
    #[must_use]
    pub fn tagway(&self, tenant: &str, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut process = command(self.folder.path())
            .args(arguments)
            .env("TAGWAY_ENDPOINT", format!("http://{}", self.address))
            .env("TAGWAY_TOKEN", self.key.token(&claims(tenant)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // Some end before they have read it all.
        _ = process.stdin.take().expect("it is piped").write_all(stdin);
        process.wait_with_output().expect("it is our child")
    }

    /// Runs a command of the operator's, in the gateway's folder.
    #[must_use]
    pub fn operate(&self, arguments: &[&str]) -> Output {
        let mut operator = claims("ops");
        operator["scope"] = "admin".into();
        command(self.folder.path())
            .args(arguments)
            .env("TAGWAY_ADMIN_ENDPOINT", format!("http://{}", self.admin))
            .env("TAGWAY_ADMIN_TOKEN", self.key.token(&operator))
            .output()
            .expect("the program starts")
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    /// Whether it logs this, now or soon: a line may be on its way when an answer is there.
    #[must_use]
    pub fn logs(&self, text: &str) -> bool {
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let waited = self.log.more.wait_timeout_while(self.log.lines(), START, missing);
        !waited.expect("no panic under the lock").1.timed_out()
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Memory that the process holds.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("Linux tells it");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes << 10
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill is there");
        assert!(sent.success());
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().expect("it is our child")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already gone is as good.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// The program, to be run in `folder` without this process's own `TAGWAY_` variables.
#[must_use]
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    own_variables_only(&mut command).current_dir(folder);
    command
}

/// And with keys that every stand-in for AWS takes; without them each start would look for a machine's role.
fn own_variables_only(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("TAGWAY_")) {
            command.env_remove(name);
        }
    }
    command
}

fn addresses_in(line: &str) -> Option<(String, String, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "serving").then_some(())?;
    Some((
        line["address"].as_str()?.to_owned(),
        line["ops"].as_str().unwrap_or_default().to_owned(),
        line["admin"].as_str().unwrap_or_default().to_owned(),
    ))
}
