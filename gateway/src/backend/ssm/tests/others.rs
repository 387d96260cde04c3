//! What lies in Parameter Store, as another program sees it; and what other programs put there.

use serde_json::{Value, json};
use tagway_servers::{Ministack, boto3};

use super::{At, entry, put};
use crate::backend::conformance::names;
use crate::backend::{Backend, Conditions, NewEntry, PageRequest, Precondition, Unfit, Urgency, WriteError};
use crate::identity::VerifiedTenant;
use crate::placement::PhysicalName;

pub(super) fn acme() -> VerifiedTenant {
    VerifiedTenant::for_tests("acme")
}

pub(super) fn name(key: &str) -> PhysicalName {
    let [own, _] = names(&acme(), "ns", key);
    own
}

/// What a script that speaks to Parameter Store prints.
fn script(server: &Ministack, script: &str) -> Value {
    let begin = "import boto3, json\nssm = boto3.client('ssm', 'eu-west-1')\n";
    let printed = boto3(&format!("{begin}{script}"), server.endpoint());
    if printed.trim().is_empty() {
        return Value::Null;
    }
    serde_json::from_str(&printed).unwrap()
}

pub(super) fn all(range: &PhysicalName) -> PageRequest<'_> {
    PageRequest {
        range: range.range(),
        prefix: "",
        after: "",
        since: None,
        entries: 1000,
        bytes: 1 << 20,
        keys_only: false,
        urgency: Urgency::Asked,
    }
}

#[tokio::test]
async fn another_program_reads_what_a_person_would_expect() {
    let server = Ministack::start();
    let at = At::new(server.endpoint()).await;
    let store = at.parameters();
    let large = "x".repeat(4097);
    for (key, value, content_type) in [
        ("t_text", "hello, world\n", "text/plain"),
        ("t_json", "{\"rate\": 10}", "application/json"),
        ("t_number", "100", "application/json"),
        ("t_yaml", "a: 1", "application/yaml"),
        ("t_large", &large, "text/plain"),
    ] {
        put(&store, &acme(), &name(key), entry(value, content_type))
            .await
            .unwrap();
    }
    let secret = NewEntry {
        secret: true,
        ..entry("hush", "text/plain")
    };
    put(&store, &acme(), &name("t_secret"), secret).await.unwrap();
    let [_, shared] = names(&acme(), "ns", "t_a/b");
    put(&store, &acme(), &shared, entry("all", "text/plain")).await.unwrap();
    let found = script(
        &server,
        "
found = {}
for page in ssm.get_paginator('describe_parameters').paginate():
    for each in page['Parameters']:
        value = ssm.get_parameter(Name=each['Name'], WithDecryption=True)['Parameter']['Value']
        found[each['Name']] = [each['Type'], each['Tier'], each.get('KeyId'), value if len(value) < 100 else len(value)]
print(json.dumps(found))",
    );
    let expected = json!({
        "/tagway/acme/ns/t_/text": ["String", "Standard", null, "hello, world\n"],
        "/tagway/acme/ns/t_/json": ["String", "Standard", null, "{\"rate\": 10}"],
        "/tagway/acme/ns/t_/number": ["String", "Standard", null, "100"],
        "/tagway/acme/ns/t_/yaml": ["String", "Standard", null, "data:application/yaml,a:%201"],
        "/tagway/acme/ns/t_/large": ["String", "Advanced", null, 4097],
        "/tagway/acme/ns/t_/secret": ["SecureString", "Standard", "alias/tagway", "hush"],
        "/tagway/_shared/ns/t_/a/b": ["String", "Standard", null, "all"],
    });
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_others_wrote_reads_lists_and_rolls_back() {
    let server = Ministack::start();
    let at = At::new(server.endpoint()).await;
    let store = at.parameters();
    script(
        &server,
        "
folder = '/tagway/acme/ns/t_/'
def put(name, value, kind='String'):
    ssm.put_parameter(Name=folder + name, Value=value, Type=kind, Overwrite=True)
put('plain', 'one'); put('plain', 'two'); put('plain', '{}')
put('list', 'a,b', 'StringList')
put('hidden', 'hush', 'SecureString')
put('url', 'data:image/png;base64,AP+A')
put('no-url', 'data: of yesterday')
put('a/b/c/d/e/f/g/h/i', 'deeper than any key')
put('..', 'of no key')",
    );
    let read = async |key| store.read(&acme(), &name(key)).await.unwrap().unwrap();
    for (key, value, content_type) in [
        ("t_plain", &b"{}"[..], "application/json"),
        ("t_list", b"a,b", "text/plain"),
        ("t_hidden", b"hush", "text/plain"),
        ("t_url", &[0, 0xff, 0x80], "image/png"),
        ("t_no-url", b"data: of yesterday", "text/plain"),
    ] {
        let found = read(key).await;
        assert_eq!(
            (found.value.as_ref(), found.content_type.as_str()),
            (value, content_type)
        );
        assert_eq!(found.secret, key == "t_hidden");
    }
    let listed = store.list(&acme(), all(&name("t_x"))).await.unwrap().entries;
    let listed: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, ["hidden", "list", "no-url", "plain", "url"]);

    let past = store
        .history(&acme(), &name("t_plain"), "", 10, 1 << 20)
        .await
        .unwrap()
        .entries;
    let past: Vec<_> = past
        .iter()
        .map(|entry| (entry.etag.version, entry.value.as_ref()))
        .collect();
    assert_eq!(past, [(3, &b"{}"[..]), (2, b"two"), (1, b"one")]);
    let second = store.read_version(&acme(), &name("t_plain"), 2).await.unwrap().unwrap();
    assert_eq!(second.value, "two");
    // What follows is later, also by its etag.
    let before = read("t_plain").await.etag;
    let back = NewEntry {
        value: second.value,
        content_type: second.content_type,
        secret: second.secret,
    };
    let written = put(&store, &acme(), &name("t_plain"), back).await.unwrap();
    assert!(written.etag.version == 4 && written.etag > before);
    // A list of strings stays one.
    put(&store, &acme(), &name("t_list"), entry("a,b,c", "text/plain"))
        .await
        .unwrap();
    let kind = script(
        &server,
        "print(json.dumps(ssm.get_parameter(Name='/tagway/acme/ns/t_/list')['Parameter']['Type']))",
    );
    assert_eq!(kind, "StringList");
}

#[tokio::test]
async fn what_cannot_be_written_says_why() {
    let server = Ministack::start();
    let at = At::new(server.endpoint()).await;
    let store = at.parameters();
    let write = async |key: &str, entry: NewEntry| match put(&store, &acme(), &name(key), entry).await {
        Err(WriteError::Unfit(unfit)) => unfit,
        other => panic!("{key}: {other:?}"),
    };
    script(
        &server,
        "
name = '/tagway/acme/ns/t_/labelled'
for i in range(100):
    ssm.put_parameter(Name=name, Value=str(i), Type='String', Overwrite=True)
ssm.label_parameter_version(Name=name, ParameterVersion=1, Labels=['release'])
ssm.put_parameter(Name='/tagway/acme/ns/t_/number', Value='1', Type='String', AllowedPattern='^[0-9]+$')",
    );
    assert_eq!(write("t_labelled", entry("x", "text/plain")).await, Unfit::Labelled);
    assert_eq!(write("t_number", entry("x", "text/plain")).await, Unfit::Pattern);
    let secret = NewEntry {
        secret: true,
        ..entry("2", "application/json")
    };
    assert_eq!(write("t_number", secret).await, Unfit::NotSecret);
    let large = "x".repeat(8193);
    let too_large = Unfit::Size {
        size: 8193,
        limit: 8192,
    };
    assert_eq!(write("t_large", entry(&large, "text/plain")).await, too_large);
    // Without its label it makes room.
    script(
        &server,
        "ssm.unlabel_parameter_version(Name='/tagway/acme/ns/t_/labelled', ParameterVersion=1, Labels=['release'])",
    );
    let written = put(&store, &acme(), &name("t_labelled"), entry("x", "text/plain")).await;
    assert_eq!(written.unwrap().etag.version, 101);
    let past = store
        .history(&acme(), &name("t_labelled"), "", 200, 1 << 20)
        .await
        .unwrap();
    assert_eq!((past.entries.len(), past.entries[99].etag.version), (100, 2));
    assert_eq!(store.read_version(&acme(), &name("t_labelled"), 1).await.unwrap(), None);
}

#[tokio::test]
async fn a_name_that_is_too_deep_is_not_asked_for() {
    let server = Ministack::start();
    let mut at = At::new(server.endpoint()).await;
    at.settings.endpoint_url = Some("http://127.0.0.1:1".to_owned());
    let mut store = at.parameters();
    "/a/b/c/d/e/f".clone_into(&mut store.root);
    let [deep, _] = names(&acme(), "1/2/3/4", "t_a/b/c/d/e/f/g/h");
    let refused = put(&store, &acme(), &deep, entry("x", "text/plain")).await;
    let too_deep = Unfit::Depth { levels: 20, limit: 15 };
    assert!(matches!(refused, Err(WriteError::Unfit(unfit)) if unfit == too_deep));
    assert_eq!(store.read(&acme(), &deep).await.unwrap(), None);
    assert_eq!(store.read_version(&acme(), &deep, 1).await.unwrap(), None);
    assert!(
        store
            .history(&acme(), &deep, "", 1, 1)
            .await
            .unwrap()
            .entries
            .is_empty()
    );
    assert!(
        !store
            .delete(&acme(), &deep, false, Conditions::default())
            .await
            .unwrap()
            .something()
    );
    let within = PageRequest {
        prefix: "a/b/c/d/e/",
        ..all(&deep)
    };
    assert!(store.list(&acme(), within).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_delete_that_shall_find_nothing_deletes_nothing() {
    let server = Ministack::start();
    let at = At::new(server.endpoint()).await;
    let store = at.parameters();
    let absent = Conditions {
        precondition: Precondition::Absent,
        once: None,
    };
    let deleted = store.delete(&acme(), &name("t_a"), false, absent).await.unwrap();
    assert!(!deleted.something());
    store
        .write(&acme(), &name("t_a"), entry("x", "text/plain"), absent)
        .await
        .unwrap();
    let refused = store.delete(&acme(), &name("t_a"), false, absent).await;
    assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
    assert!(store.read(&acme(), &name("t_a")).await.unwrap().is_some());
}
