//! Who is let in: so many connections at once, each of which has to say something soon. Nobody has to have a token to connect, so this
//! is where peers are bounded of whom nothing is known.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Socket};
use super::peer::{Peer, Strangers};
use crate::settings::{LimitSettings, ServerSettings};
use crate::tls::Certificates;

/// Between two connections that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Who is still let in when the door closes: as many as wait in the system at most, so that new ones do not keep it open.
const WAITING: usize = 4096;
/// For handshakes that are under way when the door closes.
const LAST_GREETINGS: Duration = Duration::from_secs(1);
/// Connections that were let in and wait to be served.
const LET_IN: usize = 64;
/// An answer that was not taken for so many times what a request may take, or up to twice that, ends its connection: who takes
/// none keeps them in our memory.
const TAKEN: u32 = 3;
/// Probes and scrapers at once, and operators' connections.
const OPERATORS: usize = 256;

/// What is counted of all connections.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    open: Family<[(&'static str, &'static str); 1], Gauge>,
    refused: Family<[(&'static str, &'static str); 2], Counter>,
    cut: Family<[(&'static str, &'static str); 2], Counter>,
}

impl ConnectionMetrics {
    /// Has `registry` tell them, what never happened among them.
    pub fn register(&self, registry: &mut Registry) {
        for listener in ["grpc", "admin", "ops"] {
            for reason in ["full", "handshake", "silent", "for another"] {
                drop(
                    self.refused
                        .get_or_create(&[("listener", listener), ("reason", reason)]),
                );
            }
            for reason in ["silent", "old", "answers not taken", "for another"] {
                drop(self.cut.get_or_create(&[("listener", listener), ("reason", reason)]));
            }
        }
        registry.register("connections", "Connections that are open, by where", self.open.clone());
        let refused = "Connections that were not taken, by where and why";
        registry.register("connections_refused", refused, self.refused.clone());
        let cut = "Connections that the gateway ended without being asked, by where and why";
        registry.register("connections_cut", cut, self.cut.clone());
    }
}

/// The rules of one listener.
#[derive(Clone)]
pub struct Door {
    name: &'static str,
    most: usize,
    places: Arc<Semaphore>,
    /// Peers for whom another has to make room.
    waiting: Arc<AtomicUsize>,
    strangers: Arc<Strangers>,
    handshake: Duration,
    /// For an answer to be taken.
    pub(super) taken: Duration,
    /// Of a connection, at most.
    pub(super) lifetime: Duration,
    certificates: Option<Arc<Certificates>>,
    metrics: ConnectionMetrics,
}

impl Door {
    /// Where tenants call.
    #[must_use]
    pub fn tenants(
        server: &ServerSettings,
        limits: &LimitSettings,
        certificates: Option<Arc<Certificates>>,
        metrics: &ConnectionMetrics,
    ) -> Self {
        Self::new(
            "grpc",
            limits.connections as usize,
            server,
            limits,
            certificates,
            metrics,
        )
    }

    /// Where operators call.
    #[must_use]
    pub fn operators(
        server: &ServerSettings,
        limits: &LimitSettings,
        certificates: Option<Arc<Certificates>>,
        metrics: &ConnectionMetrics,
    ) -> Self {
        Self::new("admin", OPERATORS, server, limits, certificates, metrics)
    }

    /// Where probes and scrapers call, without TLS.
    #[must_use]
    pub fn probes(server: &ServerSettings, limits: &LimitSettings, metrics: &ConnectionMetrics) -> Self {
        Self::new("ops", OPERATORS, server, limits, None, metrics)
    }

    fn new(
        name: &'static str,
        most: usize,
        server: &ServerSettings,
        limits: &LimitSettings,
        certificates: Option<Arc<Certificates>>,
        metrics: &ConnectionMetrics,
    ) -> Self {
        // It is told to go before, and its streams are: this is for who does not go.
        let lifetime = server.max_connection_age + server.max_connection_grace + limits.request_timeout;
        let most = most.min(Semaphore::MAX_PERMITS / 2);
        Self {
            name,
            most,
            places: Arc::new(Semaphore::new(most)),
            waiting: Arc::default(),
            strangers: Arc::default(),
            handshake: limits.handshake,
            taken: limits.request_timeout * TAKEN,
            lifetime,
            certificates,
            metrics: metrics.clone(),
        }
    }

    /// Who comes to `listener` and is let in, until `close`, and then who was there by then. A handshake keeps nobody waiting but its own
    /// peer. Dropped, it listens no more.
    pub(super) fn accept(
        self,
        listener: TcpListener,
        close: CancellationToken,
    ) -> BoxStream<'static, Result<Connection, Infallible>> {
        let (let_in, connections) = mpsc::channel(LET_IN);
        let accepting = AbortOnDropHandle::new(tokio::spawn(self.accept_all(listener, let_in, close)));
        let connections =
            futures_util::stream::unfold((connections, accepting), async |(mut connections, accepting)| {
                let connection = connections.recv().await?;
                Some((Ok(connection), (connections, accepting)))
            });
        connections.boxed()
    }

    async fn accept_all(self, listener: TcpListener, let_in: mpsc::Sender<Connection>, close: CancellationToken) {
        let mut greetings = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, address)) => self.admit(socket, address, &let_in, &mut greetings),
                    Err(error) => {
                        // Without descriptors `accept` fails at once, and would again: a moment's rest, so that it does not spin.
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = greetings.join_next() => {}
                () = close.cancelled() => break,
            }
        }
        // Whose connection stands already has sent a request, or is about to: to close the door on it would reset it. It is let in, and told
        // to go as all others are.
        for (socket, address) in waiting(listener) {
            self.admit(socket, address, &let_in, &mut greetings);
        }
        drop(let_in);
        _ = timeout(LAST_GREETINGS, greetings.join_all()).await;
    }

    fn admit(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        let_in: &mpsc::Sender<Connection>,
        greetings: &mut JoinSet<()>,
    ) {
        let Some(place) = self.place() else {
            return;
        };
        let peer = Peer::new(address, &self.places);
        self.strangers.add(&peer, self.most);
        let (door, let_in) = (self.clone(), let_in.clone());
        // Apart, so that many do theirs on all processors. Each has a place, or has had another give up its own.
        greetings.spawn(async move {
            if let Some(place) = place.await
                && let Some(connection) = door.greet(socket, peer, place).await
            {
                // Nobody takes it any more who serves no more.
                _ = let_in.send(connection).await;
            }
        });
    }

    /// A place for one more; where all are taken, that of the stranger who was there for longest. Without any it is closed at once, so that its
    /// peer goes to another replica.
    fn place(&self) -> Option<impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static> {
        // What becomes free while others wait was made free for them.
        let waiting = self.waiting.load(Ordering::SeqCst);
        let place = (waiting == 0)
            .then(|| Arc::clone(&self.places).try_acquire_owned().ok())
            .flatten();
        // Who waits takes a descriptor too, so no more wait than there are places.
        if place.is_none() && (waiting >= self.most || !self.strangers.evict_one()) {
            self.refuse("full");
            return None;
        }
        if place.is_none() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        let door = self.clone();
        Some(async move {
            if place.is_some() {
                return place;
            }
            let freed = timeout(door.handshake, Arc::clone(&door.places).acquire_owned()).await;
            let freed = freed.ok().and_then(Result::ok);
            door.waiting.fetch_sub(1, Ordering::SeqCst);
            if freed.is_none() {
                door.refuse("full");
            }
            freed
        })
    }

    async fn greet(self, socket: TcpStream, peer: Peer, place: OwnedSemaphorePermit) -> Option<Connection> {
        let by = Instant::now() + self.handshake;
        // Answers are small and wanted at once; where the system refuses, they come all the same.
        _ = socket.set_nodelay(true);
        let socket = match &self.certificates {
            None => Socket::Plain(socket),
            Some(certificates) => {
                let handshake = TlsAcceptor::from(certificates.config()).accept(socket);
                let shaken = tokio::select! {
                    shaken = timeout_at(by, handshake) => shaken.map_err(|_| "silent"),
                    () = peer.until_evicted() => Err("for another"),
                };
                let shaken = shaken.and_then(|shaken| {
                    shaken.map_err(|error| {
                        tracing::debug!(address = %peer.address, %error, "a TLS handshake failed");
                        "handshake"
                    })
                });
                match shaken {
                    Ok(socket) => Socket::Tls(Box::new(socket)),
                    Err(why) => {
                        self.refuse(why);
                        return None;
                    }
                }
            }
        };
        Some(Connection::new(socket, peer, place, by, self))
    }

    fn refuse(&self, why: &'static str) {
        let refused = &self.metrics.refused;
        refused.get_or_create(&[("listener", self.name), ("reason", why)]).inc();
    }

    /// Counts one more that is open, until this is dropped.
    pub(super) fn open(&self) -> Open {
        let open = self.metrics.open.get_or_create_owned(&[("listener", self.name)]);
        open.inc();
        Open(open)
    }

    /// Counts one that the gateway ends, and says how its peer sees that.
    pub(super) fn cut(&self, why: &'static str, peer: SocketAddr) -> io::Error {
        tracing::debug!(%peer, why, listener = self.name, "a connection is cut");
        let cut = &self.metrics.cut;
        cut.get_or_create(&[("listener", self.name), ("reason", why)]).inc();
        io::ErrorKind::TimedOut.into()
    }
}

/// Who has connected to `listener` and was not accepted yet. It listens no more.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Where it cannot be had from the runtime there is nobody whom it could give.
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let next = || {
        let (socket, address) = listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(socket).ok()?, address))
    };
    // They are no more than the system keeps, however many come meanwhile.
    std::iter::from_fn(next).take(WAITING).collect()
}

/// One that is counted.
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The same for axum.
pub(super) struct Probes {
    connections: BoxStream<'static, Result<Connection, Infallible>>,
    address: SocketAddr,
}

impl Probes {
    pub(super) fn new(door: Door, listener: TcpListener) -> io::Result<Self> {
        Ok(Self {
            address: listener.local_addr()?,
            // Who probes comes again.
            connections: door.accept(listener, CancellationToken::new()),
        })
    }
}

impl axum::serve::Listener for Probes {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            if let Some(Ok(connection)) = self.connections.next().await {
                let address = connection.address();
                return (connection, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
