//! A tenant beyond its quota is told so before anything is done for it; and what it sends is weighed as it comes. What a single answer takes its
//! service knows; a stream waits until there is room for more of it.

use std::pin::Pin;
use std::sync::Arc;
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
use crate::quota::{Quotas, Share, UnderWay};

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
            return next.run(request).await.map(|body| {
                let pause = None;
                Body::new(Paced { body, share, pause })
            });
        }
        let weighed = Arc::clone(&under_way);
        let mut request = request;
        request.extensions_mut().insert(Arc::clone(&under_way));
        let request = request.map(|body| {
            Body::new(Weighed {
                body,
                under_way: weighed,
            })
        });
        taken::hold(next.run(request).await, under_way)
    }
}

/// What a tenant sends, which is kept until it has been answered.
struct Weighed {
    body: Body,
    under_way: Arc<UnderWay>,
}

impl http_body::Body for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let sent = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(sent) = sent
            && let Err(exceeded) = self.under_way.holds(sent.len() as u64)
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
