//! The command that is run for each change.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::thread;

use super::Change;

/// Runs it to its end. An error says in a few words how it failed.
pub(super) fn run(command: &str, change: &Change) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        // It needs the value, and not what reads all others.
        .env_remove("TAGWAY_TOKEN")
        .env_remove("TAGWAY_VERSION")
        .env("TAGWAY_EVENT", change.event())
        .env("TAGWAY_KEY", change.key())
        .env("TAGWAY_ETAG", change.etag())
        .stdin(Stdio::piped())
        // Stdout is for what is told.
        .stdout(io::stderr());
    if let Change::Put(config) = change {
        shell.env("TAGWAY_VERSION", config.version.to_string());
    }
    let cannot = |error: io::Error| format!("sh: {error}");
    let mut child = shell.spawn().map_err(cannot)?;
    if let (Some(mut stdin), Change::Put(config)) = (child.stdin.take(), change) {
        let value = config.value.clone();
        // Beside it, and for as long as it likes: who does not read it keeps nothing waiting.
        let write = move || _ = stdin.write_all(&value);
        thread::Builder::new().spawn(write).map_err(cannot)?;
    }
    let status = child.wait().map_err(cannot)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(format!("exit status {code}")),
        None => Err(status.to_string()),
    }
}
