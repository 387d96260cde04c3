//! Backups of the embedded store, as operators take and restore them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tagway_proto::v1;
use tagway_tests::client::{Client, if_match, put, why};
use tagway_tests::gateway::{Gateway, command, settings};
use tagway_tests::issuer::{Key, key_set};
use tagway_tests::watcher::{Watcher, to_prefix};
use tempfile::TempDir;
use tonic::Code;

/// Settings with a folder for backups, `AdminService`, an audit, and what is known kept over restarts.
fn with_backups() -> String {
    settings(
        "file:keys.json",
        "[telemetry]\naudit = \"audit.jsonl\"\n[cache]\nsnapshot = \"snapshot\"",
    )
    .replace("[server]", "[server]\nadmin_listen = \"127.0.0.1:0\"")
    .replace("path = \"store.redb\"", "path = \"store.redb\"\nbackups = \"backups\"")
}

fn start() -> Gateway {
    let key = Key::ed("first");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    Gateway::start_in(folder.into(), key.into(), &with_backups())
}

fn again(gateway: &Gateway) -> Gateway {
    Gateway::start_in(Arc::clone(&gateway.folder), Arc::clone(&gateway.key), &with_backups())
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

/// Has it backed up, and says what the command printed.
fn backup(gateway: &Gateway) -> Value {
    let output = gateway.operate(&["backup"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn restore(gateway: &Gateway, arguments: &[&str]) -> Output {
    command(gateway.folder.path())
        .arg("restore")
        .args(arguments)
        .output()
        .unwrap()
}

async fn all(client: &Client) -> BTreeMap<String, v1::Config> {
    let all = client.list("tenant_config_", 1000).await.unwrap();
    all.into_iter().map(|config| (config.key.clone(), config)).collect()
}

fn number(config: &v1::Config) -> u64 {
    std::str::from_utf8(&config.value).unwrap().parse().unwrap()
}

/// Writes one key after the other, again and again, with ever greater numbers; returns the last that was acknowledged.
async fn count(client: Client, stop: Arc<AtomicBool>, begun: tokio::sync::oneshot::Sender<()>) -> u64 {
    let (mut number, mut begun) = (0, Some(begun));
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        for key in ["tenant_config_first", "tenant_config_second"] {
            client.put(key, &number.to_string()).await.unwrap();
        }
        begun.take().map(|begun| begun.send(()));
    }
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_one_moment_and_restores_to_it() {
    let mut gateway = start();
    let acme = gateway.client("acme").await;
    let globex = gateway.client("globex").await;
    for number in 0..300 {
        acme.put(&format!("tenant_config_acme-{number}"), "acme's")
            .await
            .unwrap();
    }
    globex.put("tenant_config_globex", "globex's").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let writer = tokio::spawn(count(acme.clone(), Arc::clone(&stop), begun));
    has_begun.await.unwrap();
    let acknowledged = number(&acme.get("tenant_config_second").await.unwrap());
    let made = backup(&gateway);
    let after = number(&acme.get("tenant_config_first").await.unwrap());
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() >= after);
    globex.put("tenant_config_globex", "lost").await.unwrap();
    globex.put("tenant_config_lost", "lost").await.unwrap();
    let lost = all(&globex).await;
    let mut watcher = Watcher::of(&globex, to_prefix("all", "tenant_config_")).await;
    let known = watcher.known("all");
    drop(watcher);

    let file = made["file"].as_str().unwrap();
    let path = gateway.folder.path().join(file);
    let modes = [path.clone(), gateway.folder.path().join("backups")]
        .map(|path| fs::metadata(path).unwrap().permissions().mode());
    assert_eq!(modes.map(|mode| mode & 0o777), [0o600, 0o700]);
    let checked = restore(&gateway, &["--check", file]);
    assert!(
        text(&checked).contains(&format!("is whole: {} keys", made["keys"])),
        "{}",
        text(&checked)
    );
    // Not while a gateway has it, and not over what is there unless somebody says so.
    for (arguments, problem) in [
        (vec![file, "--config", "tagway.toml"], "is there already"),
        (
            vec![file, "--config", "tagway.toml", "--replace"],
            "stop the gateway first",
        ),
    ] {
        let refused = restore(&gateway, &arguments);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(text(&refused).contains(problem), "{}", text(&refused));
    }
    gateway.signal("TERM");
    gateway.wait();
    let restored = restore(&gateway, &[file, "--config", "tagway.toml", "--replace"]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(text(&restored).contains("what was there is"), "{}", text(&restored));

    let gateway = again(&gateway);
    let acme = gateway.client("acme").await;
    let stands = all(&acme).await;
    assert_eq!(stands.len(), 302);
    let [first, second] = ["first", "second"].map(|key| number(&stands[&format!("tenant_config_{key}")]));
    assert!(first == second || first == second + 1, "one moment: {first}, {second}");
    assert!(
        (acknowledged..=after).contains(&second),
        "{acknowledged}, {second}, {after}"
    );
    let globex = gateway.client("globex").await;
    assert_eq!(globex.get("tenant_config_globex").await.unwrap().value, "globex's");
    assert_eq!(why(globex.get("tenant_config_lost").await).0, Code::NotFound);
    // Who held what is lost is told, though the key is at an earlier version.
    let mut subscribe = to_prefix("all", "tenant_config_");
    subscribe.known_etags = known;
    watcher = Watcher::open(&globex).await.unwrap();
    watcher.subscribe(subscribe);
    watcher.synced("all").await;
    assert_eq!(
        watcher.value("all", "tenant_config_globex").as_deref(),
        Some("globex's")
    );
    let request = v1::PutConfigRequest {
        precondition: if_match(&lost["tenant_config_globex"].etag),
        ..put("tenant_config_globex", "mine")
    };
    assert_eq!(why(globex.put_with(request).await).0, Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_have_a_store_backed_up_and_it_is_written_down() {
    let gateway = start();
    gateway
        .client("acme")
        .await
        .put("tenant_config_a", "a secret thing")
        .await
        .unwrap();
    let request = |backend: &str| v1::BackupStoreRequest {
        backend: backend.to_owned(),
    };
    let refused = gateway
        .admin_who_may("read write share")
        .await
        .backup_store(request(""))
        .await;
    assert_eq!(why(refused), (Code::PermissionDenied, "PERMISSION_MISSING".to_owned()));
    let mut admin = gateway.admin().await;
    let unknown = admin.backup_store(request("elsewhere")).await;
    assert_eq!(why(unknown), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
    let made = backup(&gateway);
    let audit = fs::read_to_string(gateway.folder.path().join("audit.jsonl")).unwrap();
    let line = audit
        .lines()
        .find(|line| line.contains("BackupStore") && line.contains("done"))
        .expect("it is written down");
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["outcome"], &line["backend"]), (&"done".into(), &"local".into()));
    assert!(!audit.contains("a secret thing"));
    assert_eq!(made["keys"], 1);

    let without = Gateway::start_admin();
    let nowhere = without.admin().await.backup_store(request("local")).await;
    assert_eq!(why(nowhere), (Code::FailedPrecondition, "BACKUPS_NOWHERE".to_owned()));
    let open = gateway.folder.path().join("backups");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let output = gateway.operate(&["backup"]);
    assert!(
        !output.status.success() && text(&output).contains("make it 700"),
        "{}",
        text(&output)
    );
}

/// Whatever ends a gateway while it copies: a file that has a backup's name is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_cut_off_is_none() {
    let mut gateway = start();
    for round in 0..5_u64 {
        let client = gateway.client("acme").await;
        for number in 0..200 {
            client
                .put(&format!("tenant_config_{round}-{number}"), &"x".repeat(4000))
                .await
                .unwrap();
        }
        let mut told = {
            let request = v1::BackupStoreRequest::default();
            gateway.admin().await.backup_store(request).await.unwrap().into_inner()
        };
        if round % 2 == 0 {
            gateway.signal("KILL");
            while let Ok(Some(_)) = told.message().await {}
            gateway.wait();
            gateway = again(&gateway);
        } else {
            // Who asked leaves.
            drop(told);
        }
        for file in files(&gateway)
            .iter()
            .filter(|file| file.extension().is_some_and(|ending| ending == "redb"))
        {
            let checked = restore(&gateway, &["--check", file.to_str().unwrap()]);
            assert!(checked.status.success(), "{}", text(&checked));
        }
    }
    // What was cut off may still be written by another process, until it is a minute old.
    for file in files(&gateway) {
        let file = fs::File::open(file).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - Duration::from_mins(2)).unwrap();
    }
    // One that was left is over at its next look, and only then can there be another.
    let made = loop {
        let output = gateway.operate(&["backup"]);
        if output.status.success() {
            break output;
        }
        assert!(text(&output).contains("BACKUP_UNDER_WAY"), "{}", text(&output));
    };
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["keys"], 1000);
    let mut left = files(&gateway);
    left.retain(|file| file.extension().is_none_or(|ending| ending != "redb"));
    assert!(left.is_empty(), "what was cut off is removed: {left:?}");
}

fn files(gateway: &Gateway) -> Vec<PathBuf> {
    let entries = fs::read_dir(gateway.folder.path().join("backups"));
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}
