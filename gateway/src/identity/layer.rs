//! The tower layer that stands before `ConfigService`: no request passes it without a verified tenant.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use super::{Identity, IdentityError, Token, VerifiedTenant};

/// Picks one of the tenants that the token names.
const TENANT: &str = "x-tagway-tenant";

/// Puts a [`VerifiedTenant`] into each request's extensions, or answers in its place with what `refuse` makes of the
/// reason.
#[derive(Clone)]
pub struct Authenticate<R> {
    identity: Arc<Identity>,
    refuse: R,
}

impl<R> Authenticate<R> {
    /// A layer over `identity`.
    pub fn new(identity: Arc<Identity>, refuse: R) -> Self {
        Self { identity, refuse }
    }
}

impl<S, R: Clone> Layer<S> for Authenticate<R> {
    type Service = Authenticated<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticated {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind [`Authenticate`].
#[derive(Clone)]
pub struct Authenticated<S, R> {
    inner: S,
    layer: Authenticate<R>,
}

impl<S, R, B, C> Service<Request<B>> for Authenticated<S, R>
where
    S: Service<Request<B>, Response = Response<C>> + Clone + Send + 'static,
    S::Future: Send,
    R: Fn(&IdentityError) -> Response<C> + Clone + Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let layer = self.layer.clone();
        // The clone takes the place of the one that was polled ready, which serves this request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            match verify(&layer.identity, request.headers()).await {
                Ok(tenant) => {
                    // Nothing behind this wall needs the secret.
                    request.headers_mut().remove(http::header::AUTHORIZATION);
                    request.extensions_mut().insert(tenant);
                    inner.call(request).await
                }
                Err(error) => Ok((layer.refuse)(&error)),
            }
        })
    }
}

async fn verify(identity: &Identity, headers: &HeaderMap) -> Result<VerifiedTenant, IdentityError> {
    let token = Token::of(headers)?;
    let caller = identity.caller(&token).await?;
    let mut picks = headers.get_all(TENANT).iter();
    let picked = picks.next().map(|value| value.to_str().unwrap_or_default());
    if picks.next().is_some() {
        return Err(IdentityError::TenantTwice);
    }
    identity.tenant(caller, picked)
}
