//! The way of every call: it waits for its turn, goes out, and is tried again where that helps.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use tokio::time::{Instant, sleep, timeout_at};

use super::quota::Quota;
use crate::backend::aws::failure::{self, Failure};
use crate::backend::aws::{Aws, AwsSettings};
use crate::backend::{BackendError, Urgency};
use crate::clock::backoff;
use crate::identity::VerifiedTenant;

/// Attempts of one call. Each takes a turn, so that failures use up no more of the quota than there is.
const ATTEMPTS: usize = 4;
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Soonest that a retry is worth its turn.
const RETRY: Duration = Duration::from_secs(1);

/// Whether a call may be made again that was perhaps done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Always,
    /// It would be done twice: Parameter Store knows no idempotency tokens.
    IfNotDone,
}

/// Parameter Store, as one replica may use it.
pub(super) struct Calls {
    aws: Aws<Client>,
    quota: Quota,
    per_second: u32,
}

impl Calls {
    pub(super) fn new(aws: Aws<Client>, per_second: u32) -> Arc<Self> {
        let quota = Quota::new(per_second);
        Arc::new(Self { aws, quota, per_second })
    }

    pub(super) fn aws(&self) -> &Aws<Client> {
        &self.aws
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, tenant: &VerifiedTenant) {
        self.turn_as(tenant, Urgency::Asked).await;
    }

    /// Waits for a turn, as somebody waits for it.
    pub(super) async fn turn_as(&self, tenant: &VerifiedTenant, urgency: Urgency) {
        self.quota.turn(tenant.id(), urgency).await;
    }

    /// A turn that was not needed.
    pub(super) fn give_back(&self) {
        self.quota.give_back();
    }

    /// How many turns come before an operation that begins now is out of time.
    pub(super) fn turns_in_time(&self) -> usize {
        self.quota.within(self.settings().timeout)
    }

    /// A call that waits for its turn.
    pub(super) async fn call<T, E, F>(
        &self,
        tenant: &VerifiedTenant,
        repeat: Repeat,
        send: impl Fn() -> F,
    ) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        self.call_as(tenant, Urgency::Asked, repeat, send).await
    }

    /// A call that waits for its turn, as somebody waits for it.
    pub(super) async fn call_as<T, E, F>(
        &self,
        tenant: &VerifiedTenant,
        urgency: Urgency,
        repeat: Repeat,
        send: impl Fn() -> F,
    ) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        self.turn_as(tenant, urgency).await;
        self.call_now(tenant, urgency, repeat, send).await
    }

    /// A call whose turn it is.
    pub(super) async fn call_now<T, E, F>(
        &self,
        tenant: &VerifiedTenant,
        urgency: Urgency,
        repeat: Repeat,
        send: impl Fn() -> F,
    ) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        for wait in backoff(WAITS).take(ATTEMPTS - 1) {
            let error = match self.aws.send(tenant.id(), Box::pin(send())).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match failure::of(&error) {
                Failure::Throttled => self.quota.slow_down(),
                // Another write was under way, and this one was not begun (API reference, `PutParameter`).
                _ if error.code() == Some("TooManyUpdates") => {}
                Failure::Passing if repeat == Repeat::Always => {}
                Failure::Passing | Failure::Lasting => return Err(error),
            }
            sleep(wait).await;
            self.turn_as(tenant, urgency).await;
        }
        self.aws.send(tenant.id(), Box::pin(send())).await
    }

    /// What a failed call says to operators, and to callers when it is worth another try.
    pub(super) fn failed<E>(&self, operation: &'static str, error: &SdkError<E>) -> BackendError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match (failure::of(error), self.aws.failed(operation, error)) {
            (Failure::Throttled, BackendError::Away(problem)) => BackendError::Busy {
                problem,
                retry: self.retry(),
            },
            (_, error) => error,
        }
    }

    /// An operation, however many calls it makes, within the store's time.
    pub(super) async fn within<T, E: From<BackendError>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let done = timeout_at(self.deadline(), operation).await;
        done.unwrap_or_else(|_| Err(self.late().into()))
    }

    /// When an operation that begins now is out of time.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.settings().timeout
    }

    /// It was not done in time.
    pub(super) fn late(&self) -> BackendError {
        if self.quota.was_short(self.settings().timeout) {
            self.busy()
        } else {
            self.aws.late()
        }
    }

    /// More is asked for than there are turns for.
    pub(super) fn busy(&self) -> BackendError {
        let AwsSettings { id, .. } = self.settings();
        BackendError::Busy {
            problem: format!(
                "backends.{id}: requests_per_second ({}) are used up: raise it and, if need be, the account's quota, or \
                 look for a busy tenant",
                self.per_second
            ),
            retry: self.retry(),
        }
    }

    fn retry(&self) -> Duration {
        self.quota.wait().max(RETRY)
    }

    fn settings(&self) -> &AwsSettings {
        self.aws.settings()
    }
}
