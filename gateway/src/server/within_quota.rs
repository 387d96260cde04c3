//! A tenant beyond its quota is told so before anything is done for it.

use std::sync::Arc;

use http::{Request, Response};
use tonic::body::Body;

use super::around::{Around, Next};
use super::status;
use crate::identity::VerifiedTenant;
use crate::quota::Quotas;

/// Counts the requests of each tenant, which the layer around this has verified.
#[derive(Clone)]
pub(super) struct WithinQuota(pub(super) Arc<Quotas>);

impl Around for WithinQuota {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let tenant = request.extensions().get::<VerifiedTenant>();
        let counted = tenant.map_or(Ok(()), |tenant| self.0.of(tenant.id()).request());
        match counted {
            Ok(()) => next.run(request).await,
            Err(exceeded) => status::quota(exceeded).into_http(),
        }
    }
}
