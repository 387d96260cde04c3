//! A tenant beyond its quota is told so before anything is done for it; and what it sends is weighed as it comes. What a single answer takes its
//! service knows; a stream waits until there is room for more of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::around::{Around, Next};
use super::in_flight::InFlight;
use super::status;
use super::taken::{self, Lasts};
use crate::identity::VerifiedTenant;
use crate::quota::{Exceeded, Kept, Quotas, Share};

/// Between two looks at whether there is room.
const PAUSE: Duration = Duration::from_millis(100);

/// Counts the requests of each tenant, which the layer around this has verified.
#[derive(Clone)]
pub(super) struct WithinQuota {
    pub(super) quotas: Arc<Quotas>,
    /// Where requests of all tenants have their places.
    pub(super) in_flight: InFlight,
}

impl Around for WithinQuota {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let Some(tenant) = request.extensions().get::<VerifiedTenant>() else {
            return next.run(request).await;
        };
        let share = self.quotas.of(tenant.id());
        let under_way = match share.request(self.in_flight.places() as u64) {
            Ok(under_way) => Arc::new(under_way),
            Err(exceeded) => return status::quota(exceeded).into_http(),
        };
        if Lasts::of(&request) != Lasts::Shortly {
            let sent = Arc::new(Sent::new(&share));
            let mut request = request;
            request.extensions_mut().insert(Arc::clone(&sent));
            let request = request.map(|body| {
                let count = move |bytes| sent.more(bytes);
                Body::new(Counted { body, count })
            });
            return next.run(request).await.map(|body| {
                let pause = None;
                Body::new(Paced { body, share, pause })
            });
        }
        // Until it has been answered.
        let held = Arc::clone(&under_way);
        let mut request = request;
        request.extensions_mut().insert(Arc::clone(&under_way));
        let request = request.map(|body| {
            let count = move |bytes| held.holds(bytes);
            Body::new(Counted { body, count })
        });
        taken::hold(next.run(request).await, under_way)
    }
}

/// What a tenant sends, counted as it comes.
struct Counted<F> {
    body: Body,
    count: F,
}

impl<F: Fn(u64) -> Result<(), Exceeded> + Unpin> http_body::Body for Counted<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let sent = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(sent) = sent
            && let Err(exceeded) = (self.count)(sent.len() as u64)
        {
            return Poll::Ready(Some(Err(status::quota(exceeded))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a tenant sends on a stream, message by message. What has come of one is kept until it is whole, and the room that the largest of them took
/// until the stream ends: tonic's decoder never gives it back.
pub(super) struct Sent {
    /// Of the message that comes.
    bytes: AtomicU64,
    most: AtomicU64,
    kept: Kept,
}

impl Sent {
    fn new(share: &Arc<Share>) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            most: AtomicU64::new(0),
            kept: share.kept(),
        }
    }

    fn more(&self, bytes: u64) -> Result<(), Exceeded> {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.most.fetch_max(bytes, Ordering::Relaxed) < bytes {
            self.kept.holds(bytes)?;
        }
        Ok(())
    }

    /// A message is whole.
    pub(super) fn is_whole(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// What a stream sends a tenant, which is kept until it has been taken.
struct Paced {
    body: Body,
    share: Arc<Share>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while !self.share.has_room() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let weigh = |bytes: Bytes| {
            let weight = self.share.weigh(bytes.len() as u64);
            taken::holding(bytes, weight)
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(weigh))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use std::future::poll_fn;

    use tonic::Code;

    use super::*;
    use crate::quota::KEPT_BYTES;
    use crate::settings::QuotaSettings;

    const FRAME: u64 = 1 << 20;

    trait Frames: http_body::Body<Data = Bytes, Error = Status> + Unpin {}

    impl<B: http_body::Body<Data = Bytes, Error = Status> + Unpin> Frames for B {}

    /// It sends frames of a megabyte, as long as it is let.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; 1 << 20])))))
        }
    }

    fn endless(share: &Arc<Share>) -> (impl Frames, Arc<Sent>) {
        let sent = Arc::new(Sent::new(share));
        let counted = Arc::clone(&sent);
        let body = Counted {
            body: Body::new(Endless),
            count: move |bytes| counted.more(bytes),
        };
        (body, sent)
    }

    async fn frame(of: &mut impl Frames) -> Result<(), Status> {
        let next = poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut *of), context));
        next.await.unwrap().map(drop)
    }

    #[tokio::test]
    async fn what_comes_of_a_message_is_kept_and_counted() {
        let quotas = Quotas::new(&QuotaSettings::default());
        let share = quotas.of(&"acme".parse().unwrap());
        let (mut one, sent) = endless(&share);
        // Message after message, each of three frames: no more is kept than one of them takes.
        for number in 1..1000 {
            frame(&mut one).await.unwrap();
            if number % 3 == 0 {
                sent.is_whole();
            }
        }
        // Half a message on each of many streams.
        let mut streams = Vec::new();
        let refused = loop {
            let (mut half, _) = endless(&share);
            let sent = [frame(&mut half).await, frame(&mut half).await];
            streams.push(half);
            if let Some(refused) = sent.into_iter().find_map(Result::err) {
                break refused;
            }
        };
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let (most, had) = (KEPT_BYTES / 2 / FRAME / 2, streams.len() as u64);
        assert!(had <= most && had >= most - 2, "{had}");
        drop(streams);
        assert!(frame(&mut endless(&share).0).await.is_ok());
    }
}
