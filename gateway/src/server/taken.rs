//! An answer is under way until its last byte has gone to its client, or the client has: what it holds, it holds so long.
//!
//! That its body was handed over is not enough: HTTP/2 keeps what a client has no window for, without a bound.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Bytes of a part.
const PART: usize = 16 << 10;

/// How long an answer lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// One message, which is soon taken.
    Shortly,
    /// As long as its client wants.
    Long,
    /// So too, and it is counted and bounded by itself.
    OnItsOwn,
}

impl Lasts {
    pub(super) fn of(request: &Request<Body>) -> Self {
        match request.uri().path() {
            "/tagway.v1.ConfigService/WatchConfigs" => Self::OnItsOwn,
            "/grpc.health.v1.Health/Watch" | "/tagway.v1.AdminService/BackupStore" => Self::Long,
            path if path.ends_with("/ServerReflectionInfo") => Self::Long,
            _ => Self::Shortly,
        }
    }
}

/// Keeps `held` until what `response` holds has gone, or is dropped.
pub(super) fn hold<T: Send + Sync + 'static>(response: Response<Body>, held: T) -> Response<Body> {
    // An error has no body.
    if response.body().is_end_stream() {
        return response;
    }
    let held = Arc::new(held);
    response.map(|body| Body::new(Held { body, held }))
}

struct Held<T> {
    body: Body,
    held: Arc<T>,
}

/// Has each part of what `response` holds hold what `hold` gives until it has gone. A part is small, so that whoever takes anything is seen to.
pub(super) fn each<T: Send + Sync + 'static>(
    response: Response<Body>,
    hold: impl Fn() -> T + Send + Unpin + 'static,
) -> Response<Body> {
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|body| {
        let rest = Bytes::new();
        Body::new(Each { body, rest, hold })
    })
}

/// The same bytes, which hold that until they have gone.
pub(super) fn holding<T: Send + Sync + 'static>(bytes: Bytes, held: T) -> Bytes {
    Bytes::from_owner(OnTheWay { bytes, _held: held })
}

struct Each<F> {
    body: Body,
    /// Of what came of it last.
    rest: Bytes,
    hold: F,
}

/// Bytes on their way.
struct OnTheWay<T> {
    bytes: Bytes,
    _held: T,
}

impl<T> AsRef<[u8]> for OnTheWay<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Send + Sync + 'static> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let on_the_way = |bytes| holding(bytes, Arc::clone(&self.held));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(on_the_way))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<T: Send + Sync + 'static, F: Fn() -> T + Unpin> http_body::Body for Each<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(None);
            };
            match frame?.into_data() {
                Ok(bytes) => self.rest = bytes,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let part = PART.min(self.rest.len());
        let part = self.rest.split_to(part);
        let part = holding(part, (self.hold)());
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}
