//! Several replicas over the same stores: what changes anywhere is at every replica's watchers and callers, at once by an event
//! and in the end without any.

use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_response::Kind;
use tagway_servers::{Fault, Microburst};
use tagway_tests::client::{refused, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::watcher::{Watcher, to_keys, to_prefix};
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::fleet::{Fleet, with_queue};

const HOT: &str = "tenant_config_a";
const PARAMETER: &str = "param_config_a";
/// The name of that one in Parameter Store.
const NAME: &str = "/tagway/acme/live/eu-1/param_config_/a";
/// Nothing is found by the sweep.
const NO_SWEEP: &str = "sweep = \"24h\"";
/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

async fn watchers(gateways: &[&Gateway]) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for gateway in gateways {
        let client = gateway.client("acme").await;
        watchers.push(Watcher::of(&client, to_keys("s", &[HOT, PARAMETER])).await);
        let mut by_prefix = Watcher::open(&client).await.unwrap();
        by_prefix.subscribe(to_prefix("s", ""));
        by_prefix.synced("s").await;
        watchers.push(by_prefix);
    }
    watchers
}

async fn all_show(watchers: &mut [Watcher], key: &str, value: Option<&str>) {
    for watcher in watchers {
        watcher.shows("s", key, value).await;
    }
}

#[tokio::test]
async fn what_one_replica_writes_all_have_at_once() {
    let fleet = Fleet::new();
    let gateways: Vec<Gateway> = (0..3).map(|_| fleet.start_with_queue(NO_SWEEP)).collect();
    let mut watchers = watchers(&gateways.iter().collect::<Vec<_>>()).await;
    let mut clients = Vec::new();
    for gateway in &gateways {
        clients.push(gateway.client("acme").await);
    }
    for (round, writer) in [0, 1, 2, 0].into_iter().enumerate() {
        let value = round.to_string();
        for key in [HOT, PARAMETER] {
            // It is near everywhere.
            for client in &clients {
                _ = client.get(key).await;
            }
            clients[writer].put(key, &value).await.unwrap();
            all_show(&mut watchers, key, Some(&value)).await;
            for client in &clients {
                assert_eq!(client.get(key).await.unwrap().value, value.as_bytes());
            }
        }
    }
    for key in [HOT, PARAMETER] {
        clients[1].delete(key).await.unwrap();
        all_show(&mut watchers, key, None).await;
    }
    assert!(!gateways.iter().any(|gateway| gateway.log().contains("ERROR")));
}

#[tokio::test]
async fn what_changes_behind_everybodys_back_is_noticed() {
    let fleet = Fleet::new();
    let gateways: Vec<Gateway> = (0..2).map(|_| fleet.start_with_queue(NO_SWEEP)).collect();
    let mut watchers = watchers(&gateways.iter().collect::<Vec<_>>()).await;
    let ssm = |call: &str| format!("client('ssm').{call}");
    fleet
        .does(&ssm(&format!(
            "put_parameter(Name='{NAME}', Value='console', Type='String')"
        )))
        .await;
    all_show(&mut watchers, PARAMETER, Some("console")).await;
    fleet
        .does(&ssm(&format!(
            "put_parameter(Name='{NAME}', Value='again', Overwrite=True)"
        )))
        .await;
    all_show(&mut watchers, PARAMETER, Some("again")).await;
    fleet.does(&ssm(&format!("delete_parameter(Name='{NAME}')"))).await;
    all_show(&mut watchers, PARAMETER, None).await;

    // An item changes, and a pipe puts the record of its stream on the bus.
    let client = gateways[0].client("acme").await;
    client.put(HOT, "1").await.unwrap();
    all_show(&mut watchers, HOT, Some("1")).await;
    let pump = "
keys = {'pk': {'S': 'TENANT#acme'}, 'sk': {'S': 'CONFIG#tenant_config_/a'}}
table = client('dynamodb')
def record(name):
    image = table.get_item(TableName='tagway', Key=keys).get('Item')
    record = {'eventName': name, 'eventSource': 'aws:dynamodb', 'awsRegion': 'eu-west-1',
        'dynamodb': {'Keys': keys, 'SequenceNumber': '1', 'StreamViewType': 'NEW_IMAGE'},
        'eventSourceARN': 'arn:aws:dynamodb:eu-west-1:123456789012:table/tagway/stream/2026-01-01T00:00:00.000'}
    if image:
        image['value']['B'] = 'bytes'
        record['dynamodb']['NewImage'] = image
    entry = {'Source': 'tagway.dynamodb', 'DetailType': 'DynamoDB', 'Detail': json.dumps(record)}
    assert client('events').put_events(Entries=[entry])['FailedEntryCount'] == 0
";
    let update = "
table.update_item(TableName='tagway', Key=keys, UpdateExpression='SET #v = :v, version = :n',
    ExpressionAttributeNames={'#v': 'value'}, ExpressionAttributeValues={':v': {'B': b'2'}, ':n': {'N': '2'}})
record('MODIFY')";
    fleet.does(&format!("{pump}{update}")).await;
    all_show(&mut watchers, HOT, Some("2")).await;
    fleet
        .does(&format!(
            "{pump}table.delete_item(TableName='tagway', Key=keys)\nrecord('REMOVE')"
        ))
        .await;
    all_show(&mut watchers, HOT, None).await;
}

#[tokio::test]
async fn with_every_event_lost_the_sweep_finds_it() {
    let fleet = Fleet::new();
    let [writes, hears_nothing] = [0, 1].map(|_| fleet.start("sweep = \"1s\""));
    let client = writes.client("acme").await;
    client.put(HOT, "1").await.unwrap();
    client.put(PARAMETER, "1").await.unwrap();
    let mut watchers = watchers(&[&hears_nothing]).await;
    let reader = hears_nothing.client("acme").await;
    for value in ["2", "3"] {
        for key in [HOT, PARAMETER] {
            client.put(key, value).await.unwrap();
        }
        for key in [HOT, PARAMETER] {
            all_show(&mut watchers, key, Some(value)).await;
            assert_eq!(reader.get(key).await.unwrap().value, value.as_bytes());
        }
    }
    for key in ["tenant_config_new", "param_config_new"] {
        client.put(key, "new").await.unwrap();
        all_show(&mut watchers[1..], key, Some("new")).await;
    }
    for key in [HOT, PARAMETER, "tenant_config_new", "param_config_new"] {
        client.delete(key).await.unwrap();
        all_show(&mut watchers[1..], key, None).await;
    }
    all_show(&mut watchers, HOT, None).await;
    // What nobody watches and somebody reads, past its sweep.
    client.put("param_config_read", "1").await.unwrap();
    drop(watchers);
    assert_eq!(reader.get("param_config_read").await.unwrap().value, &b"1"[..]);
    client.put("param_config_read", "2").await.unwrap();
    let converges = async {
        while reader.get("param_config_read").await.unwrap().value != b"2"[..] {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), converges)
        .await
        .expect("within a sweep, and not a minute's ttl");
}

#[tokio::test]
async fn a_queue_that_vanished_is_made_again_and_nothing_is_missed() {
    let fleet = Fleet::new();
    let [writes, hears] = [0, 1].map(|_| fleet.start_with_queue(NO_SWEEP));
    let mut watchers = watchers(&[&hears]).await;
    let client = writes.client("acme").await;
    // Nothing was compared yet: what is found from here on is found by comparing.
    let gone = fleet
        .does(
            "
sqs = client('sqs')
for url in sqs.list_queues(QueueNamePrefix='tagway-events-')['QueueUrls']:
    sqs.delete_queue(QueueUrl=url)
    print(url)",
        )
        .await;
    assert_eq!(gone.lines().count(), 2);
    client.put(HOT, "missed").await.unwrap();
    client.put(PARAMETER, "missed").await.unwrap();
    assert!(hears.logs("there is no queue"), "{}", hears.log());
    all_show(&mut watchers, HOT, Some("missed")).await;
    all_show(&mut watchers, PARAMETER, Some("missed")).await;
    // The old rules go with their queues.
    let made = async { while fleet.does(LEFT).await.trim() != "2 4" {} };
    timeout(PATIENCE, made).await.unwrap();
    client.put(HOT, "heard").await.unwrap();
    all_show(&mut watchers, HOT, Some("heard")).await;
}

const LEFT: &str = "
print(len(client('sqs').list_queues(QueueNamePrefix='tagway-events-').get('QueueUrls', [])),
    len(client('events').list_rules(NamePrefix='tagway-events-')['Rules']))";

#[tokio::test]
async fn who_goes_leaves_nothing_and_what_the_killed_left_is_removed() {
    let fleet = Fleet::new();
    let mut goes = fleet.start_with_queue(NO_SWEEP);
    assert_eq!(fleet.does(LEFT).await.trim(), "1 2");
    goes.signal("TERM");
    let (status, goes) = tokio::task::spawn_blocking(move || (goes.wait(), goes)).await.unwrap();
    assert!(status.success(), "{}", goes.log());
    assert_eq!(fleet.does(LEFT).await.trim(), "0 0");

    let killed = fleet.start_with_queue(NO_SWEEP);
    drop(killed);
    assert_eq!(fleet.does(LEFT).await.trim(), "1 2");
    // A younger one may be alive.
    let [one, other] = [0, 1].map(|_| fleet.start_with_queue(NO_SWEEP));
    assert_eq!(fleet.does(LEFT).await.trim(), "3 6");
    drop((one, other));
    let aged = "
sqs = client('sqs')
for url in sqs.list_queues(QueueNamePrefix='tagway-events-')['QueueUrls']:
    sqs.tag_queue(QueueUrl=url, Tags={'tagway:heartbeat': '1'})
sqs.create_queue(QueueName='tagway-events-of-somebody-else')";
    fleet.does(aged).await;
    let [one, other] = [0, 1].map(|_| fleet.start_with_queue(NO_SWEEP));
    let reaped = async { while fleet.does(LEFT).await.trim() != "3 4" {} };
    assert!(
        timeout(PATIENCE, reaped).await.is_ok(),
        "{}\n{}",
        one.log(),
        other.log()
    );
}

#[tokio::test]
async fn whatever_lies_in_the_queue_harms_nobody() {
    let fleet = Fleet::new();
    let gateway = fleet.start_with_queue(NO_SWEEP);
    let client = gateway.client("acme").await;
    client.put(PARAMETER, "1").await.unwrap();
    let mut watchers = watchers(&[&gateway]).await;
    let sent = fleet
        .does(r#"
sqs = client('sqs')
url, = sqs.list_queues(QueueNamePrefix='tagway-events-')['QueueUrls']
def event(source, kind, detail):
    return json.dumps({'source': source, 'detail-type': kind, 'region': 'eu-west-1', 'detail': detail})
names = ['/tagway/acme/../globex/t_/a', '/tagway/', '/tagway//', 'x' * 2000, '/tagway/globex/live/eu-1/param_config_/a']
bodies = ['x', '{}', 'null', '[' * 10000, '{"Type": "Notification", "Message": "{}"}', event('tagway', 'ConfigChanged', {}),
    event('tagway', 'ConfigChanged', {'backend': 'params', 'name': 'acme/live/eu-1/param_config_/a', 'etag': 'x', 'replica': 3}),
    event('aws.ssm', 'Parameter Store Change', None)]
bodies += [event('aws.ssm', 'Parameter Store Change', {'operation': 'Update', 'name': name}) for name in names]
for body in bodies * 5:
    sqs.send_message(QueueUrl=url, MessageBody=body)
print(len(bodies) * 5)"#)
        .await;
    client.put(PARAMETER, "2").await.unwrap();
    all_show(&mut watchers, PARAMETER, Some("2")).await;
    let empty = async {
        loop {
            let left = fleet
                .does(
                    "
sqs = client('sqs')
url, = sqs.list_queues(QueueNamePrefix='tagway-events-')['QueueUrls']
names = ['ApproximateNumberOfMessages', 'ApproximateNumberOfMessagesNotVisible']
print(*sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)['Attributes'].values())",
                )
                .await;
            if left.trim() == "0 0" {
                break;
            }
        }
    };
    timeout(PATIENCE, empty).await.expect("nothing comes again");
    assert!(sent.trim().parse::<u32>().unwrap() > 50);
    let problems = gateway.log().matches("cannot be understood").count();
    assert!((1..=5).contains(&problems), "a word of each kind: {}", gateway.log());
    assert!(!gateway.log().contains("panicked"));
}

#[tokio::test]
async fn operators_see_what_is_away_and_refresh_what_is_near() {
    let fleet = Fleet::new();
    let gateway = fleet.start(&with_queue("http://127.0.0.1:1", NO_SWEEP));
    let client = gateway.client("acme").await;
    client.put(PARAMETER, "1").await.unwrap();
    assert!(gateway.logs("the sweep alone"), "{}", gateway.log());
    let mut may_not = gateway.admin_who_may("read write share").await;
    let denied = may_not.get_status(v1::GetStatusRequest {}).await;
    assert_eq!(why(denied), (Code::PermissionDenied, "PERMISSION_MISSING".to_owned()));
    let mut admin = gateway.admin().await;
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let part = |name: &str| {
        status
            .parts
            .iter()
            .find(|part| part.name == name)
            .unwrap_or_else(|| panic!("{status:?}"))
    };
    assert!(!part("events:sqs").ready && !part("events:sqs").detail.is_empty());
    assert!(part("backend:params").ready && part("strategy:tag-prefix").ready && !status.replica.is_empty());
    // Somebody writes, and nobody tells of it but who asks for a fresh look.
    let mut watchers = watchers(&[&gateway]).await;
    fleet
        .does(&format!(
            "client('ssm').put_parameter(Name='{NAME}', Value='2', Overwrite=True)"
        ))
        .await;
    assert_eq!(client.get(PARAMETER).await.unwrap().value, &b"1"[..]);
    let refresh = |tenant: &str, keys: &[&str]| v1::RefreshConfigsRequest {
        tenant: tenant.to_owned(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        ..Default::default()
    };
    let others = admin
        .refresh_configs(refresh("globex", &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(others.refreshed, 0);
    assert_eq!(client.get(PARAMETER).await.unwrap().value, &b"1"[..]);
    let refreshed = admin
        .refresh_configs(refresh("acme", &[PARAMETER]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(refreshed.refreshed, 1);
    assert_eq!(client.get(PARAMETER).await.unwrap().value, &b"2"[..]);
    all_show(&mut watchers, PARAMETER, Some("2")).await;
    fleet
        .does(&format!("client('ssm').delete_parameter(Name='{NAME}')"))
        .await;
    admin.refresh_configs(refresh("", &[])).await.unwrap();
    all_show(&mut watchers, PARAMETER, None).await;
    // An event that somebody passed on.
    client.put(PARAMETER, "3").await.unwrap();
    fleet
        .does(&format!(
            "client('ssm').put_parameter(Name='{NAME}', Value='4', Overwrite=True)"
        ))
        .await;
    let detail = serde_json::json!({ "operation": "Update", "name": NAME });
    let event = serde_json::json!({
        "source": "aws.ssm", "detail-type": "Parameter Store Change", "region": "eu-west-1", "detail": detail,
    });
    let with_event = |event: String| v1::RefreshConfigsRequest {
        event,
        ..Default::default()
    };
    let passed_on = admin.refresh_configs(with_event(event.to_string())).await.unwrap();
    assert_eq!(passed_on.into_inner().refreshed, 1);
    all_show(&mut watchers, PARAMETER, Some("4")).await;
    let none = admin.refresh_configs(with_event("{}".to_owned())).await.unwrap_err();
    assert_eq!(refused(&none).field.as_deref(), Some("event"));
    let malformed = admin.refresh_configs(refresh("_shared", &[])).await;
    assert_eq!(why(malformed).0, Code::InvalidArgument);
}

#[tokio::test]
async fn who_may_not_have_a_queue_serves_and_says_so_until_it_may() {
    let fleet = Fleet::new();
    let faults = Microburst::start(fleet.aws.endpoint());
    faults.rule(&serde_json::json!({
        "operation": "PutRule",
        "error": { "code": "LimitExceededException", "status": 400, "message": "no more rules" },
    }));
    let settings = with_queue(faults.endpoint(), "sweep = \"1s\"");
    let gateway = fleet.start(&settings);
    assert!(gateway.logs("PutRule"), "{}", gateway.log());
    let mut admin = gateway.admin().await;
    let mut told = async || {
        let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        let part = status.parts.into_iter().find(|part| part.name == "events:sqs").unwrap();
        (part.ready, part.detail)
    };
    let (ready, detail) = told().await;
    assert!(
        !ready && detail.contains("PutRule") && detail.contains("LimitExceeded"),
        "{detail}"
    );
    // What was made in vain is not left, and what changes is found all the same.
    let mut watchers = watchers(&[&gateway]).await;
    fleet
        .does(&format!(
            "client('ssm').put_parameter(Name='{NAME}', Value='found', Type='String')"
        ))
        .await;
    all_show(&mut watchers, PARAMETER, Some("found")).await;
    let progress = async {
        loop {
            if let (_, Kind::Progress(progress)) = watchers[0].any().await.unwrap() {
                break progress.stale;
            }
        }
    };
    assert!(progress.await, "watchers are told that nobody tells of changes");
    faults.clear();
    assert!(gateway.logs("a part is ready"), "{}", gateway.log());
    assert!(told().await.0);
    let left = async { while fleet.does(LEFT).await.trim() != "1 2" {} };
    timeout(PATIENCE, left).await.unwrap();
    for (operation, fault) in [
        ("ReceiveMessage", Fault::Throttled),
        ("ReceiveMessage", Fault::Truncated),
        ("DeleteMessageBatch", Fault::Internal),
        ("PutEvents", Fault::Throttled),
    ] {
        faults.inject(operation, fault, 2);
    }
    let client = gateway.client("acme").await;
    client.put(PARAMETER, "1").await.unwrap();
    all_show(&mut watchers, PARAMETER, Some("1")).await;
}

#[tokio::test]
async fn a_queue_behind_a_topic_is_as_good_as_one_of_its_own() {
    let fleet = Fleet::new();
    let topic = include_str!("../../gateway/deploy/events-topic.yaml");
    let queue = include_str!("../../gateway/deploy/events-queue.yaml");
    let wrapped = queue.replace("RawMessageDelivery: true", "RawMessageDelivery: false");
    // A string in JSON is one in Python.
    let [topic, queue, wrapped] = [topic, queue, &wrapped].map(serde_json::Value::from);
    let made = fleet
        .does(&format!(
            "
cloudformation = client('cloudformation')
def stack(name, body, **parameters):
    parameters = [{{'ParameterKey': key, 'ParameterValue': value}} for key, value in parameters.items()]
    cloudformation.create_stack(StackName=name, TemplateBody=body, Parameters=parameters)
    waiter = cloudformation.get_waiter('stack_create_complete')
    waiter.wait(StackName=name, WaiterConfig={{'Delay': 0.1, 'MaxAttempts': 600}})
    output, = cloudformation.describe_stacks(StackName=name)['Stacks'][0]['Outputs']
    return output['OutputValue']
stack('topic-without-bucket', {topic})
topic = stack('topic', {topic}, StrategyBucket='plugins')
print(stack('raw', {queue}, TopicArn=topic, QueueName='tagway-0'))
# One that says what it comes from.
print(stack('wrapped', {wrapped}, TopicArn=topic, QueueName='tagway-1'))"
        ))
        .await;
    let (first, wrapped) = made.trim().split_once('\n').unwrap();
    let gateways = [first, wrapped].map(|url| {
        let queue = format!("queue = \"{url}\"\n{NO_SWEEP}");
        fleet.start_with_queue(&queue)
    });
    assert_eq!(fleet.does(LEFT).await.trim(), "0 0", "they make none of their own");
    let mut watchers = watchers(&gateways.iter().collect::<Vec<_>>()).await;
    let client = gateways[0].client("acme").await;
    client.put(HOT, "1").await.unwrap();
    all_show(&mut watchers, HOT, Some("1")).await;
    fleet
        .does(&format!(
            "client('ssm').put_parameter(Name='{NAME}', Value='console', Type='String')"
        ))
        .await;
    all_show(&mut watchers, PARAMETER, Some("console")).await;
}
