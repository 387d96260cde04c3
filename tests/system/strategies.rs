//! Strategies that an operator names: one from a file, one that fails beside one that serves.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tagway_tests::client::why;
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;
use tonic::Code;

/// A gateway on `settings` with `router.wasm` beside it.
fn gateway(settings: &str, component: &[u8]) -> Gateway {
    let key = Key::ed("key");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    fs::write(folder.path().join("router.wasm"), component).unwrap();
    Gateway::start_in(Arc::new(folder), Arc::new(key), settings)
}

fn tag_prefix() -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    tagway_plugin_builder::build("tag-prefix", &target).unwrap()
}

#[tokio::test]
async fn the_built_in_strategy_loads_from_a_file_as_well() {
    let component = tag_prefix();
    let settings = settings("file:keys.json", "").replace("builtin:tag-prefix", "file:router.wasm");
    let from_file = gateway(&settings, &component);
    let client = from_file.client("acme").await;
    client.put("tenant_config_a", "x").await.unwrap();
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "x");
    // It is the very same one: what a build makes twice has one digest.
    let built_in = Gateway::start();
    let digest = |log: &str| {
        let at = log.find("sha256:").unwrap();
        log[at..at + 71].to_owned()
    };
    assert_eq!(digest(&from_file.log()), digest(&built_in.log()));
}

#[tokio::test]
async fn a_strategy_that_is_rejected_fails_its_own_tags_and_no_other() {
    let second = r#"
[strategies.second]
source = "file:router.wasm"
tags = ["second_"]
backends = ["local"]
settings = { second_ = { backend = "local" } }
"#;
    let settings = settings("file:keys.json", second);
    for (component, stage) in [
        (b"nonsense".to_vec(), "compiled"),
        (b"\0asm\x01\0\0\0".to_vec(), "compiled"),
    ] {
        let gateway = gateway(&settings, &component);
        let client = gateway.client("acme").await;
        assert_eq!(
            why(client.get("second_a").await),
            (Code::Internal, "STRATEGY_FAILED".to_owned())
        );
        assert_eq!(
            why(client.put("second_a", "x").await),
            (Code::Internal, "STRATEGY_FAILED".to_owned())
        );
        assert_eq!(why(client.keys("second_").await).0, Code::Internal);
        client.put("tenant_config_a", "x").await.unwrap();
        assert_eq!(client.keys("tenant_config_").await.unwrap(), ["tenant_config_a"]);
        assert!(
            gateway.log().contains(&format!(r#""stage":"{stage}""#)),
            "{}",
            gateway.log()
        );
    }
    let gateway = gateway(&settings, &tag_prefix());
    let client = gateway.client("acme").await;
    client.put("second_a", "x").await.unwrap();
    assert_eq!(client.keys("").await.unwrap(), ["second_a"]);
}
