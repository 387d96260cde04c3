//! Settings that are read again while the gateway runs. A bad file changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::quota::Quotas;
use crate::settings::Settings;
use crate::status::Part;
use crate::strategy::Lifecycle;
use crate::telemetry::Logs;
use crate::watched_files;

/// After something says that the file changed: what comes meanwhile is seen by the same look.
const SETTLE: Duration = Duration::from_millis(200);

/// Where settings come from.
pub struct Reload {
    /// The file.
    pub file: PathBuf,
    /// The environment's variables.
    pub variables: Vec<(String, String)>,
    /// Told when they are to be read again.
    pub asked: Arc<Notify>,
    /// This process's logs.
    pub logs: Logs,
}

/// What takes them up.
pub(super) struct Live {
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) quotas: Arc<Quotas>,
    /// How the settings do.
    pub(super) part: Part,
}

impl Reload {
    /// Reads the file whenever it changes or somebody asks for it, and takes up what can be: strategies and logging. The gateway
    /// runs on `settings`. Runs until it is dropped.
    pub(super) async fn run(self, settings: Settings, live: Live) {
        let Live {
            lifecycle,
            quotas,
            part,
        } = live;
        let files = [self.file.clone()];
        // While changes of files cannot be had, there is the signal.
        let _watcher = watched_files::watch(&files, Arc::clone(&self.asked));
        // It may have changed between being read and being watched.
        self.asked.notify_one();
        let mut before = settings.clone();
        loop {
            self.asked.notified().await;
            sleep(SETTLE).await;
            let next = match Settings::load(&self.file, self.variables.iter().cloned()) {
                Ok(next) => next,
                Err(error) => {
                    part.is_away(&format!("what was read before stays: {error}"));
                    continue;
                }
            };
            if format!("{before:?}") == format!("{next:?}") {
                part.is_ready(&waiting(&settings, &next));
                continue;
            }
            // Settings with a bad filter do not resolve.
            _ = self.logs.filter(&next.telemetry);
            quotas.set(&next.quota);
            lifecycle.take_up(&next.strategies).await;
            let waiting = waiting(&settings, &next);
            tracing::info!(waiting, "settings were read again");
            part.is_ready(&waiting);
            before = next;
        }
    }
}

/// Which of these sections are not what the gateway runs on, and need a restart.
fn waiting(runs_on: &Settings, next: &Settings) -> String {
    let differ = |name: &'static str, one: &dyn std::fmt::Debug, other: &dyn std::fmt::Debug| {
        (format!("{one:?}") != format!("{other:?}")).then_some(name)
    };
    let differ: Vec<&str> = [
        differ("server", &runs_on.server, &next.server),
        differ("identity", &runs_on.identity, &next.identity),
        differ("backends", &runs_on.backends, &next.backends),
        differ("cache", &runs_on.cache, &next.cache),
        differ("events", &runs_on.events, &next.events),
        differ("limits", &runs_on.limits, &next.limits),
    ]
    .into_iter()
    .flatten()
    .collect();
    if differ.is_empty() {
        String::new()
    } else {
        format!("a restart takes up what changed in {}", differ.join(", "))
    }
}
