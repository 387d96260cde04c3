//! One stream of `WatchConfigs`, from its first message to its end or to the silence that is as good as one.

use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Ack, Kind as Asking, Subscribe, Unsubscribe};
use tagway_proto::v1::watch_configs_response::{Closing, Kind, Session};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::super::client::{CALL, Gateway};
use super::super::failure::Failure;

/// Between two messages, where the gateway does not say.
const PROGRESS: Duration = Duration::from_secs(15);
/// For the last word on what has been told already.
const FINISH: Duration = Duration::from_secs(5);

/// A stream that is open.
pub(super) struct Stream {
    requests: mpsc::UnboundedSender<v1::WatchConfigsRequest>,
    responses: Streaming<v1::WatchConfigsResponse>,
    /// The longest that a living one says nothing.
    silence: Duration,
    /// When it will be cut, once it was told so.
    closes_at: Option<Instant>,
}

impl Stream {
    /// A connection of its own for each: behind one address there may be another gateway.
    pub(super) async fn open(gateway: &Gateway) -> Result<Self, Failure> {
        let mut client = gateway.connect_to_watch().await?;
        let (requests, asked) = mpsc::unbounded_channel();
        let opening = async {
            let mut responses = client
                .watch_configs(UnboundedReceiverStream::new(asked))
                .await?
                .into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first.and_then(|first| first.kind)))
        };
        let late = |_| Status::unavailable("the gateway does not answer");
        let (responses, first) = timeout(CALL, opening).await.map_err(late)??;
        let interval = match first {
            Some(Kind::Session(Session { progress_interval, .. })) => progress_interval,
            _ => None,
        };
        let interval = interval.and_then(|interval| interval.try_into().ok());
        Ok(Self {
            requests,
            responses,
            silence: 3 * interval
                .filter(|interval| *interval > Duration::ZERO)
                .unwrap_or(PROGRESS),
            closes_at: None,
        })
    }

    pub(super) fn subscribe(&self, subscribe: Subscribe) {
        self.ask(Asking::Subscribe(subscribe));
    }

    pub(super) fn acknowledge(&self, ack: Ack) {
        self.ask(Asking::Ack(ack));
    }

    fn ask(&self, kind: Asking) {
        // Where the stream has ended, that is told.
        _ = self.requests.send(v1::WatchConfigsRequest { kind: Some(kind) });
    }

    /// What it says next, of the kinds that there were when this was written.
    pub(super) async fn next(&mut self) -> Result<Kind, Status> {
        loop {
            let silent_at = Instant::now() + self.silence;
            let until = self.closes_at.map_or(silent_at, |at| at.min(silent_at));
            let Ok(next) = timeout_at(until, self.responses.message()).await else {
                return Err(Status::unavailable(match self.closes_at {
                    Some(_) => "the gateway closes the stream",
                    None => "the gateway has fallen silent",
                }));
            };
            let Some(message) = next? else {
                return Err(Status::unavailable("the stream has ended"));
            };
            if let Some(Kind::Closing(Closing { delay })) = &message.kind {
                let delay = delay.and_then(|delay| delay.try_into().ok()).unwrap_or_default();
                self.closes_at = Some(Instant::now() + delay);
            }
            if let Some(kind) = message.kind {
                return Ok(kind);
            }
        }
    }

    /// How long it would have had, where it was told to go: nobody is to come back before that.
    pub(super) fn until_closed(&self) -> Duration {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        self.closes_at.map(left).unwrap_or_default()
    }

    /// Waits until the gateway has read everything that was said to it: what it answers, it answers in order.
    pub(super) async fn finish(&mut self) {
        self.ask(Asking::Unsubscribe(Unsubscribe {
            id: super::ID.to_owned(),
        }));
        let ended = async { while !matches!(self.next().await, Ok(Kind::Ended(_)) | Err(_)) {} };
        // Everything was told; a gateway that is gone by now takes nothing from that.
        _ = timeout(FINISH, ended).await;
    }
}
