//! Two replicas over one AWS behind a proxy that makes faults, each with a store of its own beside it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tagway_proto::v1;
use tagway_servers::{Microburst, Ministack, boto3};
use tagway_tests::admin::{self, Admin};
use tagway_tests::client::Door;
use tagway_tests::gateway::{Gateway, binary, settings_over_aws, with_queue};
use tagway_tests::issuer::{Key, claims, key_set, now, with};
use tagway_tests::validators::timeline::Store;
use tempfile::TempDir;
use tokio::sync::{Mutex, watch};
use tokio::task::{block_in_place, spawn_blocking};

use crate::REPLICAS;

/// The cache's policy, short enough for all of it to happen.
pub(super) const TTL: Duration = Duration::from_secs(5);
/// As above.
pub(super) const STALE: Duration = Duration::from_secs(20);
/// As above.
pub(super) const NEGATIVE: Duration = Duration::from_secs(2);
/// As long as a drain may take.
pub(super) const DRAIN: Duration = Duration::from_secs(20);
/// Peers who say nothing are let go after that.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// The strategy that is replaced.
pub(super) const STRATEGY: &str = "tag-prefix";

/// All processes. They end with it.
pub(super) struct Fleet {
    replicas: Vec<Replica>,
    /// In front of everything at AWS.
    pub(super) faults: Arc<Microburst>,
    aws: Ministack,
    key: Arc<Key>,
    settings: String,
    /// The component of [`STRATEGY`].
    pub(super) component: Vec<u8>,
    logs: Option<PathBuf>,
}

struct Replica {
    gateway: Mutex<Gateway>,
    door: watch::Sender<Door>,
    /// For operators: gRPC and HTTP.
    ops: watch::Sender<(String, String)>,
    /// How often it was started.
    lives: watch::Sender<usize>,
}

/// Where a key of that tag lies.
pub(super) const fn tag(store: Store) -> &'static str {
    match store {
        Store::DynamoDb => "tenant_config_",
        Store::ParameterStore => "param_config_",
        Store::Embedded => "tenant_config_x_",
    }
}

/// Which stores a list of that prefix asks.
pub(super) fn stores(prefix: &str) -> Vec<Store> {
    if prefix == tag(Store::ParameterStore) {
        vec![Store::ParameterStore]
    } else if prefix == tag(Store::Embedded) {
        vec![Store::Embedded]
    } else {
        vec![Store::DynamoDb, Store::Embedded]
    }
}

impl Fleet {
    /// Starts all of them.
    pub(super) async fn start(logs: Option<PathBuf>) -> Self {
        spawn_blocking(move || Self::build(logs)).await.expect("it starts")
    }

    fn build(logs: Option<PathBuf>) -> Self {
        let guests = binary().with_file_name("soak-plugins");
        let [component, hostile] = [STRATEGY, "hostile"].map(|name| {
            let built = tagway_plugin_builder::build(name, &guests);
            built.expect("a component")
        });
        let aws = Ministack::start();
        let faults = Arc::new(Microburst::start(aws.endpoint()));
        let key = Arc::new(Key::ed("soak"));
        let settings = settings(faults.endpoint());
        let replicas = (0..REPLICAS).map(|_| {
            let folder = TempDir::new().expect("a folder");
            fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).expect("written");
            fs::write(folder.path().join("hostile.wasm"), &hostile).expect("written");
            let gateway = Gateway::start_in(folder.into(), Arc::clone(&key), &settings);
            let made = gateway.tagway("acme", &["provision", "tagway.toml"], b"");
            assert!(made.status.success(), "{made:?}");
            assert!(gateway.logs("a part is ready"), "{}", gateway.log());
            Replica {
                door: watch::Sender::new(gateway.door()),
                ops: watch::Sender::new((gateway.admin.clone(), gateway.ops.clone())),
                lives: watch::Sender::new(1),
                gateway: Mutex::new(gateway),
            }
        });
        Self {
            replicas: replicas.collect(),
            faults,
            aws,
            key,
            settings,
            component,
            logs,
        }
    }

    /// A token that outlives the run, for that tenant, which may do that.
    pub(super) fn token(&self, tenant: &str, scope: &str) -> String {
        let claims = with(claims(tenant), "exp", json!(now() + 7 * 24 * 3600));
        self.key.token(&with(claims, "scope", scope.into()))
    }

    /// Where callers find a replica, now and after each start.
    pub(super) fn door(&self, replica: usize) -> watch::Receiver<Door> {
        self.replicas[replica].door.subscribe()
    }

    /// An operator of a replica.
    pub(super) async fn admin(&self, replica: usize) -> Result<Admin, tonic::transport::Error> {
        let (address, _) = self.replicas[replica].ops.borrow().clone();
        admin::connect(&address, &self.token("ops", "admin")).await
    }

    /// What a replica's process tells of itself, and which of its processes it is.
    pub(super) async fn metrics(&self, replica: usize) -> (usize, String) {
        let (_, ops) = self.replicas[replica].ops.borrow().clone();
        let address = format!("http://{ops}/metrics");
        let text = spawn_blocking(move || {
            let mut answer = ureq::get(address).call().expect("it answers operators");
            answer.body_mut().read_to_string().expect("text")
        });
        let life = *self.replicas[replica].lives.borrow();
        (life, text.await.expect("it answers"))
    }

    /// Adds a rule to the proxy's.
    pub(super) async fn fault(&self, rule: serde_json::Value) {
        let faults = Arc::clone(&self.faults);
        spawn_blocking(move || faults.rule(&rule))
            .await
            .expect("the proxy answers");
    }

    /// All calls pass again.
    pub(super) async fn heal(&self) {
        let faults = Arc::clone(&self.faults);
        spawn_blocking(move || faults.clear()).await.expect("the proxy answers");
    }

    /// Removes versions that something took the place of a minute ago, as if an hour had passed since, which is the shortest that they may be
    /// kept. DynamoDB removes them by itself. Its stand-in does not, and looks through all of a tenant's for each list: within an hour it
    /// would take seconds for one.
    pub(super) async fn expire(&self) {
        let endpoint = self.aws.endpoint().to_owned();
        let script = "
import boto3, time
table = boto3.resource('dynamodb', 'eu-west-1').Table('tagway')
over = boto3.dynamodb.conditions.Attr('expires_at').lt(int(time.time()) + 59 * 60)
page = {'ProjectionExpression': 'pk, sk', 'FilterExpression': over}
with table.batch_writer() as writer:
    while True:
        found = table.scan(**page)
        for item in found['Items']:
            writer.delete_item(Key=item)
        if 'LastEvaluatedKey' not in found:
            break
        page['ExclusiveStartKey'] = found['LastEvaluatedKey']
";
        let expired = spawn_blocking(move || boto3(script, &endpoint));
        drop(expired.await.expect("it answers"));
    }

    /// Has the queues of processes that were killed be dead, as if an hour had passed since: whichever process starts next reaps them. To
    /// leave them to their hour would have each event copied to all of the last hundred.
    pub(super) async fn bury(&self) {
        let mut standing = Vec::new();
        for replica in 0..REPLICAS {
            let mut admin = self.admin(replica).await.expect("it answers operators");
            let status = admin
                .get_status(v1::GetStatusRequest {})
                .await
                .expect("it answers operators");
            let parts = status.into_inner().parts.into_iter();
            standing.extend(parts.filter(|part| part.name == "events:sqs").map(|part| part.detail));
        }
        let endpoint = self.aws.endpoint().to_owned();
        let script = format!(
            "
import boto3, json
standing = {{url.rsplit('/', 1)[-1] for url in json.loads({:?})}}
sqs = boto3.client('sqs', 'eu-west-1')
for url in sqs.list_queues(QueueNamePrefix='tagway-events-').get('QueueUrls', []):
    if url.rsplit('/', 1)[-1] not in standing:
        sqs.tag_queue(QueueUrl=url, Tags={{'tagway:heartbeat': '1'}})
",
            json!(standing).to_string()
        );
        let buried = spawn_blocking(move || boto3(&script, &endpoint));
        drop(buried.await.expect("it answers"));
    }

    /// The process that is a replica, for who ends it or must not have it ended.
    pub(super) async fn process(&self, replica: usize) -> tokio::sync::MutexGuard<'_, Gateway> {
        self.replicas[replica].gateway.lock().await
    }

    /// The same, unless somebody has it.
    pub(super) fn try_process(&self, replica: usize) -> Option<tokio::sync::MutexGuard<'_, Gateway>> {
        self.replicas[replica].gateway.try_lock().ok()
    }

    /// Starts another process in place of one that has ended.
    pub(super) fn start_again(&self, replica: usize, gateway: &mut Gateway) {
        let lives = *self.replicas[replica].lives.borrow();
        self.write_log(replica, lives, gateway);
        *gateway =
            block_in_place(|| Gateway::start_in(Arc::clone(&gateway.folder), Arc::clone(&self.key), &self.settings));
        let here = &self.replicas[replica];
        here.lives.send_replace(lives + 1);
        here.ops.send_replace((gateway.admin.clone(), gateway.ops.clone()));
        here.door.send_replace(gateway.door());
    }

    /// What all processes that run have logged.
    pub(super) async fn write_logs(&self) {
        for (number, replica) in self.replicas.iter().enumerate() {
            let lives = *replica.lives.borrow();
            self.write_log(number, lives, &*replica.gateway.lock().await);
        }
    }

    fn write_log(&self, replica: usize, life: usize, gateway: &Gateway) {
        if let Some(logs) = &self.logs {
            fs::create_dir_all(logs).expect("a folder");
            let file = logs.join(format!("replica-{replica}-{life}.log"));
            fs::write(file, gateway.log()).expect("written");
        }
    }
}

fn settings(aws: &str) -> String {
    let server = "[server]\nstate = \"state\"\nmax_connection_age = \"2m\"\nmax_connection_grace = \"10s\"";
    let rest = format!(
        "
[cache]
ttl = \"{}s\"
stale = \"{}s\"
negative = \"{}s\"
snapshot = \"near\"

[strategies.hostile]
source = \"file:hostile.wasm\"
tags = [\"hostile_\"]
backends = [\"local\"]
",
        TTL.as_secs(),
        STALE.as_secs(),
        NEGATIVE.as_secs()
    );
    let settings = settings_over_aws("file:keys.json", aws, &with_queue(aws, "sweep = \"5s\""));
    // An emulator on a machine that is busy with everything else is slow, and not away.
    let patient = |table: String, kind: &str| table.replace(kind, &format!("{kind}\ntimeout = \"5s\""));
    let settings = settings.replace("table = \"tagway\"", "table = \"tagway\"\nhistory_ttl = \"1h\"");
    let settings = ["kind = \"dynamodb\"", "kind = \"ssm\""]
        .into_iter()
        .fold(settings, patient);
    settings.replace("[server]", server) + &rest
}
