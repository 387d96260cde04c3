//! TLS: who is believed, and certificates that change while the gateway runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tagway_tests::authority::Authority;
use tagway_tests::client::{Client, why};
use tagway_tests::gateway::{Gateway, command, settings};
use tagway_tests::issuer::{Key, claims, key_set};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{ClientTlsConfig, Endpoint};

const KEY: &str = "tenant_config_a";

/// A gateway with a certificate, and whose it is. It asks clients for one where `clients` signs theirs.
struct Encrypted {
    gateway: Gateway,
    authority: Authority,
}

impl Encrypted {
    fn start(clients: Option<&Authority>) -> Self {
        let (folder, key, authority) = (TempDir::new().unwrap(), Key::ed("first"), Authority::new());
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
        authority.sign().write(folder.path(), "server");
        fs::write(folder.path().join("authority.pem"), authority.pem()).unwrap();
        let client_ca = clients.map_or("", |clients| {
            fs::write(folder.path().join("clients.pem"), clients.pem()).unwrap();
            ", client_ca = \"clients.pem\""
        });
        let tls = format!(
            "[server]\nadmin_listen = \"127.0.0.1:0\"\n\
             tls = {{ cert = \"server.pem\", key = \"server.key\"{client_ca} }}"
        );
        let settings = settings("file:keys.json", "").replace("[server]", &tls);
        Self {
            gateway: Gateway::start_in(Arc::new(folder), key.into(), &settings),
            authority,
        }
    }

    fn folder(&self) -> &Path {
        self.gateway.folder.path()
    }

    /// A client that speaks TLS so.
    async fn client(&self, tls: ClientTlsConfig) -> Result<Client, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.gateway.address)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await?;
        Ok(Client::over(channel, Some(&self.gateway.key.token(&claims("acme")))))
    }

    /// What operators are told of a part.
    fn part(&self, name: &str) -> String {
        let status = command(self.folder())
            .args(["status", "--output", "json", "--tls-ca", "authority.pem"])
            .env("TAGWAY_ADMIN_ENDPOINT", format!("https://{}", self.gateway.admin))
            .env("TAGWAY_ADMIN_TOKEN", self.gateway.key.token(&operator()))
            .output()
            .unwrap();
        let text = String::from_utf8(status.stdout).unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        let line = text.lines().find(|line| line.contains(&format!("\"{name}\"")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
    }
}

fn operator() -> serde_json::Value {
    let mut operator = claims("ops");
    operator["scope"] = "admin".into();
    operator
}

#[tokio::test]
async fn who_trusts_the_authority_is_served_and_who_does_not_sends_nothing() {
    let served = Encrypted::start(None);
    let client = served.client(served.authority.trusted()).await.unwrap();
    client.put(KEY, "1").await.unwrap();
    assert_eq!(client.get(KEY).await.unwrap().value, "1");

    let stranger = Authority::new();
    assert!(served.client(stranger.trusted()).await.is_err());
    // Without TLS nothing is understood.
    let plain = Client::try_connect(&served.gateway.address, None).await;
    if let Ok(plain) = plain {
        assert_ne!(plain.get(KEY).await.unwrap_err().code(), Code::Unauthenticated);
    }
    assert_eq!(client.get(KEY).await.unwrap().value, "1");
}

#[tokio::test]
async fn where_clients_have_to_show_a_certificate_others_are_not_served() {
    let (clients, others) = (Authority::new(), Authority::new());
    let served = Encrypted::start(Some(&clients));
    let trusted = || served.authority.trusted();
    let client = served
        .client(trusted().identity(clients.sign().identity()))
        .await
        .unwrap();
    client.put(KEY, "1").await.unwrap();
    for tls in [
        trusted(),
        trusted().identity(others.sign().identity()),
        trusted().identity(clients.sign_until(2020).identity()),
    ] {
        // The client learns it with its first request: in TLS 1.3 it is done before the server has looked.
        if let Ok(client) = served.client(tls).await {
            assert_ne!(client.get(KEY).await.unwrap_err().code(), Code::NotFound);
        }
    }
    // A certificate is not a token.
    let nobody = client.with_token("x");
    assert_eq!(why(nobody.get(KEY).await).0, Code::Unauthenticated);
}

#[tokio::test]
async fn python_and_the_command_line_speak_it_too() {
    let clients = Authority::new();
    let served = Encrypted::start(Some(&clients));
    clients.sign().write(served.folder(), "client");
    let token = served.gateway.key.token(&claims("acme"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("system/client.py");
    let (folder, address, bearer) = (
        served.folder().to_owned(),
        served.gateway.address.clone(),
        token.clone(),
    );
    let python = move || {
        Command::new(tagway_servers::python())
            .arg(script)
            .args([address, bearer])
            .current_dir(folder)
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(python).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "from python");

    let address = format!("https://{}", served.gateway.address);
    let tagway = |arguments: &[&str]| {
        let output = command(served.folder())
            .args(arguments)
            .env("TAGWAY_ENDPOINT", &address)
            .env("TAGWAY_TOKEN", &token)
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let shown = [
        "--tls-ca",
        "authority.pem",
        "--tls-cert",
        "client.pem",
        "--tls-key",
        "client.key",
    ];
    let (code, text) = tagway(&[&["get", "tenant_config_python"][..], &shown].concat());
    assert!(code == Some(0) && text.contains("from python"), "{text}");
    let (code, text) = tagway(&["get", KEY, "--tls-ca", "clients.pem"]);
    assert!(
        code == Some(6) && text.contains("certificate") && text.contains("--tls-ca"),
        "{text}"
    );
    let (code, text) = tagway(&["get", KEY, "--tls-cert", "client.pem"]);
    assert!(code == Some(2) && text.contains("--tls-key"), "{text}");
    let (code, text) = tagway(&[
        "get",
        KEY,
        "--tls-ca",
        "clients.pem",
        "--endpoint",
        "http://127.0.0.1:1",
    ]);
    assert!(code == Some(2) && text.contains("nothing is encrypted"), "{text}");
    let (code, text) = tagway(&["get", KEY, "--tls-ca", "nosuch.pem"]);
    assert!(code == Some(2) && text.contains("nosuch.pem"), "{text}");
}

#[tokio::test]
async fn certificates_are_taken_up_while_it_runs_and_bad_ones_are_not() {
    let served = Encrypted::start(None);
    let before = served.client(served.authority.trusted()).await.unwrap();
    before.put(KEY, "1").await.unwrap();
    assert!(
        served.part("tls").contains("good until 4000-01-01"),
        "{}",
        served.part("tls")
    );

    // One file of two: they do not fit, and what was there stays.
    let next = Authority::new();
    let signed = next.sign_until(3000);
    fs::write(served.folder().join("server.pem"), &signed.cert).unwrap();
    assert!(
        served.gateway.logs("what was read before stays, good until 4000-01-01"),
        "{}",
        served.gateway.log()
    );
    assert!(served.client(served.authority.trusted()).await.is_ok());
    assert!(served.client(next.trusted()).await.is_err());

    fs::write(served.folder().join("server.key"), &signed.key).unwrap();
    assert!(
        served.gateway.logs("certificates were read again"),
        "{}",
        served.gateway.log()
    );
    fs::write(served.folder().join("authority.pem"), next.pem()).unwrap();
    assert!(
        served.part("tls").contains("good until 3000-01-01"),
        "{}",
        served.part("tls")
    );
    let after = served.client(next.trusted()).await.unwrap();
    assert!(served.client(served.authority.trusted()).await.is_err());
    assert_eq!(after.get(KEY).await.unwrap().value, "1");
    assert_eq!(
        before.get(KEY).await.unwrap().value,
        "1",
        "connections that were there stay"
    );

    // A pair that fits, and is good no more, does not take the place of one that is.
    let old = next.sign_until(2020);
    old.write(served.folder(), "server");
    assert!(
        served
            .gateway
            .logs("good from 1975-01-01T00:00:00Z until 2020-01-01T00:00:00Z, and so not now"),
        "{}",
        served.gateway.log()
    );
    assert!(served.client(next.trusted()).await.is_ok());
    let metrics = super::process::http(&served.gateway.ops, "/metrics");
    assert!(
        metrics.contains("tagway_tls_certificate_expiry_timestamp_seconds 32503680000"),
        "{metrics}"
    );
    assert!(metrics.contains("tagway_part_ready{part=\"tls\"} 0"), "{metrics}");
    // Of what a key file holds nothing is said.
    assert!(!served.gateway.log().contains("PRIVATE KEY-----\nM"));
}

#[test]
fn what_is_wrong_with_the_files_is_said_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    let key = Key::ed("first");
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let authority = Authority::new();
    authority.sign().write(folder.path(), "server");
    authority.sign().write(folder.path(), "other");
    fs::write(folder.path().join("empty"), "").unwrap();
    for (cert, key, client_ca, said) in [
        ("nosuch.pem", "server.key", "", "server.tls.cert = nosuch.pem: "),
        (
            "empty",
            "server.key",
            "",
            "server.tls.cert = empty: nothing in it; certificates in PEM",
        ),
        (
            "server.key",
            "server.key",
            "",
            "server.tls.cert = server.key: nothing in it; certificates in PEM",
        ),
        (
            "server.pem",
            "server.pem",
            "",
            "server.tls.key = server.pem: nothing in it; one private key in PEM",
        ),
        ("server.pem", "other.key", "", "server.tls: "),
        (
            "server.pem",
            "server.key",
            "empty",
            "server.tls.client_ca = empty: nothing in it",
        ),
    ] {
        let client_ca = Some(client_ca).filter(|file| !file.is_empty());
        let client_ca = client_ca
            .map(|file| format!(", client_ca = \"{file}\""))
            .unwrap_or_default();
        let tls = format!("[server]\ntls = {{ cert = \"{cert}\", key = \"{key}\"{client_ca} }}");
        let settings = settings("file:keys.json", "").replace("[server]", &tls);
        fs::write(folder.path().join("tagway.toml"), settings).unwrap();
        for command_line in [&["check", "tagway.toml"][..], &["serve", "--config", "tagway.toml"]] {
            let output = command(folder.path()).args(command_line).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(
                output.status.code() == Some(2) && text.contains(said),
                "{said} in {text}"
            );
        }
    }
}

#[tokio::test]
async fn clients_that_ask_what_there_is_are_told_where_settings_say_so() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    for (keys, is_told) in [("reflection = true", true), ("", false)] {
        let gateway = Gateway::start_serving(keys, "");
        let channel = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
        let mut client = ServerReflectionClient::new(channel.connect().await.unwrap());
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let answer = client.server_reflection_info(tokio_stream::once(request)).await;
        if !is_told {
            assert_eq!(answer.err().map(|status| status.code()), Some(Code::Unimplemented));
            continue;
        }
        let answer = answer.unwrap().into_inner().message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
            panic!("{answer:?}");
        };
        let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&"tagway.v1.ConfigService".to_owned()), "{names:?}");
    }
}
