//! What keeps a gateway from serving on this machine, found before anybody calls it. It looks with the same settings, variables and
//! credentials, through the same code, and changes nothing: it makes no file, writes to no store and takes nothing out of a queue.

mod aws;
mod clock;
mod embedded;
mod events;
mod files;
mod identity;
mod listeners;
mod machine;
mod parameters;
mod strategies;
mod tables;
mod telemetry;
mod tls;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::settings::{BackendKind, Settings};
use aws::Credentials;

/// Of one check, unless it has a limit of its own. It is longer than any of its calls, which say why they failed.
const LIMIT: Duration = Duration::from_secs(10);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: a setting, or what it names.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What that means.
    pub verdict: Verdict,
}

/// What a finding means for a gateway. What is not well has something that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It serves so, and not as well as it could.
    Warn {
        /// A command, or a setting, or what to look at.
        fix: String,
    },
    /// It does not start so, or something of it does not serve.
    Fail {
        /// Likewise.
        fix: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn { .. } => "warn",
            Self::Fail { .. } => "fail",
        })
    }
}

impl Verdict {
    /// What mends it, if it is not well.
    #[must_use]
    pub fn fix(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::Warn { fix } | Self::Fail { fix } => Some(fix),
        }
    }
}

impl Finding {
    fn ok(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            found: found.into(),
            verdict: Verdict::Ok,
        }
    }

    fn warn(subject: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn { fix: fix.into() },
            ..Self::ok(subject, found)
        }
    }

    fn fail(subject: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail { fix: fix.into() },
            ..Self::ok(subject, found)
        }
    }
}

/// What is examined.
#[derive(Clone)]
struct Examined {
    /// The file of the settings, for commands that name it.
    file: Arc<str>,
    settings: Arc<Settings>,
    clock: Clock,
}

/// A look at one thing, which has its own time.
struct Check {
    subject: String,
    limit: Duration,
    asks_aws: bool,
    look: BoxFuture<'static, Vec<Finding>>,
}

impl Check {
    fn new(subject: impl Into<String>, look: impl Future<Output = Vec<Finding>> + Send + 'static) -> Self {
        Self {
            subject: subject.into(),
            limit: LIMIT,
            asks_aws: false,
            look: look.boxed(),
        }
    }

    /// One that looks at files and the like: on a thread that may block, which a disk that hangs may keep.
    fn blocking(subject: impl Into<String>, look: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Self {
        let subject = subject.into();
        let panicked = not_ended(&subject);
        let look = async move { tokio::task::spawn_blocking(look).await.unwrap_or(panicked) };
        Self::new(subject, look)
    }

    /// It takes longer than others.
    fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// It is of no use without credentials.
    fn asks_aws(mut self) -> Self {
        self.asks_aws = true;
        self
    }

    async fn run(self, credentials: impl Future<Output = Credentials>) -> Vec<Finding> {
        if self.asks_aws && !credentials.await.are_there {
            let fix = "mend what is said of the credentials, and run this again";
            return vec![Finding::warn(
                self.subject,
                "not looked at: there are no credentials",
                fix,
            )];
        }
        match timeout(self.limit, self.look).await {
            Ok(findings) => findings,
            Err(_) => vec![Finding::fail(
                self.subject,
                format!("it hangs: no answer within {:?}", self.limit),
                "see what does not answer: a server, what is on the way to it, or a disk",
            )],
        }
    }
}

fn not_ended(subject: &str) -> Vec<Finding> {
    vec![Finding::fail(
        subject,
        "the look at it ended in a panic",
        "it is a mistake of ours: report it with what stands on stderr",
    )]
}

/// Looks at everything that `settings`, which came from `file`, ask for. All at once, each within some seconds; what is found comes in
/// an order that is always the same.
pub async fn examine(file: &Path, settings: Settings, clock: Clock) -> Vec<Finding> {
    let of = Examined {
        file: file.display().to_string().into(),
        settings: settings.into(),
        clock,
    };
    let credentials = AbortOnDropHandle::new(tokio::spawn(aws::credentials(of.clone())));
    let credentials = credentials.map(Result::unwrap_or_default).shared();
    let told = credentials.clone();
    let checks = [
        strategies::checks(&of),
        identity::checks(&of),
        // They have a time of their own.
        vec![Check::new("credentials", async move { told.await.findings }).within(2 * LIMIT)],
        backends(&of),
        events::checks(&of),
        listeners::checks(&of),
        tls::checks(&of),
        files::checks(&of),
        telemetry::checks(&of),
        machine::checks(&of),
    ];
    let begun: Vec<_> = checks
        .into_iter()
        .flatten()
        .map(|check| {
            let panicked = not_ended(&check.subject);
            let running = AbortOnDropHandle::new(tokio::spawn(check.run(credentials.clone())));
            (running, panicked)
        })
        .collect();
    let mut findings = vec![Finding::ok("settings", format!("{} reads, and fits together", of.file))];
    for (running, panicked) in begun {
        findings.extend(running.await.unwrap_or(panicked));
    }
    findings
}

fn backends(of: &Examined) -> Vec<Check> {
    let checks = of
        .settings
        .backends
        .iter()
        .filter_map(|(id, backend)| match backend.kind {
            BackendKind::Embedded => Some(embedded::check(id, backend.path.as_deref()?)),
            BackendKind::DynamoDb => Some(tables::check(of, id, backend, backend.table.as_deref()?)),
            BackendKind::Ssm => Some(parameters::check(id, backend)),
        });
    checks.collect()
}
