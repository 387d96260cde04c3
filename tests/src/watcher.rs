//! A client of `WatchConfigs`, and what it holds by what it was sent.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Ack, Kind as Asking, Renew, Subscribe, Unsubscribe};
use tagway_proto::v1::watch_configs_response::{Kind, Session};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Client;

/// How long anything may take, on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_mins(1);

/// One stream.
pub struct Watcher {
    requests: mpsc::UnboundedSender<v1::WatchConfigsRequest>,
    responses: Streaming<v1::WatchConfigsResponse>,
    /// What came first.
    pub session: Session,
    /// What stands, as far as it was told: by subscription and key.
    pub held: BTreeMap<(String, String), v1::Config>,
}

impl Watcher {
    /// Opens a stream, and reads who it is for.
    pub async fn open(client: &Client) -> Result<Self, Status> {
        let (requests, asked) = mpsc::unbounded_channel();
        let request = client.request(UnboundedReceiverStream::new(asked));
        let responses = client.grpc.clone().watch_configs(request).await?.into_inner();
        let mut watcher = Self {
            requests,
            responses,
            session: Session::default(),
            held: BTreeMap::new(),
        };
        match watcher.next().await? {
            (_, Kind::Session(session)) => watcher.session = session,
            other => panic!("{other:?} came first"),
        }
        Ok(watcher)
    }

    /// One that watches these already.
    pub async fn of(client: &Client, subscribe: Subscribe) -> Self {
        let mut watcher = Self::open(client).await.expect("a stream");
        let id = subscribe.id.clone();
        watcher.subscribe(subscribe);
        watcher.synced(&id).await;
        watcher
    }

    /// Says that.
    pub fn ask(&self, kind: Asking) {
        // Where the stream has ended, that is told.
        _ = self.requests.send(v1::WatchConfigsRequest { kind: Some(kind) });
    }

    /// Begins a subscription.
    pub fn subscribe(&self, subscribe: Subscribe) {
        self.ask(Asking::Subscribe(subscribe));
    }

    /// Ends one.
    pub fn unsubscribe(&self, id: &str) {
        self.ask(Asking::Unsubscribe(Unsubscribe { id: id.to_owned() }));
    }

    /// Says that it runs with that; or, where there is an `error`, that it does not.
    pub fn acknowledge(&self, id: &str, key: &str, etag: &str, error: &str) {
        self.ask(Asking::Ack(Ack {
            key: key.to_owned(),
            etag: etag.to_owned(),
            error: error.to_owned(),
            subscription_id: id.to_owned(),
        }));
    }

    /// Shows a newer token.
    pub fn renew(&self, token: &str) {
        self.ask(Asking::Renew(Renew {
            token: token.to_owned(),
        }));
    }

    /// Says that there is no more to say.
    pub fn half_close(&mut self) {
        let (requests, _) = mpsc::unbounded_channel();
        self.requests = requests;
    }

    /// The next message, but for progress: whose, and what. What it puts and removes is held or not from then on.
    pub async fn next(&mut self) -> Result<(String, Kind), Status> {
        loop {
            match self.any().await? {
                (_, Kind::Progress(_)) => {}
                other => return Ok(other),
            }
        }
    }

    /// The next message, whatever it is.
    pub async fn any(&mut self) -> Result<(String, Kind), Status> {
        let next = timeout(PATIENCE, self.responses.message()).await.expect("a message");
        let message = next?.expect("a stream ends with a status");
        let id = message.subscription_id;
        let kind = message.kind.expect("a kind that is known");
        match &kind {
            Kind::Put(config) => _ = self.held.insert((id.clone(), config.key.clone()), config.clone()),
            Kind::Removed(removed) => _ = self.held.remove(&(id.clone(), removed.key.clone())),
            _ => {}
        }
        Ok((id, kind))
    }

    /// Waits until a subscription has all that stands. Returns what came before that.
    pub async fn synced(&mut self, id: &str) -> Vec<(String, Kind)> {
        self.until(|from, kind| from == id && matches!(kind, Kind::Synced(_)))
            .await
    }

    /// Waits until something comes for which that holds. Returns what came before that.
    pub async fn until(&mut self, is_it: impl Fn(&str, &Kind) -> bool) -> Vec<(String, Kind)> {
        let mut before = Vec::new();
        loop {
            let (id, kind) = self.next().await.expect("the stream goes on");
            if is_it(&id, &kind) {
                return before;
            }
            before.push((id, kind));
        }
    }

    /// Waits until the value of a key is that.
    pub async fn shows(&mut self, id: &str, key: &str, value: Option<&str>) {
        while self.value(id, key).as_deref() != value {
            self.next().await.expect("the stream goes on");
        }
    }

    /// What is held of a key.
    #[must_use]
    pub fn value(&self, id: &str, key: &str) -> Option<String> {
        let config = self.held.get(&(id.to_owned(), key.to_owned()))?;
        Some(String::from_utf8(config.value.to_vec()).expect("text"))
    }

    /// What is held in a subscription: keys and etags, as another stream would say that they are known.
    #[must_use]
    pub fn known(&self, id: &str) -> HashMap<String, String> {
        let of_it = self.held.iter().filter(|((of, _), _)| of == id);
        of_it
            .map(|((_, key), config)| (key.clone(), config.etag.clone()))
            .collect()
    }

    /// Waits until the stream ends, and says how.
    pub async fn ends(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// A subscription to keys.
#[must_use]
pub fn to_keys(id: &str, keys: &[&str]) -> Subscribe {
    Subscribe {
        id: id.to_owned(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        ..Default::default()
    }
}

/// A subscription to a prefix.
#[must_use]
pub fn to_prefix(id: &str, prefix: &str) -> Subscribe {
    Subscribe {
        id: id.to_owned(),
        prefixes: vec![prefix.to_owned()],
        ..Default::default()
    }
}
