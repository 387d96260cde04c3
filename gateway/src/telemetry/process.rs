//! What the process takes of the machine, by the names that Prometheus' own clients use for it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use procfs::WithCurrentSystemInfo as _;
use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::runtime::Handle;

/// Tells what this process takes, and how many tasks its runtime has.
#[derive(Debug)]
pub struct ProcessMetrics {
    runtime: Handle,
    started: Duration,
}

impl ProcessMetrics {
    /// Of this process, which started about now.
    #[must_use]
    pub fn new(runtime: Handle, now: SystemTime) -> Self {
        let started = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { runtime, started }
    }
}

impl Collector for ProcessMetrics {
    #[allow(
        clippy::cast_precision_loss,
        reason = "bytes and counts of one process are far below 2^52"
    )]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)
        };
        let (seconds, bytes) = (Unit::Seconds, Unit::Bytes);
        gauge(
            "process_start_time",
            "When it started, in Unix time",
            Some(&seconds),
            self.started.as_secs_f64(),
        )?;
        let tasks = self.runtime.metrics().num_alive_tasks();
        gauge(
            "tagway_tasks",
            "Tasks of the runtime that have not ended",
            None,
            tasks as f64,
        )?;
        // Where there is no /proc, the rest is not told.
        let Ok(this) = Process::myself() else {
            return Ok(());
        };
        if let Ok(descriptors) = this.fd_count() {
            gauge(
                "process_open_fds",
                "Descriptors that are open",
                None,
                descriptors as f64,
            )?;
        }
        if let Ok(limits) = this.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            gauge("process_max_fds", "Descriptors that may be open", None, most as f64)?;
        }
        let Ok(stat) = this.stat() else {
            return Ok(());
        };
        let resident = stat.rss_bytes().get();
        gauge(
            "process_resident_memory",
            "Memory that it holds",
            Some(&bytes),
            resident as f64,
        )?;
        gauge(
            "process_virtual_memory",
            "Addresses that it holds",
            Some(&bytes),
            stat.vsize as f64,
        )?;
        gauge(
            "process_threads",
            "Threads of the system",
            None,
            stat.num_threads as f64,
        )?;
        let ticks = (stat.utime + stat.stime) as f64;
        let help = "Time on processors";
        let cpu = encoder.encode_descriptor("process_cpu", help, Some(&seconds), MetricType::Counter)?;
        ConstCounter::new(ticks / procfs::ticks_per_second() as f64).encode(cpu)
    }
}
