//! What is at AWS, and with whose credentials.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tagway_servers::{Ministack, boto3};

use super::{Machine, Told};

/// What the commands of AWS's own tool do here, which is not installed for tests.
fn aws(aws: &str, fix: &str) {
    let words: Vec<&str> = fix.split(' ').collect();
    let ["aws", "events", "create-event-bus", "--name", name, "--region", region] = words[..] else {
        panic!("{fix}");
    };
    _ = boto3(
        &format!("import boto3\nboto3.client('events', '{region}').create_event_bus(Name='{name}')"),
        aws,
    );
}

#[test]
fn a_table_that_is_missing_is_made_as_told() {
    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint());
    let fix = machine.told().fails("backends.hot.table", "there is no table tagway");
    machine.run(&fix);
    machine.told().is_well();
    // One that lacks something serves.
    let script = "
import boto3
table = boto3.client('dynamodb', 'eu-west-1')
table.update_time_to_live(TableName='tagway', TimeToLiveSpecification={'Enabled': False, 'AttributeName': 'expires_at'})";
    _ = boto3(script, ministack.endpoint());
    let told = machine.told();
    assert_eq!(
        (told.not_well(), told.code),
        (vec!["warn backends.hot.table".to_owned()], Some(0))
    );
    told.says("backends.hot.table", "let items go");
    machine.run(told.about("backends.hot.table")["fix"].as_str().unwrap());
    machine.told().is_well();
    // And one with other keys belongs to somebody else.
    let script = "
import boto3
boto3.client('dynamodb', 'eu-west-1').create_table(TableName='theirs', BillingMode='PAY_PER_REQUEST',
    AttributeDefinitions=[{'AttributeName': 'id', 'AttributeType': 'S'}], KeySchema=[{'AttributeName': 'id', 'KeyType': 'HASH'}])";
    _ = boto3(script, ministack.endpoint());
    let machine = machine.with("TAGWAY_BACKENDS__HOT__TABLE", "theirs");
    machine.told().fails("backends.hot.table", "theirs");
}

#[test]
fn without_credentials_one_line_fails_and_the_rest_waits_for_it() {
    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint());
    let mut command = machine.command();
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    let told = Told::of(
        &command
            .args(["doctor", "tagway.toml", "--output", "json"])
            .output()
            .unwrap(),
    );
    let failed: Vec<_> = told
        .not_well()
        .into_iter()
        .filter(|line| line.starts_with("fail"))
        .collect();
    assert_eq!(failed, ["fail credentials"], "{}", told.text);
    assert!(
        told.about("credentials")["fix"]
            .as_str()
            .unwrap()
            .contains("AWS_ACCESS_KEY_ID")
    );
    for subject in [
        "backends.hot.table",
        "backends.params.root",
        "events.bus",
        "events.queue",
    ] {
        told.says(subject, "there are no credentials");
    }
    assert_eq!(told.code, Some(1));
}

#[test]
fn keys_that_aws_does_not_know_are_told_and_never_printed() {
    let ministack = Ministack::start_with_auth();
    let machine = Machine::with_aws(ministack.endpoint());
    let mut command = machine.command();
    command
        .env("AWS_ACCESS_KEY_ID", "stranger")
        .env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    let told = Told::of(
        &command
            .args(["doctor", "tagway.toml", "--output", "json"])
            .output()
            .unwrap(),
    );
    assert_eq!(told.code, Some(1));
    told.says("credentials", "AWS refuses them: InvalidClientTokenId");
    assert!(!told.text.contains("hush-hush"), "{}", told.text);
}

/// With what `gateway/deploy` gives the gateway's role, evaluated as far as the emulator evaluates policies as AWS does.
#[test]
fn nothing_is_asked_that_the_deployed_role_may_not_do() {
    let ministack = Ministack::start_with_auth();
    let template = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/deploy");
        json!(fs::read_to_string(folder.join(name)).unwrap())
    };
    let script = format!(
        "
import boto3, json
client = lambda name: boto3.client(name, 'eu-west-1')
def stack(name, body, **parameters):
    parameters = [{{'ParameterKey': key, 'ParameterValue': value}} for key, value in parameters.items()]
    client('cloudformation').create_stack(StackName=name, TemplateBody=body, Capabilities=['CAPABILITY_NAMED_IAM'],
        Parameters=parameters)
    wait = client('cloudformation').get_waiter('stack_create_complete')
    wait.wait(StackName=name, WaiterConfig={{'Delay': 0.1, 'MaxAttempts': 600}})
trust = {{'Effect': 'Allow', 'Principal': {{'AWS': '123456789012'}}, 'Action': 'sts:AssumeRole'}}
document = json.dumps({{'Version': '2012-10-17', 'Statement': [trust]}})
client('iam').create_role(RoleName='gateway', AssumeRolePolicyDocument=document)
stack('tagway', {}, GatewayRoleName='gateway')
stack('tagway-events', {}, GatewayRoleName='gateway')
role = 'arn:aws:iam::123456789012:role/gateway'
keys = client('sts').assume_role(RoleArn=role, RoleSessionName='test')['Credentials']
print(json.dumps({{name: keys[name] for name in ['AccessKeyId', 'SecretAccessKey', 'SessionToken']}}))",
        template("cloudformation.yaml"),
        template("events.yaml")
    );
    let keys: Value = serde_json::from_str(&boto3(&script, ministack.endpoint())).unwrap();
    let key = |name: &str| keys[name].as_str().unwrap();
    let machine = Machine::with_aws(ministack.endpoint())
        .with("AWS_ACCESS_KEY_ID", key("AccessKeyId"))
        .with("AWS_SECRET_ACCESS_KEY", key("SecretAccessKey"))
        .with("AWS_SESSION_TOKEN", key("SessionToken"));
    let told = machine.told();
    // Who may make tables may look at them.
    assert_eq!(told.not_well(), ["warn backends.hot.table"], "{}", told.text);
    told.says("backends.hot.table", "a tenant's items can be read");
    let fix = told.about("backends.hot.table")["fix"].as_str().unwrap();
    assert!(fix.contains("dynamodb:DescribeTable"), "{fix}");
    told.says("credentials", "assumed-role/gateway");

    // A role that nobody may take on.
    let machine = machine.with(
        "TAGWAY_BACKENDS__PARAMS__TENANT_ROLE",
        "arn:aws:iam::123456789012:role/nobody",
    );
    let told = machine.told();
    assert_eq!(
        told.not_well(),
        [
            "warn backends.hot.table",
            "fail backends.params.tenant_role",
            "warn backends.params.root"
        ],
        "{}",
        told.text
    );
    let fix = told.about("backends.params.tenant_role")["fix"].as_str().unwrap();
    assert!(fix.contains("sts:TagSession"), "{fix}");
}

#[test]
fn a_bus_or_a_queue_that_is_missing_is_told() {
    let ministack = Ministack::start();
    let machine = Machine::with_aws(ministack.endpoint()).with("TAGWAY_EVENTS__BUS", "changes");
    machine.run("tagway provision tagway.toml");
    let fix = machine.told().fails("events.bus", "there is no bus changes");
    aws(ministack.endpoint(), &fix);
    machine.told().is_well();
    let url = format!("{}/123456789012/nosuch", ministack.endpoint());
    let machine = machine.with("TAGWAY_EVENTS__QUEUE", &url);
    machine.told().fails("events.queue", "there is no queue");
    let script = "
import boto3
queue = boto3.client('sqs', 'eu-west-1')
url = queue.create_queue(QueueName='nosuch')['QueueUrl']
for batch in range(100):
    queue.send_message_batch(QueueUrl=url, Entries=[{'Id': str(i), 'MessageBody': 'x'} for i in range(10)])";
    _ = boto3(script, ministack.endpoint());
    let told = machine.told();
    assert_eq!(told.not_well(), ["warn events.queue"], "{}", told.text);
    told.says("events.queue", "1000 messages wait");
}
