//! Settings that are read again while the gateway runs. A bad file changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::RecommendedWatcher;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{say, until};
use crate::clock::Clock;
use crate::quota::Quotas;
use crate::settings::{ServerSettings, Settings, TelemetrySettings, TlsSettings};
use crate::status::Part;
use crate::strategy::Lifecycle;
use crate::telemetry::Logs;
use crate::tls::Certificates;
use crate::watched_files;

/// After something says that the file changed: what comes meanwhile is seen by the same look.
const SETTLE: Duration = Duration::from_millis(200);

/// Files are read this often, whether somebody told that they changed or not.
const LOOK: Duration = Duration::from_mins(1);

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

/// Files of which `asked` is told while this is there.
struct Watched {
    files: Vec<PathBuf>,
    _watcher: Option<RecommendedWatcher>,
}

/// What takes them up.
pub(super) struct Live {
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) quotas: Arc<Quotas>,
    /// And how they do.
    pub(super) certificates: Option<(Arc<Certificates>, Part)>,
    /// How the settings do.
    pub(super) part: Part,
}

impl Reload {
    /// Reads the file whenever it changes or somebody asks for it, and takes up what can be: strategies, quotas, certificates and
    /// `telemetry.log`. The gateway runs on `settings`. Runs until it is dropped.
    pub(super) async fn run(self, settings: Settings, live: Live) {
        let Live {
            lifecycle,
            quotas,
            certificates,
            part,
        } = live;
        let mut before = settings.clone();
        // Where certificates are, and were last where settings name them no more: those are shown until a restart.
        let mut tls = settings.server.tls.clone();
        let mut watched = self.watch(&before);
        // It may have changed between being read and being watched.
        self.asked.notify_one();
        loop {
            // Now and then without being asked, for what no one was told of.
            _ = timeout(LOOK, self.asked.notified()).await;
            sleep(SETTLE).await;
            let read = Settings::load(&self.file, self.variables.iter().cloned());
            match read {
                Err(error) => part.is_away(&format!("what was read before stays: {error}")),
                Ok(next) if before == next => part.is_ready(&waiting(&settings, &next)),
                Ok(next) => {
                    // Settings with a bad filter do not resolve.
                    _ = self.logs.filter(&next.telemetry);
                    quotas.set(&next.quota);
                    lifecycle.take_up(&next.strategies).await;
                    let waiting = waiting(&settings, &next);
                    tracing::info!(waiting, "settings were read again");
                    part.is_ready(&waiting);
                    if next.server.tls.is_some() {
                        tls.clone_from(&next.server.tls);
                    }
                    before = next;
                }
            }
            if let (Some((certificates, part)), Some(tls)) = (&certificates, &tls) {
                take_up(certificates, tls, part);
            }
            if watched.files != self.files(&before) {
                watched = self.watch(&before);
            }
        }
    }

    fn watch(&self, settings: &Settings) -> Watched {
        let files = self.files(settings);
        let watcher = watched_files::watch(&files, Arc::clone(&self.asked));
        Watched {
            files,
            _watcher: watcher,
        }
    }

    fn files(&self, settings: &Settings) -> Vec<PathBuf> {
        let tls = settings.server.tls.as_ref();
        let mut files = tls.map(TlsSettings::files).unwrap_or_default();
        files.push(self.file.clone());
        files
    }
}

fn take_up(certificates: &Certificates, tls: &TlsSettings, part: &Part) {
    let now = Clock::system().now();
    match certificates.read_again(tls, now) {
        Ok(is_new) => {
            if is_new {
                tracing::info!(until = until(certificates), "certificates were read again");
            }
            say(certificates, part);
        }
        Err(error) => part.is_away(&format!("what was read before stays, {}: {error}", until(certificates))),
    }
}

/// Where certificates are is taken up; whether there are any is not.
fn without_files(settings: &Settings) -> (bool, ServerSettings) {
    let mut server = settings.server.clone();
    (server.tls.take().is_some(), server)
}

/// What is logged is taken up; where to is not.
fn without_filter(settings: &Settings) -> TelemetrySettings {
    let mut telemetry = settings.telemetry.clone();
    telemetry.log.clear();
    telemetry
}

/// Which of these sections are not what the gateway runs on, and need a restart.
fn waiting(runs_on: &Settings, next: &Settings) -> String {
    let sections = [
        ("server", without_files(runs_on) == without_files(next)),
        ("identity", runs_on.identity == next.identity),
        ("backends", runs_on.backends == next.backends),
        ("cache", runs_on.cache == next.cache),
        ("events", runs_on.events == next.events),
        ("limits", runs_on.limits == next.limits),
        ("telemetry", without_filter(runs_on) == without_filter(next)),
    ];
    let differ = sections.into_iter().filter(|(_, is_same)| !is_same);
    let differ: Vec<&str> = differ.map(|(name, _)| name).collect();
    if differ.is_empty() {
        String::new()
    } else {
        format!("a restart takes up what changed in {}", differ.join(", "))
    }
}
