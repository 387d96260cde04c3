//! Takes so many requests at once and no more: one too many is told at once, and waits for nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tower::{Layer, Service};

use super::status;

#[derive(Clone)]
pub(super) struct InFlightLayer(Arc<Semaphore>);

impl InFlightLayer {
    pub(super) fn new(at_once: u32) -> Self {
        Self(Arc::new(Semaphore::new(at_once as usize)))
    }
}

impl<S> Layer<S> for InFlightLayer {
    type Service = InFlight<S>;

    fn layer(&self, inner: S) -> InFlight<S> {
        InFlight {
            inner,
            places: Arc::clone(&self.0),
        }
    }
}

#[derive(Clone)]
pub(super) struct InFlight<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S, B> Service<Request<B>> for InFlight<S>
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
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Box::pin(std::future::ready(Ok(status::overloaded().into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            answer
        })
    }
}
