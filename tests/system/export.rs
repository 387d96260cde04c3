//! The command line's export and import of a tenant, against a gateway: whole, resumed, and without a word too many.

use std::fs;
use std::process::Output;

use tagway_proto::v1;
use tagway_tests::client::put;
use tagway_tests::gateway::{Gateway, command};

fn done(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

/// All that a tenant has, but for what a copy cannot keep.
async fn contents(gateway: &Gateway, tenant: &str) -> Vec<(String, Vec<u8>, String)> {
    let configs = gateway.client(tenant).await.list("", 0).await.unwrap();
    let contents = configs
        .into_iter()
        .map(|config| (config.key, config.value.to_vec(), config.content_type));
    contents.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tenant_exports_another_imports() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for i in 0..250 {
        client.put(&format!("tenant_config_{i}"), &i.to_string()).await.unwrap();
    }
    let binary = v1::PutConfigRequest {
        value: vec![0xff, 0, 0x80].into(),
        content_type: "application/octet-stream".to_owned(),
        ..put("param_config_a/b", "")
    };
    client.put_with(binary).await.unwrap();

    let exported = gateway.tagway("acme", &["export"], b"");
    assert_eq!(done(&exported), "", "nobody asked for more than the lines");
    assert_eq!(String::from_utf8(exported.stdout.clone()).unwrap().lines().count(), 251);

    let dry = gateway.tagway("globex", &["import", "-", "--dry-run"], &exported.stdout);
    assert_eq!(
        done(&dry),
        "251 would be created, 0 would be overwritten, 0 would be moved home, 0 kept, 0 as they were\n"
    );
    assert_eq!(contents(&gateway, "globex").await, []);

    // Cut off in the middle of a line: what came before it stands, and the same command goes on from there.
    let cut = gateway.tagway(
        "globex",
        &["import", "-"],
        &exported.stdout[..exported.stdout.len() / 2],
    );
    assert_eq!(cut.status.code(), Some(2));
    let whole = gateway.tagway("globex", &["import", "-"], &exported.stdout);
    let whole = done(&whole);
    assert!(
        whole.starts_with("151 created") && whole.ends_with("100 as they were\n"),
        "{whole}"
    );
    assert_eq!(contents(&gateway, "globex").await, contents(&gateway, "acme").await);
    let again = gateway.tagway("globex", &["import", "-"], &exported.stdout);
    assert_eq!(
        done(&again),
        "0 created, 0 overwritten, 0 moved home, 0 kept, 251 as they were\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_changed_only_when_told() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "mine").await.unwrap();
    let file = br#"{"key": "tenant_config_a", "value": "theirs"}

{"key": "tenant_config_b", "value": "{}", "note": "left aside"}
"#;
    let refused = gateway.tagway("acme", &["import", "-"], file);
    let stderr = String::from_utf8(refused.stderr.clone()).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.starts_with("tagway: -:1: tenant_config_a has another value already"),
        "{stderr}"
    );
    let kept = gateway.tagway("acme", &["import", "-", "--existing", "keep"], file);
    assert_eq!(
        done(&kept),
        "1 created, 0 overwritten, 0 moved home, 1 kept, 0 as they were\n"
    );
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "mine");
    let overwritten = gateway.tagway("acme", &["import", "-", "--existing", "overwrite"], file);
    assert_eq!(
        done(&overwritten),
        "0 created, 1 overwritten, 0 moved home, 0 kept, 1 as they were\n"
    );
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "theirs");

    // A key twice: the later line is the later write.
    let twice = b"{\"key\": \"tenant_config_c\", \"value\": \"1\"}\n{\"key\": \"tenant_config_c\", \"value\": \"2\"}\n";
    let imported = gateway.tagway("acme", &["import", "-", "--existing", "overwrite"], twice);
    assert_eq!(
        done(&imported),
        "1 created, 1 overwritten, 0 moved home, 0 kept, 0 as they were\n"
    );
    assert_eq!(client.get("tenant_config_c").await.unwrap().value, "2");

    for (line, problem) in [
        ("nonsense", "-:1: expected"),
        (r#"{"value": "x"}"#, "-:1: missing field `key`"),
        (
            r#"{"key": "tenant_config_a"}"#,
            "-:1: an object with one of value and value_base64",
        ),
        (
            r#"{"key": "tenant_config_a", "value_base64": "%"}"#,
            "-:1: value_base64: ",
        ),
        (r#"{"key": "Bad", "value": "x"}"#, "-:1: Bad: "),
    ] {
        let refused = gateway.tagway("acme", &["import", "-"], line.as_bytes());
        let stderr = String::from_utf8(refused.stderr.clone()).unwrap();
        assert!(stderr.starts_with(&format!("tagway: {problem}")), "{stderr}");
        assert!(!refused.status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_cut_off_goes_on() {
    use std::os::unix::fs::PermissionsExt as _;

    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for i in 0..20 {
        client.put(&format!("tenant_config_{i:02}"), "x").await.unwrap();
    }
    let path = gateway.folder.path().join("acme.jsonl");
    done(&gateway.tagway("acme", &["export", "--to", "acme.jsonl"], b""));
    let whole = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for cut in [0, 10, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(&path, &whole[..cut]).unwrap();
        done(&gateway.tagway("acme", &["export", "--to", "acme.jsonl"], b""));
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
    for other in ["{\"minified\": true}", "a token"] {
        fs::write(&path, other).unwrap();
        let refused = gateway.tagway("acme", &["export", "--to", "acme.jsonl"], b"");
        assert_eq!(refused.status.code(), Some(2));
        assert_eq!(fs::read(&path).unwrap(), other.as_bytes(), "it is left alone");
    }
    fs::write(&path, "something else\n").unwrap();
    let refused = gateway.tagway("acme", &["export", "--to", "acme.jsonl"], b"");
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(fs::read(&path).unwrap(), b"something else\n", "it is left alone");
}

#[test]
fn completions_are_a_script() {
    let folder = tempfile::TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = command(folder.path()).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("rollback"), "{shell}");
    }
}
