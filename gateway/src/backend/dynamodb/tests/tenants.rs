//! The second wall in the store: AWS gives keys that are good for one tenant, and refuses them at another's items.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use super::{At, Server};
use crate::backend::aws::stand_in::proxy::{Call, Proxy, answered};
use crate::backend::aws::stand_in::sts::{ROLE, session, tenant_of};
use crate::backend::conformance::{keeps_every_promise, names};
use crate::backend::dynamodb::item::Path;
use crate::backend::dynamodb::partition::Partition;
use crate::backend::{Access, Backend, BackendError, Conditions, NewEntry};
use crate::identity::VerifiedTenant;
use crate::settings::Permission;

/// STS and DynamoDB with the policy of the role: a session's key is `of-<tenant>-<time of expiry>`, and it opens the items of
/// that tenant, and what all tenants read for reading. The gateway's own key opens what all tenants read, and nothing else.
async fn guarded(upstream: &str, lifetime: std::time::Duration) -> Proxy {
    Proxy::start(upstream, move |call| {
        if call.operation == "AssumeRole" {
            return Some(session(call, lifetime));
        }
        let reads = matches!(call.operation.as_str(), "GetItem" | "BatchGetItem" | "Query");
        let mut touched = BTreeSet::new();
        partition_keys(&call.body, &mut touched);
        let allowed = match tenant_of(call) {
            None => BTreeSet::from(["SHARED".to_owned()]),
            Some(tenant) => {
                let mut allowed = BTreeSet::from([format!("TENANT#{tenant}")]);
                if reads {
                    allowed.insert("SHARED".to_owned());
                }
                allowed
            }
        };
        let refused = touched.is_empty() || !touched.is_subset(&allowed);
        refused.then(|| {
            let body =
                r#"{"__type": "com.amazon.coral.service#AccessDeniedException", "Message": "no policy allows it"}"#;
            answered(StatusCode::BAD_REQUEST, body)
        })
    })
    .await
}

/// Every partition key that a request names, wherever in it.
fn partition_keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.get("S").and_then(Value::as_str) {
                    Some(key) if name == "pk" || name == ":pk" => _ = found.insert(key.to_owned()),
                    _ => partition_keys(field, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| partition_keys(value, found)),
        _ => {}
    }
}

async fn at(proxy: &Proxy) -> At {
    let mut at = At::new(&proxy.endpoint()).await;
    at.settings.tenant_role = Some(ROLE.to_owned());
    at
}

const HOUR: std::time::Duration = std::time::Duration::from_hours(1);

#[tokio::test]
async fn every_promise_holds_with_keys_that_are_good_for_one_tenant() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = guarded(server.endpoint(), HOUR).await;
    keeps_every_promise(Arc::new(at(&proxy).await.store())).await;
}

/// With the walls before it out of the way, the store itself refuses.
#[tokio::test]
async fn another_tenants_items_do_not_open() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = guarded(server.endpoint(), HOUR).await;
    let store = at(&proxy).await.store();
    let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let [theirs, shared] = names(&globex, "ns", "t_a");
    let entry = NewEntry {
        value: "secret".into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    };
    store
        .write(&globex, &theirs, entry.clone(), Conditions::default())
        .await
        .unwrap();
    store
        .write(&globex, &shared, entry.clone(), Conditions::default())
        .await
        .unwrap();
    proxy.take();

    let mut partition = store.partition(&acme, theirs.range(), Access::Read).await.err();
    assert!(matches!(partition.take(), Some(BackendError::Foreign)), "our own wall");
    let [mine, _] = names(&acme, "ns", "t_a");
    let behind = |pk: &str, client| Partition {
        store: &store,
        client,
        tenant: acme.id().clone(),
        pk: pk.to_owned(),
    };
    let client = store.aws.client(&acme, mine.range().space(), Access::Read).await;
    let path = super::super::path(&theirs);
    let path = Path(&path);
    let refused = behind("TENANT#globex", client.clone()).get(&path.current(), &[]).await;
    let Err(BackendError::Denied(told)) = refused else {
        panic!("it opened: {refused:?}");
    };
    assert!(
        told.contains("AccessDenied") && told.contains("gateway/deploy"),
        "{told}"
    );
    assert!(
        behind("TENANT#acme", client.clone())
            .get(&path.current(), &[])
            .await
            .unwrap()
            .is_none()
    );
    // What all tenants read is read with a tenant's key, and not written with it.
    let everybodys = behind("SHARED", client);
    assert!(everybodys.get(&path.current(), &[]).await.unwrap().is_some());
    let change = super::super::write::Change::Put(entry);
    assert!(
        everybodys
            .change(&acme, path, change, Conditions::default())
            .await
            .is_err()
    );
    let keys: BTreeSet<String> = proxy.take().into_iter().map(|call| call.access_key).collect();
    assert_eq!(keys, ["of-acme", "test"].map(ToOwned::to_owned).into());
}

#[tokio::test]
async fn a_session_is_asked_for_once_and_kept() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = guarded(server.endpoint(), HOUR).await;
    let mut at = at(&proxy).await;
    at.settings.tenants = 8;
    let store = Arc::new(at.store());
    let read = |tenant: String| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let tenant = VerifiedTenant::who_may(&tenant, [Permission::Read]);
            let [name, _] = names(&tenant, "ns", "t_a");
            store.read(&tenant, &name).await.unwrap();
        })
    };
    let reads: Vec<_> = (0..100).map(|i| read(format!("tenant-{}", i % 4))).collect();
    for read in reads {
        read.await.unwrap();
    }
    let assumed = |calls: Vec<Call>| calls.iter().filter(|call| call.operation == "AssumeRole").count();
    assert_eq!(
        assumed(proxy.take()),
        4,
        "one for each tenant, however many ask at once"
    );
    // Many tenants push out those that were asked for least; none is turned away.
    for i in 0..40 {
        read(format!("other-{i}")).await.unwrap();
    }
    assert!(assumed(proxy.take()) >= 40);
    assert!(store.aws.sessions() <= 8);
}

#[tokio::test]
async fn a_session_is_renewed_before_it_is_over() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    // Shorter than the time before its end at which it is renewed, so that each call renews it.
    let proxy = guarded(server.endpoint(), std::time::Duration::from_secs(20)).await;
    let store = at(&proxy).await.store();
    let acme = VerifiedTenant::for_tests("acme");
    let [name, _] = names(&acme, "ns", "t_a");
    for _ in 0..3 {
        store.read(&acme, &name).await.unwrap();
    }
    let operations: Vec<_> = proxy.take().into_iter().map(|call| call.operation).collect();
    assert_eq!(operations, ["AssumeRole", "GetItem"].repeat(3));
}

/// However many tenants there are, connections are shared; and STS is not asked where the store is.
#[tokio::test]
async fn tenants_share_connections_and_sts_is_elsewhere() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = guarded(server.endpoint(), HOUR).await;
    let sts = guarded(server.endpoint(), HOUR).await;
    let mut at = at(&proxy).await;
    at.settings.sts_endpoint_url = Some(sts.endpoint());
    let store = at.store();
    for i in 0..20 {
        let tenant = VerifiedTenant::for_tests(&format!("tenant-{i}"));
        let [name, _] = names(&tenant, "ns", "t_a");
        store.read(&tenant, &name).await.unwrap();
    }
    assert!(proxy.take().iter().all(|call| call.operation == "GetItem"));
    assert!(sts.take().iter().all(|call| call.operation == "AssumeRole"));
    assert_eq!((proxy.connections(), sts.connections()), (1, 1));
}
