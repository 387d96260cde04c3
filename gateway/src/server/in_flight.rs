//! Takes so many requests at once and no more: one too many is told at once, and waits for nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use super::status;

/// After a drain has nothing left to do: for clients to learn that their connection goes.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is under way.
#[derive(Clone)]
pub(super) struct InFlight {
    places: Arc<Semaphore>,
    requests: TaskTracker,
}

impl InFlight {
    pub(super) fn new(at_once: u32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once as usize)),
            requests: TaskTracker::new(),
        }
    }

    pub(super) fn layer(&self) -> InFlightLayer {
        InFlightLayer(self.clone())
    }

    /// Waits until nothing is under way and nothing new came for a moment. Until then everything is served.
    pub(super) async fn ended(&self) {
        self.requests.close();
        loop {
            self.requests.wait().await;
            sleep(GOODBYE).await;
            if self.requests.is_empty() {
                return;
            }
        }
    }
}

#[derive(Clone)]
pub(super) struct InFlightLayer(InFlight);

impl<S> Layer<S> for InFlightLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            in_flight: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub(super) struct Counted<S> {
    inner: S,
    in_flight: InFlight,
}

impl<S, B> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Ok(place) = Arc::clone(&self.in_flight.places).try_acquire_owned() else {
            return Box::pin(std::future::ready(Ok(status::overloaded().into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(self.in_flight.requests.track_future(async move {
            let answer = answer.await;
            drop(place);
            answer
        }))
    }
}
