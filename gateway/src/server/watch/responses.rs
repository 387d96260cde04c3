//! What goes to a client: its messages, and how its stream ended.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tagway_proto::v1;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::Status;

use crate::quota::Stream as CountedStream;
use crate::server::status;
use crate::watch::{Outgoing, Stream as Seen};

type Response = v1::WatchConfigsResponse;

/// What goes to the client: messages, until there is a status.
pub(in crate::server) struct Responses {
    pub(super) outgoing: Outgoing<Response>,
    pub(super) ended: Option<oneshot::Receiver<Status>>,
    pub(super) stream: Arc<Seen>,
    /// Its place among its tenant's streams, until nobody takes anything of it any more.
    pub(super) _counted: CountedStream,
}

impl Stream for Responses {
    type Item = Result<Response, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(ended) = &mut self.ended else {
            return Poll::Ready(None);
        };
        // First of all: what is on the way behind a token that is over is not for its bearer.
        if let Poll::Ready(status) = Pin::new(ended).poll(context) {
            self.ended = None;
            self.outgoing.close();
            let status = status.unwrap_or_else(|_| status::internal("the stream broke down"));
            return Poll::Ready(Some(Err(status)));
        }
        match ready!(self.outgoing.poll_next(context)) {
            Some(message) => {
                self.stream.was_sent_one();
                Poll::Ready(Some(Ok(message)))
            }
            // The status is about to come.
            None => Poll::Pending,
        }
    }
}
