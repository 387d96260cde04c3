//! What operators look at: Prometheus reads the metrics, the alerts are evaluated, and dashboard and alerts name what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tagway_servers::{Ministack, Prometheus, promtool};
use tagway_tests::authority::Authority;
use tagway_tests::client::Client;
use tagway_tests::gateway::{Gateway, settings_over_aws};
use tagway_tests::issuer::{Key, claims, key_set};
use tagway_tests::watcher::{Watcher, to_prefix};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use super::process::http;

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/deploy/monitoring")
}

#[test]
fn the_alerts_are_rules_and_fire_when_they_should() {
    for arguments in [
        &["check", "rules", "alerts.yaml"],
        &["test", "rules", "alerts.test.yaml"],
    ] {
        let output = promtool(&monitoring(), arguments);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && text.contains("SUCCESS"), "{text}");
    }
}

/// Debian's Prometheus finds nobody in Kubernetes; the rest of what is said there it can judge.
#[test]
fn the_settings_for_kubernetes_are_settings() {
    const FINDS: &str = "    kubernetes_sd_configs:
      - role: pod
        namespaces: { names: [tagway] }
";
    let settings = fs::read_to_string(monitoring().join("kubernetes.yaml")).unwrap();
    assert!(settings.contains(FINDS), "{settings}");
    let settings = settings.replace(FINDS, "    static_configs: [{ targets: [\"127.0.0.1:9901\"] }]\n");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("prometheus.yaml"), settings).unwrap();
    fs::copy(monitoring().join("alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
    let output = promtool(folder.path(), &["check", "config", "prometheus.yaml"]);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && text.contains("SUCCESS"), "{text}");
}

/// Names of metrics in a text, as queries write them.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let ours = words.filter(|word| word.starts_with("tagway_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// Names that a scrape tells, sample by sample.
fn told(metrics: &str) -> BTreeSet<String> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    samples.map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_name_metrics_that_there_are() {
    let stand_in = tokio::task::spawn_blocking(Ministack::start).await.unwrap();
    let (folder, key) = (TempDir::new().unwrap(), Key::ed("first"));
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let authority = Authority::new();
    authority.sign().write(folder.path(), "server");
    let events = format!(
        "kind = \"sqs\"\nregion = \"eu-west-1\"\nendpoint_url = \"{}\"\nsweep = \"1s\"\n",
        stand_in.endpoint()
    );
    let settings = settings_over_aws("file:keys.json", stand_in.endpoint(), &events)
        + "\n[telemetry]\naudit = \"audit.jsonl\"\n[server.tls]\ncert = \"server.pem\"\nkey = \"server.key\"\n";
    let gateway = Gateway::start_in(Arc::new(folder), key.into(), &settings);
    let made = gateway.tagway("acme", &["provision", "tagway.toml"], b"");
    assert!(made.status.success(), "{made:?}");
    let endpoint = Endpoint::from_shared(format!("https://{}", gateway.address)).unwrap();
    let channel = endpoint
        .tls_config(authority.trusted())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let client = Client::over(channel, Some(&gateway.key.token(&claims("acme"))));
    client.put("tenant_config_a", "1").await.unwrap();
    client.get("tenant_config_a").await.unwrap();
    // What is watched is swept.
    let _watcher = Watcher::of(&client, to_prefix("all", "tenant_config_")).await;
    let mut wanted = BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.json"] {
        wanted.extend(named(&fs::read_to_string(monitoring().join(file)).unwrap()));
    }
    // A sweep has to have been.
    let missing = async {
        loop {
            let metrics = http(&gateway.ops, "/metrics");
            let told = told(&metrics);
            let missing: Vec<String> = wanted.iter().filter(|name| !told.contains(*name)).cloned().collect();
            if missing.is_empty() {
                return metrics;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let metrics = timeout(PATIENCE, missing)
        .await
        .unwrap_or_else(|_| panic!("{}", gateway.log()));
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        let fits = name.starts_with("tagway_") || name.starts_with("process_");
        assert!(
            fits && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{line}"
        );
    }
    assert!(!metrics.contains("tenant="), "no tenant is a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_metrics_and_evaluates_the_alerts() {
    let gateway = Gateway::start_serving("admin_listen = \"127.0.0.1:0\"", "");
    gateway.client("acme").await.put("tenant_config_a", "1").await.unwrap();
    let folder = TempDir::new().unwrap();
    fs::copy(monitoring().join("alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
    let settings = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [alerts.yaml]\nscrape_configs:\n  \
         - job_name: tagway\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
        gateway.ops
    );
    fs::write(folder.path().join("prometheus.yaml"), settings).unwrap();
    let kept = folder.path().to_owned();
    let prometheus = tokio::task::spawn_blocking(move || Prometheus::start(&kept))
        .await
        .unwrap();
    let asks = async |path: &'static str, holds: fn(&serde_json::Value) -> bool| {
        let asked = async {
            loop {
                let answer = tokio::task::block_in_place(|| prometheus.ask(path));
                if holds(&answer) {
                    return answer;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, asked).await
    };
    asks("targets", |answer| answer["activeTargets"][0]["health"] == "up")
        .await
        .expect("it is read");
    let rules = asks("rules", |answer| {
        let rules = answer["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
    rules.await.expect("all rules are evaluated");
    asks("query?query=tagway_requests_total", |answer| {
        !answer["result"].as_array().is_none_or(Vec::is_empty)
    })
    .await
    .expect("requests are counted");
    // Before it was asked for the first time it was not there.
    let quiet = prometheus.ask("alerts");
    let mut quiet = quiet["alerts"].as_array().cloned().unwrap_or_default();
    quiet.retain(|alert| alert["labels"]["alertname"] != "TagwayGone");
    assert_eq!(quiet, [serde_json::Value::Null; 0]);
    // One of them, for real.
    assert!(gateway.operate(&["strategy", "disable", "tag-prefix"]).status.success());
    let alerts = asks("alerts", |answer| {
        let alerts = answer["alerts"].as_array().cloned().unwrap_or_default();
        alerts
            .iter()
            .any(|alert| alert["labels"]["alertname"] == "TagwayStrategyDoesNotServe")
    });
    alerts.await.expect("it is noticed");
}
