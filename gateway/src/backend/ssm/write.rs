//! Writes. Parameter Store counts versions and keeps the earlier ones itself; it tells of absence when it writes, and of
//! nothing else. It does not say when it wrote, so what was written is read back.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_ssm::operation::put_parameter::PutParameterError;
use aws_sdk_ssm::types::{ParameterTier, ParameterType};

use super::calls::Repeat;
use super::reads::Wanted;
use super::{ParameterStore, path, text};
use crate::backend::{BackendError, Entry, NewEntry, Precondition, Unfit, Urgency, WriteError};
use crate::clock::backoff;
use crate::identity::VerifiedTenant;

/// A value has 8 KB, in the larger and paid tier; the smaller one takes 4 KB (API reference, `PutParameter`).
pub(super) const VALUE_BYTES: u32 = 8 << 10;
/// How often is looked for what was just written.
const LOOKS: usize = 4;
const WAITS: (std::time::Duration, std::time::Duration) = (
    std::time::Duration::from_millis(50),
    std::time::Duration::from_millis(500),
);

/// What a parameter is to become.
struct Put<'a> {
    parameter: &'a str,
    text: &'a str,
    secret: bool,
    /// What stands. None: nothing, and nothing is overwritten.
    follows: Option<&'a Entry>,
}

impl ParameterStore {
    /// Writes, and returns what stands then. While it may be done and is not known to be, it is `sent`.
    pub(super) async fn put(
        &self,
        tenant: &VerifiedTenant,
        client: &Client,
        parameter: &str,
        entry: NewEntry,
        precondition: Precondition,
        sent: &AtomicBool,
    ) -> Result<Entry, WriteError> {
        let text = text::write(&entry.value, &entry.content_type);
        fits(parameter, &text)?;
        let wanted = |version| Wanted {
            parameter: parameter.to_owned(),
            version,
        };
        let mut waits = backoff(WAITS);
        let version = loop {
            let follows = match precondition {
                Precondition::Absent => None,
                Precondition::None => self.reads.one(tenant, wanted(None)).await?,
                // It cannot tell what it overwrites: `Capabilities` say so, and nobody asks.
                Precondition::Match(_) | Precondition::Never => return Err(WriteError::PreconditionFailed),
            };
            let put = Put {
                parameter,
                text: &text,
                secret: entry.secret,
                follows: follows.as_ref(),
            };
            self.calls.turn(tenant).await;
            sent.store(true, Ordering::Relaxed);
            let error = match self.send(tenant, client, &put).await {
                Ok(version) => break version,
                Err(error) => error,
            };
            sent.store(false, Ordering::Relaxed);
            match (refused(&error), precondition) {
                (Some(WriteError::PreconditionFailed), Precondition::None) => {}
                // It was deleted since.
                (None, Precondition::None) if follows.is_some() && lacks_type(&error) => {}
                (Some(refused), _) => return Err(refused),
                (None, _) => return Err(self.calls.failed("PutParameter", &error).into()),
            }
            tokio::time::sleep(waits.next().unwrap_or(WAITS.1)).await;
        };
        for wait in backoff(WAITS).take(LOOKS) {
            match self.reads.one(tenant, wanted(Some(version))).await {
                Ok(Some(mut written)) => {
                    written.value.clear();
                    return Ok(written);
                }
                Ok(None) => tokio::time::sleep(wait).await,
                // Whatever kept it from being read, it was not refused.
                Err(error) => {
                    let problem =
                        format!("version {version} of {parameter} was written and cannot be read back: {error}");
                    return Err(BackendError::Away(problem).into());
                }
            }
        }
        let problem = format!("version {version} of {parameter} was written and is not there: somebody deleted it");
        Err(BackendError::Away(problem).into())
    }

    /// It has its turn.
    async fn send(
        &self,
        tenant: &VerifiedTenant,
        client: &Client,
        put: &Put<'_>,
    ) -> Result<u64, SdkError<PutParameterError>> {
        let secret = put.secret || put.follows.is_some_and(|follows| follows.secret);
        // What is overwritten keeps its type, whatever became of it since it was looked at.
        let kind = match (secret, put.follows) {
            (true, _) => Some(ParameterType::SecureString),
            (false, None) => Some(ParameterType::String),
            (false, Some(_)) => None,
        };
        let key = self.kms_key.clone().filter(|_| secret);
        let send = || {
            let call = client.put_parameter().name(put.parameter).value(put.text);
            let call = call.set_type(kind.clone()).set_key_id(key.clone());
            // The smaller tier where that is enough; and never back, which would be refused.
            let call = call.tier(ParameterTier::IntelligentTiering);
            call.overwrite(put.follows.is_some()).send()
        };
        let answer = self
            .calls
            .call_now(tenant, Urgency::Asked, Repeat::IfNotDone, send)
            .await?;
        Ok(answer.version().unsigned_abs())
    }
}

/// What would be refused is not sent.
fn fits(parameter: &str, text: &str) -> Result<(), Unfit> {
    let levels = path::levels(parameter);
    if levels > path::LEVELS {
        let limit = path::LEVELS;
        return Err(Unfit::Depth { levels, limit });
    }
    if text.len() > VALUE_BYTES as usize {
        let (size, limit) = (text.len(), VALUE_BYTES);
        return Err(Unfit::Size { size, limit });
    }
    Ok(())
}

/// What a refusal means to a writer, if it is its own affair.
fn refused(error: &SdkError<PutParameterError>) -> Option<WriteError> {
    Some(match error.as_service_error()? {
        PutParameterError::ParameterAlreadyExists(_) => WriteError::PreconditionFailed,
        PutParameterError::ParameterMaxVersionLimitExceeded(_) => Unfit::Labelled.into(),
        PutParameterError::HierarchyTypeMismatchException(_) => Unfit::NotSecret.into(),
        PutParameterError::ParameterPatternMismatchException(_) => Unfit::Pattern.into(),
        _ => return None,
    })
}

/// Whether the call would have created what it was to overwrite, for which it did not say enough.
fn lacks_type(error: &SdkError<PutParameterError>) -> bool {
    error.code() == Some("ValidationException")
        && error
            .message()
            .is_some_and(|message| message.contains("type is required"))
}
