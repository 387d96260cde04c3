//! The manifests that users deploy: what they say in one place fits what they say in another, and the gateway takes it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tagway_servers::{kubernetes_validate, yaml, yamllint};
use tagway_tests::authority::Authority;
use tagway_tests::gateway::command;
use tempfile::TempDir;

use super::image::{says, user};

/// Ways to run, each a folder.
const WAYS: [&str; 2] = ["fleet", "single"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../gateway/deploy/kubernetes")
        .join(name)
}

/// The files of a folder, but for the one that names them.
fn manifests(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.ends_with("kustomization.yaml")).collect()
}

/// One way to run: everything that is applied.
struct Way(Vec<Value>);

impl Way {
    fn new(name: &str) -> Self {
        let files = manifests("base").into_iter().chain(manifests(name));
        Self(files.flat_map(|file| yaml(&file)).collect())
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |document| document["kind"] == kind)
    }

    fn template(&self) -> &Value {
        let mut workloads = ["Deployment", "StatefulSet"]
            .into_iter()
            .flat_map(|kind| self.of_kind(kind));
        &workloads.next().unwrap()["spec"]["template"]
    }

    fn pod(&self) -> &Value {
        &self.template()["spec"]
    }

    fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    fn settings(&self) -> &str {
        let map = self.of_kind("ConfigMap").next().unwrap();
        map["data"]["tagway.toml"].as_str().unwrap()
    }

    /// What the container calls this port.
    fn port(&self, name: &str) -> u64 {
        let ports = self.container()["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == name);
        port.unwrap()["containerPort"].as_u64().unwrap()
    }

    /// Names of files that lie beside the settings.
    fn files(&self) -> BTreeSet<&str> {
        let volumes = self.pod()["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "settings").unwrap();
        let secrets = volume["projected"]["sources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|source| &source["secret"]);
        let items = secrets.flat_map(|secret| secret["items"].as_array().into_iter().flatten());
        items.map(|item| item["path"].as_str().unwrap()).collect()
    }
}

/// A number with its unit, in the smallest one.
fn amount(text: &Value) -> u64 {
    let text = text.as_str().unwrap();
    let end = text.find(|digit: char| !digit.is_ascii_digit()).unwrap();
    let unit = match &text[end..] {
        "s" => 1,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        other => panic!("{other}"),
    };
    text[..end].parse::<u64>().unwrap() * unit
}

#[test]
fn manifests_are_known_to_kubernetes_and_each_is_applied() {
    let output = yamllint(&folder(""));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    for name in ["base"].into_iter().chain(WAYS) {
        let files = manifests(name);
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let output = kubernetes_validate(&files);
        assert!(output.status.success(), "{output:?}");
        let applied = &yaml(&folder(name).join("kustomization.yaml"))[0]["resources"];
        let applied: BTreeSet<PathBuf> = applied
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().into())
            .collect();
        let there = files.iter().map(|file| file.file_name().unwrap().into());
        let there: BTreeSet<PathBuf> = there.chain((name != "base").then(|| "../base".into())).collect();
        assert_eq!(applied, there);
    }
}

#[test]
fn the_gateway_takes_their_settings_with_the_files_that_the_pod_has() {
    for way in WAYS.map(Way::new) {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("tagway.toml"), way.settings()).unwrap();
        let signed = Authority::new().sign();
        for file in way.files() {
            let content = match file {
                "tls.crt" => signed.cert.clone(),
                "tls.key" => signed.key.clone(),
                "page-token.key" => "0".repeat(32),
                other => panic!("{other}"),
            };
            fs::write(folder.path().join(file), content).unwrap();
        }
        let checked = command(folder.path()).args(["check", "tagway.toml"]).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn a_pod_has_the_time_the_memory_the_ports_and_the_folders_that_its_settings_ask_for() {
    for way in WAYS.map(Way::new) {
        let settings: Value = toml::from_str(way.settings()).unwrap();
        let (pod, container, server) = (way.pod(), way.container(), &settings["server"]);

        let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > sleep + amount(&server["drain"]));

        // Defaults where the settings say nothing.
        let tokens = 32 << 20;
        let decisions = (settings["strategies"].as_object().unwrap().len() as u64) * 1024 * (256 << 10);
        let under_way = 256 << 20;
        let embedded = settings["backends"].as_object().unwrap().values();
        let embedded = embedded.filter(|backend| backend["kind"] == "embedded").count() as u64;
        let (pages_and_backup, itself) = (embedded * (128 << 20), 100 << 20);
        let kept = amount(&settings["cache"]["max_bytes"]) + tokens + decisions + under_way + pages_and_backup + itself;
        let limit = amount(&container["resources"]["limits"]["memory"]);
        assert!(limit >= kept * 5 / 4, "{limit} of {kept} and a quarter");
        assert_eq!(
            container["resources"]["requests"]["memory"],
            container["resources"]["limits"]["memory"]
        );

        for (name, key) in [("grpc", "listen"), ("admin", "admin_listen"), ("ops", "ops_listen")] {
            assert_eq!(server[key], format!("0.0.0.0:{}", way.port(name)));
        }
        for service in way.of_kind("Service") {
            assert_eq!(service["spec"]["selector"], way.template()["metadata"]["labels"]);
            for port in service["spec"]["ports"].as_array().unwrap() {
                assert_eq!(port["port"], way.port(port["targetPort"].as_str().unwrap()));
            }
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "ops");
        }

        let mounts = container["volumeMounts"].as_array().unwrap();
        let at = |name: &str| {
            mounts.iter().find(|mount| mount["name"] == name).unwrap()["mountPath"]
                .as_str()
                .unwrap()
        };
        assert_eq!(at("settings"), says("WORKDIR"), "settings name files beside them");
        let folders = [
            &server["state"],
            &settings["cache"]["snapshot"],
            &settings["backends"]["local"]["path"],
        ];
        for path in folders.into_iter().filter_map(Value::as_str) {
            assert_eq!(
                Path::new(path).parent(),
                Some(Path::new(at("data"))),
                "in the volume, and not it"
            );
        }
    }
}

#[test]
fn a_pod_may_do_nothing_that_a_gateway_does_not() {
    for way in WAYS.map(Way::new) {
        let (user, group) = user();
        assert_eq!(
            way.pod()["securityContext"],
            json!({
                "runAsNonRoot": true, "runAsUser": user, "runAsGroup": group,
                "fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": { "type": "RuntimeDefault" },
            })
        );
        assert_eq!(
            way.container()["securityContext"],
            json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            })
        );
        assert_eq!(way.pod()["automountServiceAccountToken"], false);
        let namespace = way.of_kind("Namespace").next().unwrap();
        assert_eq!(
            namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
            "restricted"
        );
    }
}
