#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by failing"
)]

use serde_json::{Value, json};

use super::super::stores::tests::stores;
use super::*;

fn told(message: &Value) -> Result<Told, Unreadable> {
    read(&stores(), &message.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "each call makes its own")]
fn event(source: &str, kind: &str, detail: Value) -> Value {
    json!({
        "version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718", "detail-type": kind, "source": source,
        "account": "123456789012", "time": "2017-05-22T16:43:48Z", "region": "eu-west-1",
        "resources": ["arn:aws:ssm:eu-west-1:123456789012:parameter/foo"], "detail": detail,
    })
}

fn places(told: Result<Told, Unreadable>) -> Vec<String> {
    match told {
        Ok(Told::Changed { places, .. }) => places
            .iter()
            .map(|place| format!("{}:{}", place.backend, place.name))
            .collect(),
        other => vec![format!("{other:?}")],
    }
}

const NAME: &str = "/tagway/acme/ns/t_/a";
const BOTH: [&str; 2] = ["params:acme/ns/t_/a", "any:acme/ns/t_/a"];

#[test]
fn a_parameter_that_changed_is_where_it_may_be() {
    let change = |operation: &str, name: &str| {
        let detail = json!({ "operation": operation, "name": name, "type": "String", "description": "of a kind" });
        event("aws.ssm", "Parameter Store Change", detail)
    };
    for operation in ["Create", "Update", "Delete"] {
        assert_eq!(places(told(&change(operation, NAME))), BOTH);
    }
    assert_eq!(told(&change("LabelParameterVersion", NAME)), Ok(Told::Nothing));
    assert_eq!(told(&change("Update", "/other/acme/t_/a")), Ok(Told::Nothing));
    let action = |kind: &str| {
        let detail = json!({ "parameter-name": NAME, "policy-type": kind, "parameter-type": "String" });
        event("aws.ssm", "Parameter Store Policy Action", detail)
    };
    assert_eq!(places(told(&action("Expiration"))), BOTH);
    assert_eq!(told(&action("NoChangeNotification")), Ok(Told::Nothing));
}

#[test]
fn an_item_that_changed_is_what_its_key_says() {
    let record = |pk: &str, sk: &str, image: Value| {
        json!({
            "eventID": "1", "eventName": "MODIFY", "eventVersion": "1.1", "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_700_000_000, "SequenceNumber": "4421584500000000017450439091",
                "SizeBytes": 26, "StreamViewType": "NEW_IMAGE", "NewImage": image,
                "Keys": { "pk": { "S": pk }, "sk": { "S": sk } },
            },
            "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/tagway/stream/2026-01-01T00:00:00.000",
        })
    };
    let life = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let image = json!({ "life": { "S": life }, "version": { "N": "7" }, "value": { "B": "c2VjcmV0" } });
    for (source, kind) in [("tagway.dynamodb", "Changed"), ("Pipe mine", "Event from aws:dynamodb")] {
        let message = event(source, kind, record("TENANT#acme", "CONFIG#ns/t_/a", image.clone()));
        let Ok(Told::Changed { etag, .. }) = told(&message) else {
            panic!("{message}");
        };
        assert_eq!(etag.unwrap().to_string(), format!("{life}-7"));
        assert_eq!(places(told(&message)), ["hot:acme/ns/t_/a"]);
        let past = record("TENANT#acme", &format!("VERSION#ns/t_/a#{life}#7"), image.clone());
        assert_eq!(told(&event(source, kind, past)), Ok(Told::Nothing));
        let removed = record("TENANT#acme", "CONFIG#ns/t_/a", Value::Null);
        assert_eq!(places(told(&event(source, kind, removed))), ["hot:acme/ns/t_/a"]);
    }
}

#[test]
fn what_a_replica_publishes_another_understands_also_by_way_of_sns() {
    let changed = ConfigChanged {
        backend: "hot".to_owned(),
        name: "acme/ns/t_/a".to_owned(),
        tenant: Some("acme".to_owned()),
        key: "t_a".to_owned(),
        etag: Some("01ARZ3NDEKTSV4RRFFQ69G5FAV-3".to_owned()),
        replica: "one".to_owned(),
    };
    let message = event(SOURCE, CONFIG_CHANGED, serde_json::to_value(&changed).unwrap());
    let notification = json!({ "Type": "Notification", "TopicArn": "arn", "Message": message.to_string() });
    for message in [message, notification] {
        let Ok(Told::Changed { places, etag, replica }) = told(&message) else {
            panic!("{message}");
        };
        assert_eq!(places.len(), 1);
        assert_eq!(etag.map(|etag| etag.to_string()), changed.etag);
        assert_eq!(replica.as_deref(), Some("one"));
    }
    let elsewhere = json!({ "backend": "embedded", "name": "acme/ns/t_/a" });
    assert_eq!(told(&event(SOURCE, CONFIG_CHANGED, elsewhere)), Ok(Told::Nothing));
}

#[test]
fn what_is_not_for_us_is_nothing_and_what_is_no_event_says_so() {
    assert_eq!(
        told(&event("aws.ec2", "EC2 Instance State-change", json!({}))),
        Ok(Told::Nothing)
    );
    assert_eq!(
        told(&event(SOURCE, "StrategyPublished", json!({ "name": "s" }))),
        Ok(Told::Strategy)
    );
    assert_eq!(told(&event("aws.s3", "Object Created", json!({}))), Ok(Told::Strategy));
    let deep = "[".repeat(100_000);
    for message in ["", "x", "{}", "null", "[]", "{\"Type\":\"Notification\"}", &deep] {
        assert_eq!(read(&stores(), message), Err(Unreadable::NoEvent), "{message:.20}");
    }
    let twice =
        json!({ "Type": "Notification", "Message": json!({ "Type": "Notification", "Message": "{}" }).to_string() });
    assert_eq!(told(&twice), Err(Unreadable::NoEvent));
    for (source, kind, expected) in [
        ("aws.ssm", "Parameter Store Change", Unreadable::Parameter),
        ("aws.ssm", "Parameter Store Policy Action", Unreadable::Policy),
        (SOURCE, CONFIG_CHANGED, Unreadable::Config),
        ("any", "thing", Unreadable::Record),
    ] {
        for detail in [
            json!(null),
            json!({}),
            json!({ "name": 1 }),
            json!({ "dynamodb": { "Keys": { "pk": "x" } } }),
        ] {
            assert_eq!(told(&event(source, kind, detail)), Err(expected));
        }
    }
}
