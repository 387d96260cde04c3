//! Each server starts, answers, and is gone when whoever holds it is.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says what went wrong by failing, and to another process what it found"
)]

use std::env;
use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tagway_servers::{Fault, Microburst, Ministack, Roto, boto3};

type Answer = Result<Value, Box<dyn Error>>;

/// Asks `DynamoDB` as an SDK would, but for the signature, which only a [`Ministack::start_with_auth`] looks at.
fn dynamodb(endpoint: &str, operation: &str, body: &Value) -> Answer {
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .timeout_global(Some(Duration::from_mins(1)));
    let mut answer = ureq::Agent::from(config.http_status_as_error(false).build())
        .post(endpoint)
        .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
        .header("content-type", "application/x-amz-json-1.0")
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request",
        )
        .send(body.to_string())?;
    Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
}

fn tables(endpoint: &str) -> Value {
    dynamodb(endpoint, "ListTables", &json!({})).expect("it answers")["TableNames"].take()
}

fn create(endpoint: &str, name: &str) -> Answer {
    let table = json!({
        "TableName": name,
        "KeySchema": [{ "AttributeName": "pk", "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": "pk", "AttributeType": "S" }],
        "BillingMode": "PAY_PER_REQUEST",
    });
    dynamodb(endpoint, "CreateTable", &table)
}

#[test]
fn two_of_a_kind_are_two() {
    let (one, other) = (Ministack::start(), Ministack::start());
    create(one.endpoint(), "only-here").expect("it answers");
    assert_eq!(tables(one.endpoint()), json!(["only-here"]));
    assert_eq!(tables(other.endpoint()), json!([]));
}

#[test]
fn roto_keeps_what_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Roto::start_in(folder.path());
    create(first.endpoint(), "kept").expect("it answers");
    drop(first);
    assert_eq!(tables(Roto::start_in(folder.path()).endpoint()), json!(["kept"]));
    assert_eq!(tables(Roto::start().endpoint()), json!([]));
}

#[test]
#[should_panic(expected = "cannot create data dir")]
fn what_does_not_start_says_why() {
    _ = Roto::start_in(Path::new("/dev/null/nowhere"));
}

#[test]
fn with_auth_a_stranger_is_refused() {
    let script = "
import boto3
print(boto3.client('sts').get_caller_identity()['Arn'])
try:
    boto3.client('sts', aws_access_key_id='stranger', aws_secret_access_key='test').get_caller_identity()
except Exception as refused:
    print(refused.response['Error']['Code'])
";
    let said = boto3(script, Ministack::start_with_auth().endpoint());
    assert_eq!(said, "arn:aws:iam::123456789012:root\nInvalidClientTokenId\n");
}

#[test]
fn parameter_store_is_as_strict_as_aws() {
    let answer = boto3(include_str!("parameters.py"), Ministack::start().endpoint());
    let mut answer: Value = serde_json::from_str(&answer).expect(&answer);

    let invalid = "ValidationException";
    let names = json!({
        "fifteen levels": "Standard",
        "sixteen levels": "HierarchyLevelLimitExceededException",
        "a space": invalid,
        "nothing between slashes": invalid,
        "a path without its first slash": invalid,
        "reserved": invalid,
        "as long as can be": "Standard",
        "longer": invalid,
    });
    assert_eq!(answer["names"].take(), names);
    let values = json!({
        "empty": invalid,
        "a reference": invalid,
        "an empty reference": invalid,
        "braces": "Standard",
        "for a standard parameter": "Standard",
        "for an advanced one": "Advanced",
        "for none": invalid,
        "small again": "Advanced",
        "down to standard": invalid,
        "for no standard one": invalid,
    });
    assert_eq!(answer["values"].take(), values);
    let types = json!({
        "a secret": "Standard",
        "a new one": "Standard",
        "no secret any more": "HierarchyTypeMismatchException",
        "a text": "Standard",
        "a secret from now on": "HierarchyTypeMismatchException",
        "a key for a text": invalid,
        "a key for what was a text": invalid,
        "none": invalid,
    });
    assert_eq!(answer["types"].take(), types);
    let read = json!({
        "ten": true,
        "eleven": invalid,
        "none": invalid,
        "one twice": invalid,
        "two versions of one": invalid,
        "one version": ["/text"],
        "pages": [0, 10, 10, 5],
        "by name": false,
        "all": true,
        "the same again": true,
        "in other pages": true,
        "pages of eleven": invalid,
        "history of 50": 1,
        "history of 51": invalid,
        "history of 0": invalid,
    });
    assert_eq!(answer["read"].take(), read);
    // The first, the last, and how many.
    let versions = json!({
        "a hundred": [2, 101, 100],
        "one more while the oldest has a label": "ParameterMaxVersionLimitExceeded",
        "the label": [["oldest"], ["other"]],
        "one more": "Standard",
        "a hundred others": [3, 102, 100],
        "a label of what is gone": "ParameterVersionNotFound",
    });
    assert_eq!(answer["versions"].take(), versions);
    let told = ["Create", "Delete", "LabelParameterVersion", "Update"].map(|operation| {
        let arn = "arn:aws:ssm:us-east-1:123456789012:parameter/told";
        json!([
            "Parameter Store Change",
            operation,
            "/told",
            "String",
            "of a change",
            arn
        ])
    });
    assert_eq!(answer["told"].take(), json!(told));
}

#[test]
fn each_fault_happens_so_often_and_then_calls_pass() {
    let ministack = Ministack::start();
    let proxy = Microburst::start(ministack.endpoint());
    create(ministack.endpoint(), "whole").expect("it answers");
    let call = || dynamodb(proxy.endpoint(), "ListTables", &json!({}));
    let passes = || assert_eq!(tables(proxy.endpoint()), json!(["whole"]));
    passes();

    let errors = [
        (Fault::Throttled, "ThrottlingException"),
        (Fault::Internal, "InternalServerError"),
        (Fault::ExpiredToken, "ExpiredTokenException"),
    ];
    for (fault, code) in errors {
        proxy.inject("ListTables", fault, 2);
        for _ in 0..2 {
            let error = call().expect("an error of AWS is an answer");
            let kind = error["__type"].as_str().expect("it says which");
            assert!(kind.ends_with(code), "{fault:?}: {error}");
        }
        passes();
    }
    for fault in [Fault::Reset, Fault::Cut, Fault::Truncated, Fault::Lost] {
        proxy.inject("ListTables", fault, 1);
        let answer = call();
        assert!(answer.is_err(), "{fault:?}: {answer:?}");
        passes();
    }
    assert_eq!(proxy.fired("ListTables"), 10);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "real time is what the fault takes")]
fn a_slow_answer_takes_its_time() {
    let ministack = Ministack::start();
    let proxy = Microburst::start(ministack.endpoint());
    let delay = Duration::from_millis(300);
    proxy.inject("ListTables", Fault::Slow(delay), 1);
    let began = Instant::now();
    assert_eq!(tables(proxy.endpoint()), json!([]));
    assert!(began.elapsed() >= delay);
    assert_eq!((proxy.fired("ListTables"), proxy.calls()), (1, 1));
}

#[test]
fn faults_are_for_one_operation_until_they_are_cleared() {
    let ministack = Ministack::start();
    let proxy = Microburst::start(ministack.endpoint());
    proxy.inject("PutItem", Fault::Internal, 1);
    assert_eq!(tables(proxy.endpoint()), json!([]));
    proxy.inject("ListTables", Fault::Internal, 1);
    proxy.clear();
    assert_eq!(tables(proxy.endpoint()), json!([]));
}

#[test]
fn what_is_lost_after_it_was_done_is_done() {
    let ministack = Ministack::start();
    let proxy = Microburst::start(ministack.endpoint());
    for (fault, made) in [(Fault::Reset, json!([])), (Fault::Lost, json!(["made"]))] {
        proxy.inject("CreateTable", fault, 1);
        create(proxy.endpoint(), "made").expect_err("no answer comes");
        assert_eq!(tables(ministack.endpoint()), made, "{fault:?}");
    }
}

/// Set for the process that holds servers until it is killed.
const HOLDS: &str = "TAGWAY_TEST_HOLDS_SERVERS";

#[test]
fn a_killed_process_leaves_no_server() {
    if env::var_os(HOLDS).is_some() {
        hold_servers();
    }
    let this = env::current_exe().expect("this program has a path");
    let mut holder = Command::new(this)
        .args(["--exact", "--nocapture", "a_killed_process_leaves_no_server"])
        .env(HOLDS, "")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let stdout = BufReader::new(holder.stdout.take().expect("it is piped"));
    let lines = stdout.lines().map_while(Result::ok);
    let addresses = lines.filter_map(|line| Some(line.split_once("http://")?.1.to_owned()));
    let addresses: Vec<_> = addresses.take(3).collect();
    assert_eq!(addresses.len(), 3);
    for address in &addresses {
        TcpStream::connect(address).expect("it listens");
    }

    holder.kill().expect("it runs");
    holder.wait().expect("it ended");
    for address in addresses {
        assert!(ends(&address), "{address} still listens");
    }
}

/// A connection ends with its server. More than one, because a process that ends may close them before its listener.
fn ends(address: &str) -> bool {
    (0..3).any(|_| {
        let Ok(mut connection) = TcpStream::connect(address) else {
            return true;
        };
        let patience = Some(Duration::from_secs(10));
        connection.set_read_timeout(patience).expect("it can be set");
        _ = connection.read(&mut [0]);
        false
    })
}

/// Where no destructor is ever called.
fn hold_servers() -> ! {
    static SERVERS: OnceLock<(Ministack, Roto, Microburst)> = OnceLock::new();
    let (ministack, roto, microburst) = SERVERS.get_or_init(|| {
        let ministack = Ministack::start();
        let microburst = Microburst::start(ministack.endpoint());
        (ministack, Roto::start(), microburst)
    });
    for endpoint in [ministack.endpoint(), roto.endpoint(), microburst.endpoint()] {
        println!("{endpoint}");
    }
    loop {
        thread::park();
    }
}
