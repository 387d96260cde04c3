//! The first wall's place in the stack: no request passes it without a verified tenant, or a verified administrator.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use tonic::body::Body;

use super::around::{Around, Next};
use super::connection::Peer;
use super::status;
use crate::identity::Identity;

/// Puts a `VerifiedTenant` into each request's extensions, or answers in its place.
#[derive(Clone)]
pub(super) struct Authenticate(pub(super) Arc<Identity>);

impl Around for Authenticate {
    async fn around(&self, mut request: Request<Body>, next: impl Next) -> Response<Body> {
        match self.0.verify(request.headers()).await {
            Ok(tenant) => {
                if let Some(peer) = request.extensions().get::<Peer>() {
                    peer.is_known();
                }
                // Nothing behind this wall needs the secret.
                request.headers_mut().remove(AUTHORIZATION);
                request.extensions_mut().insert(tenant);
                next.run(request).await
            }
            Err(error) => status::identity(&error).into_http(),
        }
    }
}

/// Puts an `Administrator` into each request's extensions, or answers in its place.
#[derive(Clone)]
pub(super) struct AuthenticateAdmin(pub(super) Arc<Identity>);

impl Around for AuthenticateAdmin {
    async fn around(&self, mut request: Request<Body>, next: impl Next) -> Response<Body> {
        match self.0.administrator(request.headers()).await {
            Ok(administrator) => {
                if let Some(peer) = request.extensions().get::<Peer>() {
                    peer.is_known();
                }
                request.headers_mut().remove(AUTHORIZATION);
                request.extensions_mut().insert(administrator);
                next.run(request).await
            }
            Err(error) => status::identity(&error).into_http(),
        }
    }
}
