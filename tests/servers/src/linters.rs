//! What has to say something about the files that users deploy.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::debian;
use crate::python::{isolated, python, text_of};

/// What cfn-lint has to say about a template; it succeeds if that is nothing at all.
#[must_use]
pub fn cfn_lint(template: &Path) -> Output {
    said(&["cfn-lint", "--include-checks", "I", "--"], &[template])
}

/// What hadolint has to say about a Dockerfile; it succeeds if that is nothing at all.
#[must_use]
pub fn hadolint(dockerfile: &Path) -> Output {
    said(&["hadolint", "--failure-threshold", "style"], &[dockerfile])
}

/// What yamllint has to say about what is in a folder; it succeeds if that is nothing at all.
#[must_use]
pub fn yamllint(folder: &Path) -> Output {
    let rules =
        "{extends: default, rules: {line-length: {max: 130}, document-start: disable, braces: {max-spaces-inside: 1}}}";
    said(&["yamllint", "--strict", "--config-data", rules], &[folder])
}

/// Whether the schemas of a release of Kubernetes know these manifests, and nothing in them is unknown to the schemas.
#[must_use]
pub fn kubernetes_validate(manifests: &[&Path]) -> Output {
    said(&["kubernetes-validate", "--strict"], manifests)
}

/// The documents in a file of YAML.
#[must_use]
pub fn yaml(file: &Path) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let text = text_of(isolated(&python()).args(["-c", script]).arg(file), "it is YAML");
    serde_json::from_str(&text).expect("it speaks JSON")
}

/// What systemd-analyze has to say.
#[must_use]
pub fn systemd_analyze(arguments: &[&str]) -> Output {
    let packages = ["systemd", "libsystemd-shared", "libapparmor1", "libip4tc2", "libkmod2"];
    let mut command = debian::program("systemd-analyze", &packages);
    command.args(arguments).output().expect("it starts")
}

fn said(command: &[&str], files: &[&Path]) -> Output {
    let [program, arguments @ ..] = command else {
        panic!("there is a program to be started");
    };
    let mut command: Command = isolated(&python().with_file_name(program));
    command
        .args(arguments)
        .args(files)
        .output()
        .expect("the interpreter starts")
}
