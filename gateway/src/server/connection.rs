//! A connection: its peer has to say something soon, takes what it asked for, and has an end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::door::{Door, Open};
use super::peer::Peer;

/// So many bytes are a greeting: HTTP/2's preface (RFC 9113, 3.4), or the least of an HTTP/1.1 request.
const GREETING: usize = 24;

/// As it comes, or encrypted.
pub(super) enum Socket {
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
    _open: Open,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// One that was let in, and has to have said something `by` then.
    pub(super) fn new(socket: Socket, peer: Peer, place: OwnedSemaphorePermit, by: Instant, door: Door) -> Self {
        Self {
            socket,
            peer,
            heard: 0,
            timer: Box::pin(sleep_until(by)),
            end: Instant::now() + door.lifetime,
            _open: door.open(),
            door,
            _place: place,
        }
    }

    /// The address at the other end.
    pub(super) fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// Fails when it has to end; otherwise it has been looked at and will be again. Whatever the connection waits for, to read or to
    /// write, it comes by here.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.peer.has_to_go(context) {
            return Err(self.door.cut("for another", self.peer.address));
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let why = if self.heard < GREETING {
                "silent"
            } else if now >= self.end {
                "old"
            } else if self.peer.takes_no_answers() {
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
