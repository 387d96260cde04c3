//! Who watches, as operators see it: what each holds, runs with and refuses.

use std::collections::HashMap;
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::list_watchers_response::Watcher as Listed;
use tagway_tests::admin::Admin;
use tagway_tests::client::why;
use tagway_tests::gateway::Gateway;
use tagway_tests::watcher::{Watcher, to_keys, to_prefix};
use tokio::time::{sleep, timeout};
use tonic::Code;

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

async fn list(admin: &mut Admin, tenant: &str, key: &str) -> Vec<Listed> {
    let request = v1::ListWatchersRequest {
        tenant: tenant.to_owned(),
        key: key.to_owned(),
        ..v1::ListWatchersRequest::default()
    };
    admin.list_watchers(request).await.unwrap().into_inner().watchers
}

/// Waits until that is what there is to see.
async fn until(admin: &mut Admin, tenant: &str, key: &str, is_so: impl Fn(&[Listed]) -> bool) -> Vec<Listed> {
    let seen = timeout(PATIENCE, async {
        loop {
            let listed = list(admin, tenant, key).await;
            if is_so(&listed) {
                return listed;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    seen.await.expect("it comes to that")
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_who_watches_and_what_each_runs_with() {
    let gateway = Gateway::start_admin();
    let (acme, globex) = (gateway.client("acme").await, gateway.client("globex").await);
    let first = acme.put("tenant_config_a", "1").await.unwrap();
    acme.put("tenant_config_b", "1").await.unwrap();
    let by_prefix = Watcher::of(&acme, to_prefix("all", "tenant_config_")).await;
    let mut by_key = Watcher::of(&acme, to_keys("one", &["tenant_config_a"])).await;
    let other = Watcher::of(&globex, to_prefix("all", "")).await;
    let mut admin = gateway.admin().await;

    let listed = list(&mut admin, "", "").await;
    let seen: Vec<_> = listed
        .iter()
        .map(|seen| (seen.tenant.as_str(), seen.keys, seen.current))
        .collect();
    assert_eq!(seen, [("acme", 2, 0), ("acme", 1, 0), ("globex", 0, 0)]);
    assert!(
        listed
            .iter()
            .all(|seen| seen.peer.starts_with("127.0.0.1:") && seen.subject == "tester" && seen.lag == 0),
        "{listed:?}"
    );
    // Session, two keys and that these are all.
    assert_eq!(listed[0].sent, 4);
    assert_eq!(list(&mut admin, "globex", "").await.len(), 1);
    assert_eq!(list(&mut admin, "acme", "tenant_config_b").await.len(), 1);
    // Who watches everything watches what is not there yet.
    assert_eq!(list(&mut admin, "globex", "tenant_config_a").await.len(), 1);

    by_key.acknowledge("one", "tenant_config_a", &first.etag, "");
    let listed = until(&mut admin, "acme", "tenant_config_a", |listed| listed[1].current == 1).await;
    assert_eq!(
        (listed[0].etag.as_str(), listed[1].etag.as_str()),
        ("", first.etag.as_str())
    );

    // A newer state that it refuses: it runs with the one before.
    let second = acme.put("tenant_config_a", "2").await.unwrap();
    by_key.next().await.unwrap();
    by_key.acknowledge("one", "tenant_config_a", &second.etag, "no \u{1b}[31mnumber");
    let listed = until(&mut admin, "acme", "tenant_config_a", |listed| {
        !listed[1].rejected.is_empty()
    })
    .await;
    let refused = HashMap::from([("tenant_config_a".to_owned(), "no [31mnumber".to_owned())]);
    assert_eq!((listed[1].current, &listed[1].rejected), (0, &refused));
    assert_eq!(listed[1].etag, first.etag);
    let third = acme.put("tenant_config_a", "3").await.unwrap();
    by_key.next().await.unwrap();
    by_key.acknowledge("one", "tenant_config_a", &third.etag, "");
    let listed = until(&mut admin, "acme", "tenant_config_a", |listed| listed[1].current == 1).await;
    assert!(listed[1].rejected.is_empty());

    // Words about what it does not hold are no words.
    by_key.acknowledge("one", "tenant_config_nothing", &third.etag, "bad");
    by_key.acknowledge("nobody", "tenant_config_a", &first.etag, "bad");
    by_key.acknowledge("one", "tenant_config_a", "no etag", "bad");
    by_key.acknowledge("one", "tenant_config_a", &first.etag, "old");
    by_key.unsubscribe("none");
    by_key.next().await.unwrap();
    let listed = list(&mut admin, "acme", "tenant_config_a").await;
    assert_eq!((listed[1].current, listed[1].rejected.len()), (1, 0));

    // Page by page it is the same.
    let mut request = v1::ListWatchersRequest {
        page_size: 1,
        ..v1::ListWatchersRequest::default()
    };
    let mut tenants = Vec::new();
    loop {
        let page = admin.list_watchers(request.clone()).await.unwrap().into_inner();
        tenants.extend(page.watchers.into_iter().map(|seen| seen.tenant));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(tenants, ["acme", "acme", "globex"]);
    request.page_token = "x".to_owned();
    assert_eq!(why(admin.list_watchers(request).await).0, Code::InvalidArgument);

    drop((by_prefix, by_key));
    until(&mut admin, "acme", "", <[Listed]>::is_empty).await;
    assert_eq!(list(&mut admin, "", "").await.len(), 1);
    drop(other);
    let mut nobody = gateway.admin_who_may("read").await;
    let denied = why(nobody.list_watchers(v1::ListWatchersRequest::default()).await);
    assert_eq!(denied, (Code::PermissionDenied, "PERMISSION_MISSING".to_owned()));
}
