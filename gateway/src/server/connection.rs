//! Connections: so many at once, each of which has to say something soon, takes what it asked for, and has an end. Nobody has to have a token
//! to connect, so this is where peers are bounded of whom nothing is known.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use futures_util::task::AtomicWaker;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use crate::quota::{Connected as CountedConnection, Share};
use crate::settings::{LimitSettings, ServerSettings};
use crate::tls::Certificates;

/// Between two connections that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that were let in and wait to be served.
const LET_IN: usize = 64;
/// So many bytes are a greeting: HTTP/2's preface (RFC 9113, 3.4), or the least of an HTTP/1.1 request.
const GREETING: usize = 24;
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
    taken: Duration,
    lifetime: Duration,
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

    /// Who comes to `listener` and is let in. A handshake keeps nobody waiting but its own peer. Dropped, it listens no more.
    pub(super) fn accept(self, listener: TcpListener) -> BoxStream<'static, Result<Connection, Infallible>> {
        let (let_in, connections) = mpsc::channel(LET_IN);
        let accepting = AbortOnDropHandle::new(tokio::spawn(self.accept_all(listener, let_in)));
        let connections =
            futures_util::stream::unfold((connections, accepting), async |(mut connections, accepting)| {
                let connection = connections.recv().await?;
                Some((Ok(connection), (connections, accepting)))
            });
        connections.boxed()
    }

    async fn accept_all(self, listener: TcpListener, let_in: mpsc::Sender<Connection>) {
        loop {
            let (socket, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Without descriptors `accept` fails at once, and would again: a moment's rest, so that it does not spin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.place() else {
                continue;
            };
            let peer = Peer {
                address,
                places: Arc::clone(&self.places),
                dealings: Arc::default(),
            };
            self.strangers.add(&peer.dealings, self.most);
            let (door, let_in) = (self.clone(), let_in.clone());
            // Apart, so that many do theirs on all processors. Each has a place, or has had another give up its own.
            tokio::spawn(async move {
                if let Some(place) = place.await
                    && let Some(connection) = door.greet(socket, peer, place).await
                {
                    // Nobody takes it any more who serves no more.
                    _ = let_in.send(connection).await;
                }
            });
        }
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
                    () = peer.dealings.until_evicted() => Err("for another"),
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
        let open = self.metrics.open.get_or_create_owned(&[("listener", self.name)]);
        open.inc();
        Some(Connection {
            socket,
            peer,
            heard: 0,
            timer: Box::pin(sleep_until(by)),
            end: Instant::now() + self.lifetime,
            door: self,
            open,
            _place: place,
        })
    }

    fn refuse(&self, why: &'static str) {
        let refused = &self.metrics.refused;
        refused.get_or_create(&[("listener", self.name), ("reason", why)]).inc();
    }

    fn cut(&self, why: &'static str, peer: SocketAddr) -> io::Error {
        tracing::debug!(%peer, why, listener = self.name, "a connection is cut");
        let cut = &self.metrics.cut;
        cut.get_or_create(&[("listener", self.name), ("reason", why)]).inc();
        io::ErrorKind::TimedOut.into()
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    places: Arc<Semaphore>,
    dealings: Arc<Dealings>,
}

impl Peer {
    /// One more answer is on its way there, until this is dropped.
    pub(super) fn answer(&self) -> Answer {
        let half = self.dealings.half.load(Ordering::Relaxed);
        self.dealings.answers[half].fetch_add(1, Ordering::Relaxed);
        Answer {
            dealings: Arc::clone(&self.dealings),
            half,
        }
    }

    /// It has shown whose it is. It is that tenant's as far as that one has not more of them than are left for others.
    pub(super) fn is_of(&self, share: impl FnOnce() -> Arc<Share>) {
        if self.dealings.known.load(Ordering::Relaxed) {
            return;
        }
        if let Some(connection) = share().connection(self.places.available_permits() as u64)
            && self.dealings.tenant.set(connection).is_ok()
        {
            self.dealings.known.store(true, Ordering::Relaxed);
        }
    }

    /// It has shown that it may administrate.
    pub(super) fn is_an_operators(&self) {
        self.dealings.known.store(true, Ordering::Relaxed);
    }
}

/// What there is between a peer and the gateway.
#[derive(Debug, Default)]
struct Dealings {
    /// Answers that the peer has yet to take, in two halves: those that began since the last look, and those before.
    answers: [AtomicUsize; 2],
    half: AtomicUsize,
    known: AtomicBool,
    /// Whose it is, while it is counted.
    tenant: OnceLock<CountedConnection>,
    /// It has to make room.
    evicted: AtomicBool,
    connection: AtomicWaker,
}

impl Dealings {
    /// Whether some were there at the last look already; and looks.
    fn are_not_taken(&self) -> bool {
        let before = 1 - self.half.load(Ordering::Relaxed);
        if self.answers[before].load(Ordering::Relaxed) > 0 {
            return true;
        }
        self.half.store(before, Ordering::Relaxed);
        false
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.connection.wake();
    }

    /// Whether it has to make room. Who has shown meanwhile whose it is has not.
    fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire) && !self.known.load(Ordering::Relaxed)
    }

    async fn until_evicted(&self) {
        poll_fn(|context| {
            self.connection.register(context.waker());
            if self.is_evicted() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// Those who have not shown yet whose they are, the longest there first.
#[derive(Debug, Default)]
struct Strangers(Mutex<VecDeque<Weak<Dealings>>>);

impl Strangers {
    fn add(&self, dealings: &Arc<Dealings>, at_most: usize) {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= 2 * at_most {
            strangers.retain(|stranger| {
                stranger
                    .upgrade()
                    .is_some_and(|stranger| !stranger.known.load(Ordering::Relaxed))
            });
        }
        strangers.push_back(Arc::downgrade(dealings));
    }

    /// Has the one that was there for longest go. False: there is none.
    fn evict_one(&self) -> bool {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(stranger) = strangers.pop_front() {
            if let Some(stranger) = stranger
                .upgrade()
                .filter(|stranger| !stranger.known.load(Ordering::Relaxed))
            {
                stranger.evict();
                return true;
            }
        }
        false
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    dealings: Arc<Dealings>,
    half: usize,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.dealings.answers[self.half].fetch_sub(1, Ordering::Relaxed);
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One connection.
pub(super) struct Connection {
    socket: Socket,
    peer: Peer,
    /// Bytes, until they are a greeting.
    heard: usize,
    /// When it is to be looked at.
    timer: Pin<Box<Sleep>>,
    /// When it is cut.
    end: Instant,
    door: Door,
    open: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Connection {
    /// The address at the other end.
    pub(super) fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// Fails when it has to end; otherwise it has been looked at and will be again. Whatever the connection waits for, to read or to
    /// write, it comes by here.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let dealings = &self.peer.dealings;
        dealings.connection.register(context.waker());
        if dealings.is_evicted() {
            return Err(self.door.cut("for another", self.peer.address));
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let why = if self.heard < GREETING {
                "silent"
            } else if now >= self.end {
                "old"
            } else if self.peer.dealings.are_not_taken() {
                "answers not taken"
            } else {
                self.timer.as_mut().reset(self.end.min(now + self.door.taken));
                continue;
            };
            return Err(self.door.cut(why, self.peer.address));
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.look(context)?;
        let before = into.filled().len();
        ready!(match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(context, into),
            Socket::Tls(socket) => Pin::new(socket).poll_read(context, into),
        })?;
        if this.heard < GREETING {
            this.heard += into.filled().len() - before;
            if this.heard >= GREETING {
                this.timer
                    .as_mut()
                    .reset(this.end.min(Instant::now() + this.door.taken));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.look(context)?;
        match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.look(context)?;
        match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(context),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.look(context)?;
        match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.look(context)?;
        match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Tls(socket) => socket.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
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
            connections: door.accept(listener),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_missed_at_the_second_look() {
        let peer = Peer {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            places: Arc::new(Semaphore::new(1)),
            dealings: Arc::default(),
        };
        let answers = Arc::clone(&peer.dealings);
        assert!(!answers.are_not_taken());
        let slow = peer.answer();
        assert!(!answers.are_not_taken(), "it may have begun just now");
        for _ in 0..3 {
            drop(peer.answer());
        }
        assert!(answers.are_not_taken());
        drop(slow);
        assert!(!answers.are_not_taken());
        // Each is taken before the second look.
        let mut last = peer.answer();
        for _ in 0..5 {
            assert!(!answers.are_not_taken());
            last = peer.answer();
        }
        drop(last);
    }
}
