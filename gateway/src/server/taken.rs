//! An answer is under way until its client has taken it, or is gone: what it holds, it holds so long.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// The one method whose answer may last for weeks; its streams are counted and bounded by themselves.
const WATCH: &str = "/tagway.v1.ConfigService/WatchConfigs";

/// Whether the answer to `request` is one message, and so is soon taken.
pub(super) fn is_soon_taken(request: &Request<Body>) -> bool {
    request.uri().path() != WATCH
}

/// Keeps `held` until the body of `response` has been taken, or dropped.
pub(super) fn hold<T: Send + Unpin + 'static>(response: Response<Body>, held: T) -> Response<Body> {
    // An error has no body.
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::new(Held { body, _held: held }))
}

struct Held<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
