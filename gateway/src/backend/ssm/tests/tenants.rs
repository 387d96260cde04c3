//! The second wall in the store: AWS gives keys that are good for one tenant, and refuses them at another's parameters.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;

use super::{At, Server, entry, put};
use crate::backend::aws::stand_in::proxy::{Call, Proxy, answered};
use crate::backend::aws::stand_in::sts::{ROLE, session, tenant_of};
use crate::backend::conformance::{keeps_every_promise, names};
use crate::backend::ssm::reads::Wanted;
use crate::backend::ssm::{ParameterStore, path};
use crate::backend::{Access, Backend, BackendError};
use crate::identity::VerifiedTenant;

/// STS and Parameter Store with the policy of the role: a tenant's key opens what lies under its path, and what all tenants
/// read for reading. The gateway's own key opens what all tenants read, and nothing else.
async fn guarded(upstream: &str) -> Proxy {
    Proxy::start(upstream, move |call| {
        if call.operation == "AssumeRole" {
            return Some(session(call, Duration::from_hours(1)));
        }
        let names = named(call);
        let is_open = |name: &String| {
            let shared = name.starts_with("/tagway/_shared/");
            match tenant_of(call) {
                None => shared,
                Some(tenant) => {
                    name.starts_with(&format!("/tagway/{tenant}/")) || (shared && call.operation.starts_with("Get"))
                }
            }
        };
        let refused = names.is_empty() || !names.iter().all(is_open);
        refused.then(|| {
            let body = r#"{"__type": "AccessDeniedException", "Message": "no policy allows it"}"#;
            answered(StatusCode::BAD_REQUEST, body)
        })
    })
    .await
}

fn named(call: &Call) -> Vec<String> {
    let fields = ["Name", "Names", "Path"].map(|field| &call.body[field]);
    let each = fields.into_iter().flat_map(|field| match field {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
        _ => Vec::new(),
    });
    each.collect()
}

async fn guarded_store(proxy: &Proxy) -> ParameterStore {
    let mut at = At::new(&proxy.endpoint()).await;
    at.settings.tenant_role = Some(ROLE.to_owned());
    at.parameters()
}

#[tokio::test]
async fn every_promise_holds_with_keys_that_are_good_for_one_tenant() {
    let server = Server::roto();
    let proxy = guarded(server.endpoint()).await;
    keeps_every_promise(Arc::new(guarded_store(&proxy).await)).await;
}

/// With the walls before it out of the way, the store itself refuses.
#[tokio::test]
async fn another_tenants_parameters_do_not_open() {
    let server = Server::roto();
    let proxy = guarded(server.endpoint()).await;
    let store = guarded_store(&proxy).await;
    let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let [theirs, shared] = names(&globex, "ns", "t_a");
    for name in [&theirs, &shared] {
        put(&store, &globex, name, entry("secret", "text/plain")).await.unwrap();
    }
    let [mine, _] = names(&acme, "ns", "t_a");
    put(&store, &acme, &mine, entry("mine", "text/plain")).await.unwrap();
    proxy.take();

    let refused = path::parameter("/tagway", &acme, &theirs, Access::Read);
    assert!(matches!(refused, Err(BackendError::Foreign)), "our own wall");
    let parameter = |tenant, name| Wanted {
        parameter: path::parameter("/tagway", tenant, name, Access::Read).unwrap(),
        version: None,
    };
    let wanted = [
        parameter(&globex, &theirs),
        parameter(&acme, &mine),
        parameter(&globex, &shared),
    ];
    let read = store.reads.all(&acme, wanted.to_vec()).await;
    let Err(BackendError::Denied(told)) = &read[0] else {
        panic!("it opened: {read:?}");
    };
    assert!(
        told.contains("AccessDenied") && told.contains("gateway/deploy"),
        "{told}"
    );
    // What went with it is told apart.
    for found in &read[1..] {
        assert!(found.as_ref().unwrap().is_some());
    }
    let client = store.client(&acme, mine.range(), Access::Write).await;
    for name in [&theirs, &shared] {
        let name = parameter(&globex, name).parameter;
        client.delete_parameter().name(name).send().await.unwrap_err();
    }
    let calls = proxy.take();
    let keys = calls
        .iter()
        .map(|call| (call.operation.as_str(), call.access_key.as_str()));
    let expected = [
        ("GetParameters", "of-acme"),
        ("GetParameters", "of-acme"),
        ("GetParameters", "of-acme"),
        ("GetParameters", "of-acme"),
        ("DeleteParameter", "of-acme"),
        ("DeleteParameter", "of-acme"),
    ];
    assert_eq!(keys.collect::<Vec<_>>(), expected);
}

/// One whose key may not be used hides no other, whoever may read them together.
#[tokio::test]
async fn one_that_is_refused_hides_no_other() {
    let server = Server::roto();
    let proxy = Proxy::start(server.endpoint(), |call| {
        let spoiled = named(call).iter().any(|name| name.ends_with("spoiled"));
        (spoiled && call.operation == "GetParameters").then(|| {
            let body = r#"{"__type": "AccessDeniedException", "Message": "the key is not yours"}"#;
            answered(StatusCode::BAD_REQUEST, body)
        })
    })
    .await;
    let store = At::new(&proxy.endpoint()).await.parameters();
    let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
    let [fine, _] = names(&acme, "ns", "t_fine");
    let [spoiled, _] = names(&globex, "ns", "t_spoiled");
    put(&store, &acme, &fine, entry("x", "text/plain")).await.unwrap();
    proxy.take();
    let (found, refused) = tokio::join!(store.read(&acme, &fine), store.read(&globex, &spoiled));
    assert_eq!(found.unwrap().unwrap().value, "x");
    assert!(matches!(refused, Err(BackendError::Denied(_))));
    assert_eq!(proxy.take().len(), 3, "together, and then each for itself");
}
