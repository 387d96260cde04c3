//! `tagway watch`

mod exec;

use std::collections::HashMap;
use std::future::pending;
use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;
use exec::Event;
use serde_json::{Map, Value, json};
use tagway::clock::backoff;
use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Ack, Kind as Asking, Subscribe};
use tagway_proto::v1::watch_configs_response::{Closing, Ended, Kind, Progress, Removed, Session, Synced};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::client::{self, Client, Context, Gateway, Output};
use super::failure::Failure;

/// The one subscription's.
const ID: &str = "tagway";
/// Before anything was heard.
const SILENCE: Duration = Duration::from_secs(45);
/// Between two streams: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// As many as a gateway takes. Those that are left out are sent again.
const KNOWN: usize = 10_000;

/// The arguments of `tagway watch`.
#[derive(Args)]
#[command(after_help = "Example: tagway watch --prefix tenant_config_ --exec 'cat > \"/etc/app/$TAGWAY_KEY\"'")]
pub(super) struct Watch {
    /// Tags and names
    #[arg(required_unless_present = "prefixes")]
    keys: Vec<String>,
    /// Every key that begins so; several times
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// Leave values out
    #[arg(long)]
    keys_only: bool,
    /// End when all that stands has been told
    #[arg(long)]
    once: bool,
    /// Run this for each change, with the value on its stdin, and `TAGWAY_EVENT` (put or removed), `TAGWAY_KEY`, `TAGWAY_ETAG`,
    /// `TAGWAY_VERSION`; where it fails, the gateway is told
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    gateway: Gateway,
}

/// What is left to do after a stream.
enum Next {
    Done,
    /// Another stream; at once, if the gateway said when.
    Again {
        at_once: bool,
    },
}

/// One stream after the other, and what is held by them.
struct Watching {
    watch: Watch,
    client: Client,
    /// Etags by key.
    held: HashMap<String, String>,
    pauses: Box<dyn Iterator<Item = Duration>>,
    is_stale: bool,
}

impl Watch {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let client = self.gateway.connect().await?;
        let mut watching = Watching {
            watch: self,
            client,
            held: HashMap::new(),
            pauses: Box::new(backoff(PAUSES)),
            is_stale: false,
        };
        loop {
            let at_once = match watching.stream().await {
                Ok(Next::Done) => return Ok(()),
                Ok(Next::Again { at_once }) => at_once,
                Err(Failure::Refused(status)) if may_pass(&status) => {
                    note(&format!("{}; watching again", status.message()))?;
                    sleep(asked_to_wait(&status)).await;
                    false
                }
                Err(failure) => return Err(failure),
            };
            if !at_once {
                sleep(watching.pauses.next().unwrap_or(PAUSES.1)).await;
            }
        }
    }
}

impl Watching {
    async fn stream(&mut self) -> Result<Next, Failure> {
        let (requests, asked) = mpsc::unbounded_channel();
        let ask = |kind| {
            // Where the stream has ended, that is heard.
            _ = requests.send(v1::WatchConfigsRequest { kind: Some(kind) });
        };
        ask(Asking::Subscribe(self.subscribe()));
        let answers = self.client.watch_configs(UnboundedReceiverStream::new(asked)).await?;
        let mut answers = answers.into_inner();
        let mut silence = SILENCE;
        let mut closes_at: Option<Instant> = None;
        loop {
            let message = tokio::select! {
                message = timeout(silence, answers.message()) => message,
                () = until(closes_at) => return Ok(Next::Again { at_once: true }),
            };
            let Ok(message) = message else {
                note("nothing was heard for too long; watching again")?;
                return Ok(Next::Again { at_once: false });
            };
            let Some(kind) = message?.and_then(|message| message.kind) else {
                return Ok(Next::Again { at_once: false });
            };
            match kind {
                Kind::Session(Session { progress_interval, .. }) => {
                    let interval = progress_interval.and_then(|interval| Duration::try_from(interval).ok());
                    silence = interval.map_or(SILENCE, |interval| 3 * interval);
                }
                Kind::Put(config) => {
                    self.held.insert(config.key.clone(), config.etag.clone());
                    self.tell_put(&config)?;
                    self.hand_over(Event::put(config), &ask).await?;
                }
                Kind::Removed(removed) => {
                    self.held.remove(&removed.key);
                    self.tell_removed(&removed)?;
                    self.hand_over(Event::removed(removed), &ask).await?;
                }
                Kind::Synced(Synced { stale }) => {
                    self.pauses = Box::new(backoff(PAUSES));
                    self.tell("synced", json!({ "stale": stale }), "all that stands has been told")?;
                    if self.watch.once {
                        return Ok(Next::Done);
                    }
                }
                Kind::Progress(Progress { stale, .. }) if stale != self.is_stale => {
                    self.is_stale = stale;
                    let about = if stale {
                        "a store is out of reach"
                    } else {
                        "all stores are within reach again"
                    };
                    self.tell("progress", json!({ "stale": stale }), about)?;
                }
                Kind::Progress(_) => {}
                Kind::Resync(_) => self.tell("resync", json!({}), "everything is compared anew")?,
                Kind::Closing(Closing { delay }) => {
                    let delay = delay
                        .and_then(|delay| Duration::try_from(delay).ok())
                        .unwrap_or_default();
                    closes_at = Some(Instant::now() + delay);
                }
                Kind::Ended(Ended { failure }) => return Err(as_status(failure.unwrap_or_default()).into()),
            }
        }
    }

    fn subscribe(&self) -> Subscribe {
        let known = self.held.iter().take(KNOWN);
        Subscribe {
            id: ID.to_owned(),
            prefixes: self.watch.prefixes.clone(),
            keys: self.watch.keys.clone(),
            context: self.watch.context.message(),
            known_etags: known.map(|(key, etag)| (key.clone(), etag.clone())).collect(),
            keys_only: self.watch.keys_only,
        }
    }

    fn tell_put(&self, config: &v1::Config) -> Result<(), Failure> {
        match (self.watch.gateway.output(), self.watch.keys_only) {
            (Output::Text, _) => client::print_line(config),
            (Output::Json, true) => print("put", client::object(config)),
            (Output::Json, false) => print("put", client::object_with_value(config)),
        }
    }

    fn tell_removed(&self, Removed { key, etag }: &Removed) -> Result<(), Failure> {
        match self.watch.gateway.output() {
            Output::Text => Ok(writeln!(io::stdout(), "{key:<48} removed")?),
            Output::Json => print("removed", fields(json!({ "key": key, "etag": etag }))),
        }
    }

    /// Something that is about no key.
    fn tell(&self, event: &str, object: Value, words: &str) -> Result<(), Failure> {
        match self.watch.gateway.output() {
            Output::Text => note(words),
            Output::Json => print(event, fields(object)),
        }
    }

    /// Runs the command, if there is one, and tells the gateway how that went.
    async fn hand_over(&self, event: Event, ask: &impl Fn(Asking)) -> Result<(), Failure> {
        let Some(command) = self.watch.exec.clone() else {
            return Ok(());
        };
        let (key, etag) = (event.key.clone(), event.etag.clone());
        // Elsewhere, so that pings are answered however long it takes.
        let ran = tokio::task::spawn_blocking(move || event.run(&command)).await;
        let error = match ran.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => String::new(),
            Err(error) => {
                note(&format!("{key}: {error}"))?;
                error
            }
        };
        ask(Asking::Ack(Ack {
            key,
            etag,
            error,
            subscription_id: ID.to_owned(),
        }));
        Ok(())
    }
}

fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn print(event: &str, mut object: Map<String, Value>) -> Result<(), Failure> {
    object.insert("event".to_owned(), json!(event));
    client::print(object)
}

fn note(words: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stderr(), "tagway: {words}")?)
}

/// Whether another stream may fare better.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

fn asked_to_wait(status: &Status) -> Duration {
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    retry.unwrap_or_default()
}

/// What ended a subscription, as if it had ended a call.
fn as_status(failure: v1::Failure) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(failure.reason, "tagway", HashMap::new());
    if let Some(delay) = failure.retry_delay.and_then(|delay| Duration::try_from(delay).ok()) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(Code::from_i32(failure.code), failure.message, details)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
