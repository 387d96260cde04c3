//! A tenant beyond its quota is told so before anything is done for it.

use std::sync::Arc;

use http::{Request, Response};
use tonic::body::Body;

use super::around::{Around, Next};
use super::{status, taken};
use crate::identity::VerifiedTenant;
use crate::quota::Quotas;

/// Counts the requests of each tenant, which the layer around this has verified.
#[derive(Clone)]
pub(super) struct WithinQuota(pub(super) Arc<Quotas>);

impl Around for WithinQuota {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let tenant = request.extensions().get::<VerifiedTenant>();
        let counted = tenant.map(|tenant| self.0.of(tenant.id()).request()).transpose();
        match counted {
            Ok(under_way) if taken::is_soon_taken(&request) => taken::hold(next.run(request).await, under_way),
            Ok(_) => next.run(request).await,
            Err(exceeded) => status::quota(exceeded).into_http(),
        }
    }
}
