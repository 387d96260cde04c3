//! What operators learn of the process: logs, to stderr, without values and tokens; and what all metrics have in common.

mod process;

use std::io::IsTerminal as _;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{LogFormat, TelemetrySettings};

pub use process::ProcessMetrics;

/// Upper bounds of what takes from microseconds, as a hit of the cache does, to seconds, as a store that is hardly there does.
const SECONDS: [f64; 18] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
];

/// Histograms of durations, by labels.
pub type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Of durations in seconds.
#[must_use]
pub fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

/// This process's logs.
pub struct Logs(Box<dyn Fn(EnvFilter) + Send + Sync>);

impl Logs {
    /// From here on what `telemetry.log` lets pass is logged.
    ///
    /// # Errors
    /// When it is no filter. Settings with such a one do not resolve.
    pub fn filter(&self, settings: &TelemetrySettings) -> Result<(), ParseError> {
        (self.0)(EnvFilter::try_new(&settings.log)?);
        Ok(())
    }
}

/// Sends this process's logs where the settings say, from here on. Once a process.
///
/// # Errors
/// When `telemetry.log` is no filter. Settings with such a one do not resolve.
pub fn init(settings: &TelemetrySettings) -> Result<Logs, ParseError> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    Ok(match settings.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.finish().init();
            // It is there as long as the process is.
            Logs(Box::new(move |filter| _ = handle.reload(filter)))
        }
        LogFormat::Text => {
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            lines.finish().init();
            Logs(Box::new(move |filter| _ = handle.reload(filter)))
        }
    })
}
