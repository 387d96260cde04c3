//! Logs: to stderr, without values and tokens.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::settings::{LogFormat, TelemetrySettings};

/// Sends this process's logs where the settings say, from here on. Once a process.
///
/// # Errors
/// When `telemetry.log` is no filter. Settings with such a one do not resolve.
pub fn init(settings: &TelemetrySettings) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.init(),
    }
    Ok(())
}
