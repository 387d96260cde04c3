//! From a write through one replica to the value at a watcher of another, by a rule and a queue of an emulator, beside a bare receiver
//! of the same events out of a queue of its own. The emulator looks for messages every 100 ms, so what counts is the difference.
//! And how long watchers wait where every event is lost; and what a flood of events costs a store.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use hdrhistogram::Histogram;
use tagway_servers::{Ministack, boto3};
use tagway_tests::gateway::{Gateway, settings_over_aws, with_queue};
use tagway_tests::issuer::{Key, key_set};
use tagway_tests::watcher::{Watcher, to_keys};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const KEY: &str = "tenant_config_a";
/// Writes that are not measured.
const WARM: usize = 10;

/// How events are measured.
#[derive(Args)]
pub(super) struct Load {
    /// Writes that are measured
    #[arg(long, default_value_t = 200)]
    writes: usize,
    /// Between two sweeps where events are lost, in seconds
    #[arg(long, default_value_t = 5)]
    sweep: u64,
}

const HEAD: &str = "
import boto3, json, time
client = lambda name: boto3.client(name, 'eu-west-1')
";

/// Measures all of it.
pub(super) async fn run(load: &Load) {
    let aws = spawn_blocking(Ministack::start).await.unwrap();
    let key = Arc::new(Key::ed("first"));
    delivery(load, &aws, &key).await;
    sweeps(load, &aws, &key).await;
    flood(&aws, &key).await;
}

async fn delivery(load: &Load, aws: &Ministack, key: &Arc<Key>) {
    let events = with_queue(aws.endpoint(), "sweep = \"24h\"");
    let [writer, reader] = [0, 1].map(|_| start(aws, key, &events));
    for gateway in [&writer, &reader] {
        assert!(gateway.logs("a part is ready"));
    }
    let times = WARM + load.writes;
    let bare = script(
        aws,
        "
sqs, events = client('sqs'), client('events')
url = sqs.create_queue(QueueName='bare')['QueueUrl']
arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=['QueueArn'])['Attributes']['QueueArn']
events.put_rule(Name='bare', EventPattern='{\"source\": [\"tagway\"]}')
events.put_targets(Rule='bare', Targets=[{'Id': 'queue', 'Arn': arn}])
print(url)"
            .to_owned(),
    )
    .await;
    let receiver = script(
        aws,
        format!(
            "
sqs, seen = client('sqs'), 0
while seen < {times}:
    answer = sqs.receive_message(QueueUrl='{}', MaxNumberOfMessages=10, WaitTimeSeconds=20)
    now = time.time()
    for message in answer.get('Messages', []):
        seen += 1
        print(json.loads(message['Body'])['detail'].get('etag'), now)
        sqs.delete_message(QueueUrl='{}', ReceiptHandle=message['ReceiptHandle'])",
            bare.trim(),
            bare.trim()
        ),
    );
    let receiver = tokio::spawn(receiver);
    // It has to be there before the first.
    sleep(Duration::from_secs(3)).await;
    let client = writer.client("acme").await;
    let mut watcher = Watcher::of(&reader.client("acme").await, to_keys("s", &[KEY])).await;
    let (mut acknowledged, mut delivered) = (HashMap::new(), Histogram::<u64>::new(3).unwrap());
    for write in 0..times {
        let value = write.to_string();
        let etag = client.put(KEY, &value).await.unwrap().etag;
        let at = now();
        watcher.shows("s", KEY, Some(&value)).await;
        if write >= WARM {
            delivered += micros(now() - at);
            acknowledged.insert(etag, at);
        }
        // Or all would come at the same moment between two looks of the emulator.
        sleep(Duration::from_millis(fastrand::u64(..200))).await;
    }
    let mut heard = Histogram::<u64>::new(3).unwrap();
    for line in receiver.await.unwrap().lines() {
        let (etag, at) = line.split_once(' ').unwrap();
        if let Some(acknowledged) = acknowledged.get(etag) {
            heard += micros(at.parse::<f64>().unwrap() - acknowledged);
        }
    }
    println!("a write through one replica, acknowledged, until");
    print("a bare receiver has it", &heard);
    print("another's watcher has it", &delivered);
}

async fn sweeps(load: &Load, aws: &Ministack, key: &Arc<Key>) {
    let events = format!("sweep = \"{}s\"", load.sweep);
    let [writer, reader] = [0, 1].map(|_| start(aws, key, &events));
    let client = writer.client("acme").await;
    let mut watcher = Watcher::of(&reader.client("acme").await, to_keys("s", &[KEY])).await;
    let mut waited = Histogram::<u64>::new(3).unwrap();
    for write in 0..20 {
        let value = format!("lost {write}");
        client.put(KEY, &value).await.unwrap();
        let at = now();
        watcher.shows("s", KEY, Some(&value)).await;
        waited += micros(now() - at);
        sleep(Duration::from_secs(load.sweep).mul_f64(fastrand::f64())).await;
    }
    println!("with every event lost and a sweep every {} s, until", load.sweep);
    print("another's watcher has it", &waited);
}

/// Of a flood.
const EVENTS: u32 = 5000;

/// A queue full of events of one key, which is watched.
async fn flood(aws: &Ministack, key: &Arc<Key>) {
    let gateway = start(aws, key, &with_queue(aws.endpoint(), "sweep = \"24h\""));
    assert!(gateway.logs("a part is ready"));
    let client = gateway.client("acme").await;
    client.put("param_config_a", "1").await.unwrap();
    let mut watcher = Watcher::of(&client, to_keys("s", &["param_config_a"])).await;
    let asked = misses(&gateway).await;
    let began = now();
    script(
        aws,
        format!(
            "
sqs = client('sqs')
urls = sqs.list_queues(QueueNamePrefix='tagway-events-')['QueueUrls']
body = json.dumps({{'source': 'aws.ssm', 'detail-type': 'Parameter Store Change', 'region': 'eu-west-1',
    'detail': {{'operation': 'Update', 'name': '/tagway/acme/live/eu-1/param_config_/a'}}}})
for url in urls:
    for _ in range({EVENTS} // 10):
        sqs.send_message_batch(QueueUrl=url, Entries=[{{'Id': str(i), 'MessageBody': body}} for i in range(10)])"
        ),
    )
    .await;
    client.put("param_config_a", "last").await.unwrap();
    watcher.shows("s", "param_config_a", Some("last")).await;
    println!(
        "{EVENTS} events of one watched key in {:.1} s: {} reads of the store",
        now() - began,
        misses(&gateway).await - asked
    );
}

/// Reads that waited for a store.
async fn misses(gateway: &Gateway) -> u64 {
    let ops = format!("http://{}/metrics", gateway.ops);
    let text = spawn_blocking(move || ureq::get(ops).call().unwrap().body_mut().read_to_string().unwrap());
    let text = text.await.unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("tagway_cache_reads_total{result=\"miss\"}"));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn start(aws: &Ministack, key: &Arc<Key>, events: &str) -> Gateway {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[key]).to_string()).unwrap();
    let settings = settings_over_aws("file:keys.json", aws.endpoint(), events);
    let gateway = Gateway::start_in(folder.into(), Arc::clone(key), &settings);
    assert!(
        gateway
            .tagway("acme", &["provision", "tagway.toml"], b"")
            .status
            .success()
    );
    gateway
}

fn script(aws: &Ministack, script: String) -> impl Future<Output = String> + Send + use<> {
    let endpoint = aws.endpoint().to_owned();
    async move {
        let output = spawn_blocking(move || boto3(&format!("{HEAD}{script}"), &endpoint));
        output.await.unwrap()
    }
}

/// Seconds since the epoch, which two processes count alike.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a span of this run"
)]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).max(1.0) as u64
}

fn print(name: &str, histogram: &Histogram<u64>) {
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
    println!("    {name:<28}{:>12.1?}{:>12.1?}", at(0.5), at(0.99));
}
