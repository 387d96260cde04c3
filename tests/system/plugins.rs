//! The strategies that come with the gateway, as components in it, doing what their pages say.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tagway_proto::v1;
use tagway_tests::client::{Client, Door, delete, get, list, put, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::{AUDIENCE, ISSUER, Key, claims, key_set};
use tempfile::TempDir;
use tonic::{Code, Status};

/// Where a gateway over two stores begins, with a strategy and its settings to come.
struct Place {
    folder: Arc<TempDir>,
    key: Arc<Key>,
    plugin: &'static str,
}

impl Place {
    fn new(plugin: &'static str) -> Self {
        let key = Key::ed("key");
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
        let component = tagway_plugin_builder::build(plugin, &target).unwrap();
        fs::write(folder.path().join("strategy.wasm"), component).unwrap();
        Self {
            folder: folder.into(),
            key: key.into(),
            plugin,
        }
    }

    fn start(&self, settings: &str) -> Gateway {
        let settings = format!(
            r#"
[server]
listen = "127.0.0.1:0"
ops_listen = "127.0.0.1:0"
[backends.old]
kind = "embedded"
path = "old.redb"
[backends.new]
kind = "embedded"
path = "new.redb"
[strategies.{}]
source = "file:strategy.wasm"
tags = ["tenant_config_"]
backends = ["old", "new"]
shared_scope = true
[strategies.{}.settings.tenant_config_]
{settings}
[identity]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
jwks = "file:keys.json"
algorithms = ["EdDSA"]
"#,
            self.plugin, self.plugin
        );
        Gateway::start_in(Arc::clone(&self.folder), Arc::clone(&self.key), &settings)
    }
}

fn context(dimensions: &[(&str, &str)]) -> HashMap<String, String> {
    let dimensions = dimensions.iter();
    dimensions
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

const KEY: &str = "tenant_config_limits";

async fn shown(client: &Client, dimensions: &[(&str, &str)]) -> Result<(String, v1::config::Origin), Status> {
    let request = v1::GetConfigRequest {
        context: context(dimensions),
        ..get(KEY)
    };
    let config = client.get_with(request).await?.config.unwrap();
    let value = String::from_utf8(config.value.to_vec()).unwrap();
    Ok((value, config.origin()))
}

async fn write(
    client: &Client,
    value: &str,
    dimensions: &[(&str, &str)],
    scope: v1::Scope,
) -> Result<v1::Config, Status> {
    let request = v1::PutConfigRequest {
        context: context(dimensions),
        scope: scope.into(),
        ..put(KEY, value)
    };
    client.put_with(request).await
}

/// A token with these claims besides the usual.
async fn client(door: &Door, tenant: &str, more: &[(&str, Value)]) -> Client {
    let mut payload = claims(tenant);
    for (name, value) in more {
        payload[*name] = value.clone();
    }
    Client::connect(&door.address, Some(&door.key.token(&payload))).await
}

#[tokio::test]
async fn layered_values_show_the_most_specific_and_then_what_is_shared() {
    use v1::Scope::{Shared, Unspecified};
    use v1::config::Origin;

    let place = Place::new("layered");
    let gateway = place.start(
        r#"backend = "old"
shared = "new"
layers = [["env", "region", "tier"], ["env"]]
claims = ["tier"]"#,
    );
    let door = gateway.door();
    let acme = client(&door, "acme", &[("tier", json!("gold"))]).await;
    let free = client(&door, "acme", &[("tier", json!("free"))]).await;
    let globex = client(&door, "globex", &[]).await;
    let sharer = client(&door, "platform", &[("scope", json!("read write share"))]).await;
    let prod = [("env", "prod")];
    let here = [("env", "prod"), ("region", "eu-1")];

    // What all tenants share, by the same dimensions.
    let refused = write(&acme, "x", &prod, Shared).await;
    assert_eq!(why(refused), (Code::PermissionDenied, "PERMISSION_MISSING".to_owned()));
    write(&sharer, "shared", &[], Shared).await.unwrap();
    write(&sharer, "shared prod", &prod, Shared).await.unwrap();
    for client in [&acme, &globex] {
        assert_eq!(
            shown(client, &[]).await.unwrap(),
            ("shared".to_owned(), Origin::Default)
        );
        assert_eq!(
            shown(client, &prod).await.unwrap(),
            ("shared prod".to_owned(), Origin::Default)
        );
        assert_eq!(
            shown(client, &here).await.unwrap(),
            ("shared prod".to_owned(), Origin::Default)
        );
        assert_eq!(shown(client, &[("env", "test")]).await.unwrap().0, "shared");
    }

    // A tenant's own lies over it, the more specific the higher; and is nobody else's.
    write(&acme, "acme", &[], Unspecified).await.unwrap();
    assert_eq!(shown(&acme, &prod).await.unwrap(), ("acme".to_owned(), Origin::Default));
    write(&acme, "acme prod", &prod, Unspecified).await.unwrap();
    write(&acme, "acme prod eu-1 gold", &here, Unspecified).await.unwrap();
    assert_eq!(shown(&acme, &[]).await.unwrap(), ("acme".to_owned(), Origin::Home));
    assert_eq!(
        shown(&acme, &prod).await.unwrap(),
        ("acme prod".to_owned(), Origin::Home)
    );
    assert_eq!(shown(&acme, &here).await.unwrap().0, "acme prod eu-1 gold");
    assert_eq!(
        shown(&free, &here).await.unwrap().0,
        "acme prod",
        "the tier is the token's"
    );
    let claimed = [("env", "prod"), ("region", "eu-1"), ("tier", "gold")];
    assert_eq!(
        shown(&free, &claimed).await.unwrap().0,
        "acme prod",
        "and not the caller's to say"
    );
    assert_eq!(shown(&globex, &here).await.unwrap().0, "shared prod");
    // A list shows what Get shows.
    let request = v1::ListConfigsRequest {
        context: context(&here),
        ..list("")
    };
    let page = acme.page(request).await.unwrap();
    assert_eq!(
        (page.configs.len(), page.configs[0].value.as_ref()),
        (1, &b"acme prod eu-1 gold"[..])
    );

    // What is deleted shows what lies under it.
    for (expected, dimensions) in [("acme prod", &here[..]), ("acme", &prod), ("shared", &[])] {
        let request = v1::DeleteConfigRequest {
            context: context(dimensions),
            ..delete(KEY)
        };
        acme.delete_with(request).await.unwrap();
        assert_eq!(shown(&acme, dimensions).await.unwrap().0, expected);
    }
    let refused = shown(&acme, &[("env", "../globex")]).await;
    assert_eq!(why(refused), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
    let explained = v1::ExplainRouteRequest {
        key: KEY.to_owned(),
        context: context(&[("env", "prod"), ("color", "red")]),
    };
    let explained = acme
        .grpc
        .clone()
        .explain_route(acme.request(explained))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(explained.ignored_context, ["color"]);
    assert_eq!(explained.steps.len(), 4);
}

#[tokio::test]
async fn a_percentage_goes_up_and_down_and_nothing_is_lost_or_comes_back() {
    let place = Place::new("migrate");
    let tenants: Vec<String> = (0..12).map(|i| format!("tenant-{i}")).collect();
    let mut random = fastrand::Rng::new();
    let mut model: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut homes = Vec::new();
    for percent in ["0", "30", "60", "100", "40", "0", "100"] {
        let settings = format!(
            "from = {{ backend = \"old\" }}\nto = {{ backend = \"new\", namespace = \"x\" }}\npercent = {percent}"
        );
        let gateway = place.start(&settings);
        let first = gateway.client(&tenants[0]).await;
        let mut moved = 0;
        for tenant in &tenants {
            let client = first.with_token(&gateway.key.token(&claims(tenant)));
            for _ in 0..6 {
                let key = format!("tenant_config_{}", random.u8(0..5));
                let place = (tenant.clone(), key.clone());
                if random.u8(0..3) == 0 {
                    let deleted = client.delete(&key).await.is_ok();
                    assert_eq!(deleted, model.remove(&place).is_some(), "{place:?} at {percent} %");
                } else {
                    let value = random.u32(..).to_string();
                    let written = client.put(&key, &value).await.unwrap();
                    moved += usize::from(written.backend == "new");
                    model.insert(place, value);
                }
            }
            let listed = client.list("", 2).await.unwrap();
            let listed: Vec<_> = listed.into_iter().map(|config| (config.key, config.value)).collect();
            let expected = model.iter().filter(|((owner, _), _)| owner == tenant);
            let expected: Vec<_> = expected
                .map(|((_, key), value)| (key.clone(), value.clone().into()))
                .collect();
            assert_eq!(listed, expected, "{tenant} at {percent} %");
        }
        homes.push(moved > 0);
    }
    assert_eq!(homes, [false, true, true, true, true, false, true]);

    // What nobody has written since lives where it was, until an import of the tenant's own export moves it.
    let settings = "from = { backend = \"old\" }\nto = { backend = \"new\", namespace = \"x\" }\npercent = 100";
    let gateway = place.start(settings);
    for tenant in &tenants {
        let exported = gateway.tagway(tenant, &["export"], b"");
        let imported = gateway.tagway(tenant, &["import", "-"], &exported.stdout);
        assert!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
        let listed = gateway.client(tenant).await.list("", 0).await.unwrap();
        assert!(listed.iter().all(|config| config.origin() == v1::config::Origin::Home));
        let expected = model.keys().filter(|(owner, _)| owner == tenant).count();
        assert_eq!(listed.len(), expected);
    }
}
