//! `tagway watch`

mod exec;
mod held;
mod report;
mod stream;

use std::time::Duration;

use clap::Args;
use tagway::clock::backoff;
use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Ack, Subscribe};
use tagway_proto::v1::watch_configs_response::{Ended, Kind, Removed};
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::client::{Context, Gateway};
use super::failure::Failure;
use held::Held;
use report::Report;
use stream::Stream;

/// Between two tries: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// The one subscription of each stream.
const ID: &str = "watch";

/// The arguments of `tagway watch`.
#[derive(Args)]
#[command(after_help = "\
Example: tagway watch tenant_config_payment-gateway --exec \
    'if [ \"$TAGWAY_EVENT\" = put ]; then cat > payment.json && systemctl reload payment; fi'

The command of --exec finds the value on stdin, and TAGWAY_EVENT (put or removed), TAGWAY_KEY, TAGWAY_ETAG and, of
what is put, TAGWAY_VERSION in its environment; the token is not there. It is run for a removal too, with nothing on
stdin, and at the start for a key that does not stand. What it prints goes to stderr. If it fails, the gateway is
told so.

It goes on until its token ends. With --token @FILE it reads that file again then, and goes on if there is a new one.")]
pub(super) struct Watch {
    /// Tag and name; several
    #[arg(value_name = "KEY", required_unless_present = "prefix")]
    keys: Vec<String>,
    /// Every key that begins so; several times
    #[arg(long)]
    prefix: Vec<String>,
    /// Leave values out
    #[arg(long)]
    keys_only: bool,
    /// A shell's command, run for each put and each removal, one after the other
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Only what stands now
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    gateway: Gateway,
}

/// What is told of a key.
enum Change {
    /// It stands, and this is it.
    Put(v1::Config),
    /// There is no such key, or no more.
    Removed(Removed),
}

/// A watch that goes on from stream to stream.
struct Watching {
    watch: Watch,
    held: Held,
    report: Report,
    pauses: Box<dyn Iterator<Item = Duration>>,
}

impl Watch {
    pub(super) async fn run(self) -> Result<(), Failure> {
        // A mistake is told at once. Whoever was let in once comes again for ever.
        let first = Stream::open(&self.gateway).await?;
        let watching = Watching {
            held: Held::default(),
            report: Report::new(self.gateway.output(), self.keys_only),
            pauses: Box::new(backoff(PAUSES)),
            watch: self,
        };
        watching.run(first).await
    }
}

impl Watching {
    async fn run(mut self, first: Stream) -> Result<(), Failure> {
        let mut opened = Ok(first);
        loop {
            let (failure, closing) = match opened {
                Ok(mut stream) => match self.follow(&mut stream).await {
                    Ok(()) => return Ok(()),
                    Err(failure) => (failure, stream.until_closed()),
                },
                Err(failure) => (failure, Duration::ZERO),
            };
            let renewed = || self.watch.gateway.renews_its_token(&failure).then_some(Duration::ZERO);
            let Some(delay) = failure.retry_delay().or_else(renewed) else {
                return Err(failure);
            };
            let pause = self.pauses.next().unwrap_or(PAUSES.1).max(delay).max(closing);
            self.report.again(&failure, pause)?;
            sleep(pause).await;
            opened = Stream::open(&self.watch.gateway).await;
        }
    }

    /// Tells what a stream says, until it fails; or until everything was told that stands, where no more is asked for.
    async fn follow(&mut self, stream: &mut Stream) -> Result<(), Failure> {
        stream.subscribe(Subscribe {
            id: ID.to_owned(),
            prefixes: self.watch.prefix.clone(),
            keys: self.watch.keys.clone(),
            context: self.watch.context.message(),
            known_etags: self.held.known(),
            keys_only: self.watch.keys_only,
        });
        loop {
            match stream.next().await? {
                Kind::Put(config) => self.changed(&Change::Put(config), stream)?,
                Kind::Removed(removed) => self.changed(&Change::Removed(removed), stream)?,
                Kind::Synced(synced) => {
                    for gone in self.held.gone() {
                        self.changed(&Change::Removed(gone), stream)?;
                    }
                    self.held.synced();
                    self.pauses = Box::new(backoff(PAUSES));
                    self.report.synced(synced.stale)?;
                    if self.watch.once {
                        stream.finish().await;
                        return Ok(());
                    }
                }
                Kind::Progress(progress) => self.report.stale(progress.stale)?,
                Kind::Resync(_) => self.report.resync()?,
                Kind::Ended(ended) => return Err(why(ended).into()),
                // The stream's own matters.
                Kind::Session(_) | Kind::Closing(_) => {}
            }
        }
    }

    fn changed(&mut self, change: &Change, stream: &Stream) -> Result<(), Failure> {
        if !self.held.is_news(change) {
            return Ok(());
        }
        self.report.change(change)?;
        let Some(command) = &self.watch.exec else {
            return Ok(());
        };
        let error = exec::run(command, change).err().unwrap_or_default();
        if !error.is_empty() {
            report::note(&format!("--exec for {}: {error}", change.key()));
        }
        stream.acknowledge(Ack {
            key: change.key().to_owned(),
            etag: change.etag().to_owned(),
            error,
            subscription_id: ID.to_owned(),
        });
        Ok(())
    }
}

impl Change {
    fn event(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Removed(_) => "removed",
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Put(config) => &config.key,
            Self::Removed(removed) => &removed.key,
        }
    }

    fn etag(&self) -> &str {
        match self {
            Self::Put(config) => &config.etag,
            Self::Removed(removed) => &removed.etag,
        }
    }
}

/// Why a subscription has ended, as a call would say it.
fn why(ended: Ended) -> Status {
    let Some(failure) = ended.failure else {
        return Status::unavailable("the gateway has ended the subscription");
    };
    let mut details = ErrorDetails::with_error_info(failure.reason, "tagway", []);
    details.set_retry_info(failure.retry_delay.and_then(|delay| delay.try_into().ok()));
    Status::with_error_details(Code::from_i32(failure.code), failure.message, details)
}
