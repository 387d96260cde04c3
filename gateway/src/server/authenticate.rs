//! The first wall's place in the stack: no request passes it without a verified tenant, or a verified administrator. Who is not
//! let is written down.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::{Instrument as _, info_span};

use super::around::{Around, Next};
use super::measured::{ending, method};
use super::peer::Peer;
use super::{status, traced};
use crate::audit::{Audit, Outcome, Record};
use crate::identity::{IdentityError, VerifiedTenant, Verifier};
use crate::quota::Quotas;
use crate::telemetry::TRACE;

/// Puts a `VerifiedTenant` into each request's extensions, or answers in its place.
#[derive(Clone)]
pub(super) struct Authenticate {
    pub(super) verifier: Arc<Verifier>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) audit: Arc<Audit>,
}

impl Around for Authenticate {
    async fn around(&self, mut request: Request<Body>, next: impl Next) -> Response<Body> {
        let (method, peer) = (method(request.uri().path()), peer(&request));
        let verified = self.verifier.verify(request.headers());
        let tenant = match verified.instrument(info_span!(target: TRACE, "auth")).await {
            Ok(tenant) => tenant,
            Err(error) => return refuse(&self.audit, &self.verifier, request, &error).await,
        };
        if let Some(peer) = &peer {
            peer.is_of(|| self.quotas.of(tenant.id()));
        }
        traced::is_of(&tenant);
        // Nothing behind this wall needs the secret.
        request.headers_mut().remove(AUTHORIZATION);
        request.extensions_mut().insert(tenant.clone());
        let answer = next.run(request).await;
        // Writes are written down where their keys are known.
        if self.audit.is_kept() && is_denied(&answer) && !is_write(method) {
            self.note(&tenant, method, peer.as_ref(), &answer);
        }
        answer
    }
}

impl Authenticate {
    fn note(&self, tenant: &VerifiedTenant, method: &str, peer: Option<&Peer>, answer: &Response<Body>) {
        if !self.quotas.of(tenant.id()).may_be_noted() {
            return self.audit.omit();
        }
        let (_, reason) = ending(answer);
        let peer = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
        self.audit.note(Record {
            reason: &reason,
            tenant: tenant.id().as_str(),
            subject: tenant.caller().subject(),
            peer: &peer,
            ..Record::new(name(method), Outcome::Refused)
        });
    }
}

/// Puts an `Administrator` into each request's extensions, or answers in its place.
#[derive(Clone)]
pub(super) struct AuthenticateAdmin {
    pub(super) verifier: Arc<Verifier>,
    pub(super) audit: Arc<Audit>,
}

impl Around for AuthenticateAdmin {
    async fn around(&self, mut request: Request<Body>, next: impl Next) -> Response<Body> {
        match self.verifier.administrator(request.headers()).await {
            Ok(administrator) => {
                if let Some(peer) = peer(&request) {
                    peer.is_an_operators();
                }
                request.headers_mut().remove(AUTHORIZATION);
                request.extensions_mut().insert(administrator);
                next.run(request).await
            }
            Err(error) => refuse(&self.audit, &self.verifier, request, &error).await,
        }
    }
}

fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get().cloned()
}

async fn refuse(audit: &Audit, verifier: &Verifier, request: Request<Body>, error: &IdentityError) -> Response<Body> {
    let answer = status::identity(error).into_http();
    // Its body is nobody's to read.
    let request = request.map(drop);
    // That the issuer's keys cannot be had says nothing of who asks.
    if audit.is_kept() && !matches!(error, IdentityError::KeysAway) {
        // A token that was no good is not looked at twice; one that was is remembered.
        let caller = if is_of_a_good_token(error) {
            verifier.bearer(request.headers()).await
        } else {
            None
        };
        let (_, reason) = ending(&answer);
        let peer = peer(&request).map(|peer| peer.address.to_string()).unwrap_or_default();
        let record = Record {
            reason: &reason,
            peer: &peer,
            subject: caller.as_ref().map_or("", |caller| caller.subject()),
            ..Record::new(name(method(request.uri().path())), Outcome::Refused)
        };
        match caller {
            Some(_) => audit.note_caller(record),
            None => audit.note_stranger(record),
        }
    }
    answer
}

/// Whether the token verified, and does not grant what was asked for.
fn is_of_a_good_token(error: &IdentityError) -> bool {
    match error {
        IdentityError::TenantMissing(_)
        | IdentityError::TenantAmbiguous
        | IdentityError::TenantTwice
        | IdentityError::TenantNotGranted
        | IdentityError::SubjectDiffers
        | IdentityError::PermissionMissing(_) => true,
        IdentityError::TokenMissing
        | IdentityError::TokenMalformed(_)
        | IdentityError::Signature(_)
        | IdentityError::Claim(_)
        | IdentityError::KeysAway => false,
    }
}

fn is_denied(answer: &Response<Body>) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|error| error.code() == Code::PermissionDenied)
}

fn is_write(method: &str) -> bool {
    matches!(name(method), "PutConfig" | "DeleteConfig" | "RollbackConfig")
}

/// Without its service.
fn name(method: &str) -> &str {
    method.rsplit('/').next().unwrap_or(method)
}
