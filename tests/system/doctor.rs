//! `tagway doctor`: what is well is said to be well; of what is not, one line says so and how it is mended, and doing that mends it.

mod aws;
mod here;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tagway_servers::{Fault, Microburst, Ministack, boto3};
use tagway_tests::gateway::{Gateway, binary, command};
use tagway_tests::issuer::{Key, key_set};
use tagway_tests::jwks_server::JwksServer;
use tempfile::TempDir;
use tokio::time::Instant;

/// What README shows, word for word.
const README: &str = include_str!("../../README.md");
/// README's, in the account that the stand-in has.
const ROLE: &str = "arn:aws:iam::123456789012:role/tagway-tenant";
/// Longer than any check may take, and shorter than two.
const LIMIT: Duration = Duration::from_secs(20);

/// The block of README that begins so.
fn shown(beginning: &str) -> &'static str {
    let start = README.find(&format!("```toml\n{beginning}")).unwrap() + "```toml\n".len();
    let block = &README[start..];
    &block[..block.find("```").unwrap()]
}

/// A machine that a gateway is to run on: README's settings, an issuer, and AWS where there is any.
struct Machine {
    folder: TempDir,
    issuer: JwksServer,
    key: Key,
    variables: BTreeMap<String, String>,
}

/// What the doctor said.
struct Told {
    code: Option<i32>,
    findings: Vec<Value>,
    text: String,
}

impl Told {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let lines = text(&output.stdout);
        Self {
            code: output.status.code(),
            findings: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            text: lines.clone() + &text(&output.stderr),
        }
    }

    /// What is not well: each as `<verdict> <subject>`.
    fn not_well(&self) -> Vec<String> {
        let not_well = self.findings.iter().filter(|finding| finding["verdict"] != "ok");
        not_well
            .map(|finding| {
                let text = |name: &str| finding[name].as_str().unwrap();
                assert!(!text("fix").is_empty());
                format!("{} {}", text("verdict"), text("subject"))
            })
            .collect()
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!(self.not_well(), [""; 0], "{}", self.text);
        assert_eq!(self.code, Some(0), "{}", self.text);
    }

    /// That and nothing else fails, for this reason. Returns what mends it.
    #[track_caller]
    fn fails(&self, subject: &str, found: &str) -> String {
        assert_eq!(self.not_well(), [format!("fail {subject}")], "{}", self.text);
        assert_eq!(self.code, Some(1), "{}", self.text);
        let finding = self.about(subject);
        assert!(finding["found"].as_str().unwrap().contains(found), "{finding}");
        finding["fix"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn about(&self, subject: &str) -> &Value {
        let finding = self.findings.iter().find(|finding| finding["subject"] == subject);
        finding.unwrap_or_else(|| panic!("nothing on {subject}: {}", self.text))
    }

    #[track_caller]
    fn says(&self, subject: &str, found: &str) {
        let finding = self.about(subject);
        assert!(finding["found"].as_str().unwrap().contains(found), "{finding}");
    }
}

impl Machine {
    fn new() -> Self {
        let key = Key::rsa("first");
        let machine = Self {
            folder: TempDir::new().unwrap(),
            issuer: JwksServer::start(&key_set(&[&key])),
            key,
            variables: BTreeMap::new(),
        };
        machine.write(shown("[identity]"));
        let url = machine.issuer.url.clone();
        machine
            .with("TAGWAY_IDENTITY__JWKS", &url)
            .with("TAGWAY_SERVER__LISTEN", "127.0.0.1:0")
            .with("TAGWAY_SERVER__OPS_LISTEN", "127.0.0.1:0")
    }

    /// With README's table and parameters at `aws`, and events.
    fn with_aws(aws: &str) -> Self {
        let machine = Self::new();
        let events = shown("[events]");
        let stores = [shown("[backends.hot]"), shown("[backends.params]")];
        machine.write(&[shown("[identity]"), stores[0], stores[1], events].concat());
        fs::write(machine.path("seal"), [7; 32]).unwrap();
        fs::set_permissions(machine.path("seal"), Permissions::from_mode(0o600)).unwrap();
        machine.with("TAGWAY_SERVER__PAGE_TOKEN_KEY", "file:seal").at(aws)
    }

    /// With AWS there.
    fn at(self, aws: &str) -> Self {
        ["BACKENDS__HOT", "BACKENDS__PARAMS"]
            .into_iter()
            .fold(self, |machine, store| {
                machine
                    .with(&format!("TAGWAY_{store}__ENDPOINT_URL"), aws)
                    .with(&format!("TAGWAY_{store}__STS_ENDPOINT_URL"), aws)
                    .with(&format!("TAGWAY_{store}__TENANT_ROLE"), ROLE)
            })
            .with("TAGWAY_EVENTS__ENDPOINT_URL", aws)
    }

    fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.insert(variable.to_owned(), value.to_owned());
        self
    }

    fn write(&self, settings: &str) {
        fs::write(self.path("tagway.toml"), settings).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = command(self.folder.path());
        command
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(&self.variables);
        command
    }

    /// What the doctor says.
    fn told(&self) -> Told {
        let mut command = self.command();
        Told::of(
            &command
                .args(["doctor", "tagway.toml", "--output", "json"])
                .output()
                .unwrap(),
        )
    }

    /// Does what a fix says, where it is a command.
    #[track_caller]
    fn run(&self, fix: &str) {
        let tagway = binary();
        let path = format!(
            "{}:{}",
            tagway.parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        let mut shell = Command::new("sh");
        let mut own = self.command();
        own.env("PATH", path);
        shell.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let done = shell
            .current_dir(self.folder.path())
            .args(["-c", fix])
            .output()
            .unwrap();
        assert!(done.status.success(), "{fix}: {done:?}");
    }
}

#[test]
fn what_readme_shows_is_well_and_every_line_says_so() {
    let machine = Machine::new();
    let told = machine.told();
    told.is_well();
    told.says("settings", "tagway.toml");
    told.says("strategies.tag-prefix", "serves param_config_ tenant_config_, sha256:");
    told.says("identity.jwks", "1 of 1 keys");
    told.says("clock, beside the issuer", "the same time");
    told.says("backends.local.path", "is made when the gateway starts");
    assert!(!machine.path("tagway-data").exists(), "it made something");

    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint());
    machine.run("tagway provision tagway.toml");
    let told = machine.told();
    told.is_well();
    told.says("credentials", "arn:aws:");
    told.says("credentials", "from variables");
    told.says("clock, beside AWS", "the same time");
    told.says("backends.hot.tenant_role", "for the tenant tagway-doctor");
    told.says("backends.hot.table", "is as it has to be; a tenant's items can be read");
    told.says("backends.params.kms_key", "was not tried");
    told.says("events.bus", "default is there");
    told.says("events.queue", "none was made");
}

#[test]
fn both_outputs_say_the_same() {
    let machine = Machine::new().with("TAGWAY_SERVER__STATE", "state");
    fs::create_dir(machine.path("state")).unwrap();
    fs::set_permissions(machine.path("state"), Permissions::from_mode(0o755)).unwrap();
    let told = machine.told();
    let text = machine
        .command()
        .args(["doctor", "tagway.toml", "--output", "text"])
        .output()
        .unwrap();
    assert_eq!(text.status.code(), told.code);
    let text = String::from_utf8(text.stdout).unwrap();
    let mut lines = text.lines();
    for finding in &told.findings {
        let line = lines.next().unwrap();
        for name in ["verdict", "subject"] {
            assert!(line.contains(finding[name].as_str().unwrap()), "{finding} in {line}");
        }
        if let Some(fix) = finding["fix"].as_str() {
            assert_eq!(lines.next(), Some(&*format!("      fix: {fix}")));
        }
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn settings_that_do_not_read_are_told_as_check_tells_them() {
    let machine = Machine::new();
    machine.write("[server]\nlisen = 7\n");
    let doctor = machine.command().args(["doctor", "tagway.toml"]).output().unwrap();
    let check = machine.command().args(["check", "tagway.toml"]).output().unwrap();
    assert_eq!(doctor.status.code(), Some(2), "{doctor:?}");
    assert_eq!(doctor, check);
}

#[test]
fn what_hangs_hides_nothing_and_ends_in_its_time() {
    // It takes connections, for the system does, and never answers.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let hole = format!("http://{}", hole.local_addr().unwrap());
    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint());
    machine.run("tagway provision tagway.toml");
    let machine = machine
        .with("TAGWAY_IDENTITY__JWKS", &hole)
        .with("TAGWAY_BACKENDS__HOT__ENDPOINT_URL", &hole)
        .with("TAGWAY_EVENTS__ENDPOINT_URL", &hole)
        .with("TAGWAY_TELEMETRY__OTLP_ENDPOINT", &hole);
    let begun = Instant::now();
    let told = machine.told();
    let took = begun.elapsed();
    assert!(took < LIMIT, "{took:?}");
    assert_eq!(
        told.not_well(),
        [
            "fail identity.jwks",
            "fail backends.hot.table",
            "fail events.bus",
            "fail events.queue"
        ],
        "{}",
        told.text
    );
    told.says("backends.params.root", "can be read");
}

#[test]
fn a_slow_answer_is_waited_for() {
    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint());
    machine.run("tagway provision tagway.toml");
    let faults = Microburst::start(ministack.endpoint());
    for operation in ["DescribeTable", "GetItem", "GetParameters", "ListQueues"] {
        faults.inject(operation, Fault::Slow(Duration::from_millis(300)), 1);
    }
    faults.inject("ListRules", Fault::Internal, 1);
    machine.at(faults.endpoint()).told().is_well();
}

#[test]
fn the_doctor_changes_nothing() {
    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint());
    machine.run("tagway provision tagway.toml");
    let script = "
import boto3, json
def all(name, call, key, **more):
    return boto3.client(name, 'eu-west-1').get_paginator(call).paginate(**more).build_full_result().get(key, [])
url = 'fresh'
queues = boto3.client('sqs', 'eu-west-1')
if not queues.list_queues().get('QueueUrls'):
    url = queues.create_queue(QueueName='a')['QueueUrl']
    queues.send_message(QueueUrl=url, MessageBody='x')
    boto3.client('ssm', 'eu-west-1').put_parameter(Name='/tagway/acme/x', Value='x', Type='String')
urls = queues.list_queues()['QueueUrls']
waiting = [queues.get_queue_attributes(QueueUrl=url, AttributeNames=['All'])['Attributes'] for url in urls]
print(json.dumps([urls, waiting, all('dynamodb', 'list_tables', 'TableNames'),
    all('dynamodb', 'scan', 'Items', TableName='tagway'), all('ssm', 'describe_parameters', 'Parameters'),
    all('events', 'list_rules', 'Rules')], default=str))";
    let stands = || boto3(script, ministack.endpoint());
    let before = stands();
    let url = format!("{}/123456789012/a", ministack.endpoint());
    let machine = machine
        .with("TAGWAY_EVENTS__QUEUE", &url)
        .with("TAGWAY_SERVER__STATE", "state")
        .with("TAGWAY_CACHE__SNAPSHOT", "snapshot")
        .with("TAGWAY_TELEMETRY__AUDIT", "audit/lines.json");
    // A store that a gateway closed.
    let mut gateway = Gateway::start();
    gateway.signal("TERM");
    gateway.wait();
    fs::create_dir(machine.path("tagway-data")).unwrap();
    fs::copy(
        gateway.folder.path().join("store.redb"),
        machine.path("tagway-data/store.redb"),
    )
    .unwrap();
    let files = || {
        let names = Command::new("find")
            .args([".", "-printf", "%p %m %s %T@\n"])
            .current_dir(machine.folder.path())
            .output();
        (
            names.unwrap().stdout,
            fs::read(machine.path("tagway-data/store.redb")).unwrap(),
        )
    };
    let were = files();
    let told = machine.told();
    told.is_well();
    told.says("backends.local.path", "of a format that is known");
    assert!(files() == were);
    assert_eq!(stands(), before);
}
