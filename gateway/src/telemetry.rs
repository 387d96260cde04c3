//! What operators learn of the process: logs, to stderr, without values and tokens; and what all metrics have in common; and traces.

mod process;
mod traces;

use std::io::IsTerminal as _;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

use crate::settings::{LogFormat, TelemetrySettings};

pub use process::ProcessMetrics;
pub use traces::{TRACE, Traces, TracesError, context_of, traceparent};

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

/// Why a process cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// `telemetry.log` is no filter. Settings with such a one do not resolve.
    #[error("telemetry.log: {0}")]
    Filter(#[from] ParseError),
    /// Traces cannot go where they should.
    #[error(transparent)]
    Traces(#[from] TracesError),
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

/// Spans are for traces alone: a line says what it has to say. And what AWS's client says at its most talkative is whole requests, with
/// values and secrets in them.
fn is_for_lines(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_of_aws = target.starts_with("aws_");
    target != TRACE && !(is_of_aws && *metadata.level() == Level::TRACE)
}

/// Sends this process's logs, and its traces if there are any, where the settings say, from here on. Once a process, and in its
/// runtime.
pub fn init(settings: &TelemetrySettings) -> Result<(Logs, Traces), InitError> {
    let traces = Traces::open(settings)?;
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&settings.log)?);
    let filter = filter.and(filter_fn(is_for_lines));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(traces.layer());
    match settings.format {
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_filter(filter))
            .init(),
        LogFormat::Text => registry.with(lines.with_filter(filter)).init(),
    }
    // It is there as long as the process is.
    let logs = Logs(Box::new(move |filter| _ = handle.reload(filter)));
    Ok((logs, traces))
}
