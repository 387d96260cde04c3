//! What stands around a service, without the ceremony of a tower layer for each: a request comes, and an answer goes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

/// One layer.
pub(super) trait Around: Clone + Send + Sync + 'static {
    /// Answers `request`; by `next`, or in its place.
    fn around(&self, request: Request<Body>, next: impl Next) -> impl Future<Output = Response<Body>> + Send;
}

/// What is within a layer.
pub(super) trait Next: Send {
    /// Answers `request`.
    fn run(self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

impl<S> Next for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
    S::Future: Send,
{
    async fn run(mut self, request: Request<Body>) -> Response<Body> {
        match self.call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// An [`Around`] as a tower layer.
#[derive(Clone)]
pub(super) struct AroundLayer<A>(pub(super) A);

impl<A: Clone, S> Layer<S> for AroundLayer<A> {
    type Service = Surrounded<A, S>;

    fn layer(&self, inner: S) -> Surrounded<A, S> {
        Surrounded {
            around: self.0.clone(),
            inner,
        }
    }
}

/// A service with something around it.
#[derive(Clone)]
pub(super) struct Surrounded<A, S> {
    around: A,
    inner: S,
}

impl<A, S> Service<Request<Body>> for Surrounded<A, S>
where
    A: Around,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone takes the place of the one that was polled ready, which serves this request.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        let around = self.around.clone();
        Box::pin(async move { Ok(around.around(request, ready).await) })
    }
}
