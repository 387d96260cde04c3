//! A change, handed to a command.

use std::io::Write as _;
use std::process::{Command, Stdio};

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_response::Removed;

/// What happened to a key.
pub(super) struct Event {
    name: &'static str,
    pub(super) key: String,
    pub(super) etag: String,
    version: u64,
    value: bytes::Bytes,
}

impl Event {
    pub(super) fn put(config: v1::Config) -> Self {
        Self {
            name: "put",
            key: config.key,
            etag: config.etag,
            version: config.version,
            value: config.value,
        }
    }

    pub(super) fn removed(removed: Removed) -> Self {
        Self {
            name: "removed",
            key: removed.key,
            etag: removed.etag,
            version: 0,
            value: bytes::Bytes::new(),
        }
    }

    /// Runs it to its end. An error says how it failed.
    pub(super) fn run(&self, command: &str) -> Result<(), String> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("TAGWAY_EVENT", self.name)
            .env("TAGWAY_KEY", &self.key)
            .env("TAGWAY_ETAG", &self.etag)
            .env("TAGWAY_VERSION", self.version.to_string())
            // It has no need of the secret.
            .env_remove("TAGWAY_TOKEN")
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command may end without having read it.
            _ = stdin.write_all(&self.value);
        }
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
