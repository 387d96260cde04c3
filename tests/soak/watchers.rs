//! Who watches: each tenant through each replica, whichever process that is at the time, for as long as the soak goes on. A watcher comes
//! back with what it holds, and is then told what differs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagway_proto::v1::Config;
use tagway_proto::v1::watch_configs_request::Subscribe;
use tagway_proto::v1::watch_configs_response::Kind;
use tagway_tests::validators::agreement::Held;
use tagway_tests::validators::ledger::State;
use tagway_tests::validators::timeline::{Call, Outcome, Store, Trouble};
use tagway_tests::watcher::Watcher;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::caller::Caller;
use crate::fleet::tag;
use crate::{REPLICAS, Soak, TENANTS};

/// Three times the interval of progress, after which silence is no idleness.
const SILENCE: Duration = Duration::from_secs(45);
const SUBSCRIPTION: &str = "all";

/// One of them, as others see it.
pub(super) struct Watching {
    pub(super) tenant: &'static str,
    pub(super) replica: usize,
    held: Arc<Mutex<Held>>,
    leave: watch::Sender<()>,
}

impl Watching {
    /// What it holds now.
    pub(super) fn held(&self) -> Held {
        self.held.lock().expect("no panic under the lock").clone()
    }

    /// Has it hang up, and come back.
    pub(super) fn leave(&self) {
        self.leave.send_replace(());
    }
}

/// Starts all of them.
pub(super) fn start(soak: &Arc<Soak>, tasks: &mut JoinSet<()>) -> Arc<[Watching]> {
    let mut watchers = Vec::new();
    for tenant in TENANTS {
        for replica in 0..REPLICAS {
            let (held, leave) = (Arc::default(), watch::Sender::new(()));
            let follower = Follower {
                caller: Caller::new(soak, tenant, replica),
                soak: Arc::clone(soak),
                held: Arc::clone(&held),
                leave: leave.subscribe(),
            };
            tasks.spawn(follower.follow());
            watchers.push(Watching {
                tenant,
                replica,
                held,
                leave,
            });
        }
    }
    watchers.into()
}

struct Follower {
    caller: Caller,
    soak: Arc<Soak>,
    held: Arc<Mutex<Held>>,
    leave: watch::Receiver<()>,
}

impl Follower {
    async fn follow(mut self) {
        let mut known = BTreeMap::new();
        loop {
            let client = self.caller.client().await;
            let Ok(mut watcher) = Watcher::open(&client).await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            watcher.held = known;
            watcher.subscribe(Subscribe {
                id: SUBSCRIPTION.to_owned(),
                prefixes: [Store::DynamoDb, Store::ParameterStore]
                    .map(|store| tag(store).to_owned())
                    .into(),
                known_etags: watcher.known(SUBSCRIPTION),
                ..Subscribe::default()
            });
            let stream = self.soak.judges.bench().order.begins();
            let wait = self.listen(&mut watcher, stream).await;
            self.soak.judges.bench().order.ends(stream);
            known = std::mem::take(&mut watcher.held);
            drop(watcher);
            sleep(wait).await;
        }
    }

    /// Until the stream ends, or it is to hang up. Returns when to come back.
    async fn listen(&mut self, watcher: &mut Watcher, stream: u64) -> Duration {
        let whose = format!("{}'s watch through replica {}", self.caller.tenant, self.caller.replica);
        let mut closing = None;
        loop {
            let next = tokio::select! {
                _ = self.leave.changed() => return Duration::ZERO,
                next = timeout(SILENCE, watcher.any()) => next,
            };
            let kind = match next {
                Ok(Ok((_, kind))) => kind,
                Ok(Err(status)) => {
                    self.ended(&whose, closing.is_some(), &status);
                    return closing.unwrap_or_default();
                }
                Err(_) => {
                    let silent = format!("{whose} was silent for {SILENCE:?}");
                    self.soak.judges.bench().convergence.broken(silent);
                    return Duration::ZERO;
                }
            };
            match kind {
                Kind::Put(config) => self.told(stream, &config),
                Kind::Closing(told) => {
                    closing = told
                        .delay
                        .and_then(|delay| delay.try_into().ok())
                        .or(Some(Duration::ZERO));
                }
                Kind::Ended(ended) => {
                    let broken = format!("{whose} ended: {:?}", ended.failure);
                    self.soak.judges.bench().convergence.broken(broken);
                    return Duration::ZERO;
                }
                _ => {}
            }
            let held = watcher.held.iter();
            let held = held.map(|((_, key), config)| (key.clone(), config.etag.clone()));
            *self.held.lock().expect("no panic under the lock") = held.collect();
        }
    }

    fn told(&self, stream: u64, config: &Config) {
        let mut bench = self.soak.judges.bench();
        bench.isolation.saw(self.caller.tenant, &config.key, &config.value);
        bench.order.told(stream, &config.key, State::of(&config.etag));
    }

    /// A gateway that goes says so first, unless it is killed.
    fn ended(&self, whose: &str, was_told: bool, status: &Status) {
        let end = Call {
            what: whose.to_owned(),
            replica: self.caller.replica,
            stores: Vec::new(),
            sent: Instant::now(),
            done: Instant::now(),
            outcome: Outcome::Failed(String::new()),
        };
        let mut bench = self.soak.judges.bench();
        if !bench
            .timeline
            .met(&end, |trouble| trouble == Trouble::Kill(end.replica))
        {
            let breach = format!("{whose} ended without being told to come back: {status:?}");
            bench.drain.held((!was_told).then_some(breach));
        }
    }
}
