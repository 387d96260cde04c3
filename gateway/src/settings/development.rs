//! The settings of a gateway that was given no file: loopback, the embedded store, its own signing key.

use std::path::Path;

use super::{Settings, SettingsError};

/// What a gateway without a file runs on, everything of it under `data`, with `variables` laid over it.
pub fn development(
    data: &Path,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    // A path becomes a TOML string: for the characters of ordinary paths Rust's debug form is one.
    let text = format!(
        r#"
[server]
admin_listen = "127.0.0.1:50052"
state = {state:?}

[identity]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
jwks = {jwks:?}
algorithms = ["EdDSA"]

[backends.local]
kind = "embedded"
path = {store:?}
backups = {backups:?}

[strategies.tag-prefix]
source = "builtin:tag-prefix"
tags = ["tenant_config_", "param_config_"]
backends = ["local"]

[strategies.tag-prefix.settings]
tenant_config_ = {{ backend = "local" }}
param_config_ = {{ backend = "local" }}

[telemetry]
log = "warn,tagway=info"
format = "text"
"#,
        jwks = format!("file:{}", data.join(JWKS).display()),
        store = data.join("store.redb").display().to_string(),
        backups = data.join("backups").display().to_string(),
        state = data.join("state").display().to_string(),
    );
    Settings::parse("development settings", &text, variables)
}

/// The issuer of development tokens.
pub const ISSUER: &str = "tagway-dev";
/// The audience of development tokens.
pub const AUDIENCE: &str = "tagway";
/// The file of public keys under the data folder.
pub const JWKS: &str = "jwks.json";
