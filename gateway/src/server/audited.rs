//! Writes are written down: before the caller hears that they are done, or that it is not known whether they are.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::connection::Peer;
use super::status;
use crate::audit::{Audit, Outcome, Record};
use crate::config::{Scope, Trail};
use crate::identity::VerifiedTenant;
use crate::quota::Quotas;

/// What writes have in common.
pub(super) struct Asked<'a> {
    pub(super) key: &'a str,
    pub(super) scope: Result<Scope, Status>,
    pub(super) request_id: &'a str,
}

/// One write. If it is dropped before it has ended, nobody knows what became of it, and that is written down.
pub(super) struct Audited<'a> {
    audit: &'a Audit,
    quotas: &'a Quotas,
    what: &'static str,
    tenant: Option<VerifiedTenant>,
    peer: String,
    key: String,
    is_shared: bool,
    request_id: String,
    trail: Arc<Trail>,
    has_ended: bool,
}

impl<'a> Audited<'a> {
    /// Begins one; or not, where it could not be written down.
    pub(super) fn begin<T>(
        audit: &'a Audit,
        quotas: &'a Quotas,
        what: &'static str,
        request: &Request<T>,
        asked: &Asked<'_>,
    ) -> Result<Self, Status> {
        audit.check().map_err(status::unaudited)?;
        let peer = request.extensions().get::<Peer>();
        Ok(Self {
            audit,
            quotas,
            what,
            tenant: request.extensions().get().cloned(),
            peer: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
            key: asked.key.to_owned(),
            is_shared: matches!(asked.scope, Ok(Scope::Shared)),
            request_id: asked.request_id.to_owned(),
            trail: Arc::default(),
            has_ended: !audit.is_kept(),
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
        if self.has_ended {
            return answer;
        }
        match &answer {
            Ok(done) => {
                let etag = etag(done.get_ref()).unwrap_or_default().to_owned();
                let before = self.trail.before().map(|etag| etag.to_string()).unwrap_or_default();
                let record = Record {
                    etag_before: &before,
                    etag_after: &etag,
                    ..self.record(Outcome::Done)
                };
                let written = self.audit.done(record).await;
                self.has_ended = true;
                written.map_err(status::unaudited)?;
            }
            Err(error) => {
                let outcome = outcome(error.code());
                let reason = error
                    .get_details_error_info()
                    .map(|info| info.reason)
                    .unwrap_or_default();
                self.note(Record {
                    reason: &reason,
                    ..self.record(outcome)
                });
                self.has_ended = true;
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

    /// As many of one tenant as leave room for others'.
    fn note(&self, record: Record<'_>) {
        let tenant = self.tenant.as_ref();
        if tenant.is_none_or(|tenant| self.quotas.of(tenant.id()).may_be_noted()) {
            self.audit.note(record);
        } else {
            self.audit.omit();
        }
    }
}

impl Drop for Audited<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.note(self.record(Outcome::Unknown));
        }
    }
}

/// Whether a write that ended so may be done.
fn outcome(code: Code) -> Outcome {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown => {
            Outcome::Unknown
        }
        _ => Outcome::Refused,
    }
}
