//! Writes are written down: before the caller hears that they are done, or that it is not known whether they are.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::peer::Peer;
use super::status;
use crate::audit::{Audit, Outcome, Record, Reserved};
use crate::config::{Scope, Trail};
use crate::identity::VerifiedTenant;
use crate::key::is_shaped_as_key;
use crate::quota::Quotas;

/// What writes have in common.
pub(super) struct Asked<'a> {
    pub(super) key: &'a str,
    pub(super) scope: Result<Scope, Status>,
    pub(super) request_id: &'a str,
}

/// One write. If it is dropped after a store was asked, nobody knows what became of it, and that is written down.
pub(super) struct Audited<'a> {
    audit: &'a Audit,
    quotas: &'a Quotas,
    /// Until it has ended.
    place: Option<Reserved<'a>>,
    what: &'static str,
    tenant: Option<VerifiedTenant>,
    peer: String,
    key: String,
    is_shared: bool,
    request_id: String,
    trail: Arc<Trail>,
}

impl<'a> Audited<'a> {
    /// Begins one; or not, where it could not be written down.
    pub(super) async fn begin<T>(
        audit: &'a Audit,
        quotas: &'a Quotas,
        what: &'static str,
        request: &Request<T>,
        asked: &Asked<'_>,
    ) -> Result<Self, Status> {
        let place = audit.reserve().await.map_err(status::unaudited)?;
        let peer = request.extensions().get::<Peer>();
        // What is neither may be anything: a value, or a token.
        let key = Some(asked.key).filter(|key| is_shaped_as_key(key));
        let request_id = Some(asked.request_id).filter(|id| Uuid::try_parse(id).is_ok());
        Ok(Self {
            audit,
            quotas,
            place: Some(place),
            what,
            tenant: request.extensions().get().cloned(),
            peer: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
            key: key.unwrap_or_default().to_owned(),
            is_shared: matches!(asked.scope, Ok(Scope::Shared)),
            request_id: request_id.unwrap_or_default().to_owned(),
            trail: Arc::default(),
        })
    }

    /// To be told what is found on the way.
    pub(super) fn trail(&self) -> Arc<Trail> {
        Arc::clone(&self.trail)
    }

    /// It has ended so; `etag` tells what it left standing.
    pub(super) async fn end<T>(
        mut self,
        answer: Result<Response<T>, Status>,
        etag: impl FnOnce(&T) -> Option<&str>,
    ) -> Result<Response<T>, Status> {
        let Some(place) = self.place.take() else {
            return answer;
        };
        match &answer {
            Ok(done) => {
                let is_replay = self.trail.is_replay();
                let before = self.trail.before().filter(|_| !is_replay);
                let before = before.map(|etag| etag.to_string()).unwrap_or_default();
                let record = Record {
                    etag_before: &before,
                    etag_after: etag(done.get_ref()).unwrap_or_default(),
                    replayed: is_replay,
                    ..self.record(Outcome::Done)
                };
                place.done(record).await.map_err(status::unaudited)?;
            }
            Err(error) => {
                let reason = error
                    .get_details_error_info()
                    .map(|info| info.reason)
                    .unwrap_or_default();
                let outcome = outcome(error.code(), &self.trail);
                let record = Record {
                    reason: &reason,
                    ..self.record(outcome)
                };
                let tenant = self.tenant.as_ref();
                // Refusals of one tenant leave room for others'. What may be done is always written down.
                if outcome == Outcome::Unknown || tenant.is_none_or(|tenant| self.quotas.of(tenant.id()).may_be_noted())
                {
                    place.note(record);
                } else {
                    self.audit.omit();
                }
            }
        }
        answer
    }

    fn record(&self, outcome: Outcome) -> Record<'_> {
        let tenant = self.tenant.as_ref();
        let decider = self.trail.decider();
        Record {
            tenant: tenant.map_or("", |tenant| tenant.id().as_str()),
            subject: tenant.map_or("", |tenant| tenant.caller().subject()),
            peer: &self.peer,
            key: &self.key,
            shared: self.is_shared,
            request_id: &self.request_id,
            strategy: decider.map_or("", |decider| &decider.strategy),
            generation: decider.map_or(0, |decider| decider.generation),
            ..Record::new(self.what, outcome)
        }
    }
}

impl Drop for Audited<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take().filter(|_| self.trail.has_begun()) {
            place.note(self.record(Outcome::Unknown));
        }
    }
}

/// Whether a write that ended so may be done.
fn outcome(code: Code, trail: &Trail) -> Outcome {
    match code {
        // A store judged it, and said no.
        Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound => {
            Outcome::Refused
        }
        _ if trail.has_begun() => Outcome::Unknown,
        _ => Outcome::Refused,
    }
}
