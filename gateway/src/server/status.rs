//! The one map from errors to what a caller sees: `google.rpc.Status` with an `ErrorInfo` (domain `tagway`, a stable
//! reason), as the head of `config.proto` lists them. No backend's words, no physical name and no other tenant pass it.

use std::time::Duration;

use tagway_proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::audit::Unaudited;
use crate::backend::{BackendError, Unfit};
use crate::config::ConfigError;
use crate::identity::IdentityError;
use crate::key::KeyError;
use crate::quota::Exceeded;
use crate::strategy::{DecideError, Refusal};

const DOMAIN: &str = "tagway";
/// When a retry may find something better, where nothing tells us.
const RETRY: Duration = Duration::from_secs(1);

/// A status with a reason.
pub(crate) fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    with(code, reason, message, ErrorDetails::new())
}

/// `INVALID_ARGUMENT` that names the field.
pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Status {
    let problem = problem.to_string();
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation(field, &problem);
    with(
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
        format!("{field}: {problem}"),
        details,
    )
}

fn retry(code: Code, reason: &str, message: impl Into<String>, after: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(after));
    with(code, reason, message, details)
}

fn with(code: Code, reason: &str, message: impl Into<String>, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

/// Why a caller is not let in.
pub(crate) fn identity(error: &IdentityError) -> Status {
    let message = error.to_string();
    match error {
        IdentityError::TokenMissing => status(Code::Unauthenticated, "TOKEN_MISSING", message),
        IdentityError::TokenMalformed(_) => status(Code::Unauthenticated, "TOKEN_MALFORMED", message),
        IdentityError::Signature(_) => status(Code::Unauthenticated, "TOKEN_SIGNATURE", message),
        IdentityError::Claim(_) => status(Code::Unauthenticated, "TOKEN_CLAIM", message),
        IdentityError::KeysAway => retry(Code::Unavailable, "KEYS_UNAVAILABLE", message, RETRY),
        IdentityError::TenantMissing(_) => status(Code::PermissionDenied, "TENANT_MISSING", message),
        IdentityError::TenantAmbiguous | IdentityError::TenantTwice => invalid("x-tagway-tenant", message),
        IdentityError::SubjectDiffers => status(Code::PermissionDenied, "SUBJECT_DIFFERS", message),
        IdentityError::TenantNotGranted => status(Code::PermissionDenied, "TENANT_NOT_GRANTED", message),
        IdentityError::PermissionMissing(_) => status(Code::PermissionDenied, "PERMISSION_MISSING", message),
    }
}

/// A tenant asks for more than its quota.
pub(crate) fn quota(exceeded: Exceeded) -> Status {
    let after = match exceeded {
        Exceeded::Requests { retry, .. } => retry,
        // When others end, nobody knows.
        Exceeded::AtOnce(_) | Exceeded::Bytes(_) | Exceeded::Kept(_) | Exceeded::Streams(_) | Exceeded::Watched(_) => {
            RETRY
        }
    };
    let message = format!("the tenant's quota on this replica: {exceeded}");
    retry(Code::ResourceExhausted, "QUOTA", message, after)
}

/// What is done has to be written down, and cannot be.
pub(crate) fn unaudited(_: Unaudited) -> Status {
    retry(
        Code::Unavailable,
        "AUDIT_UNAVAILABLE",
        "who writes has to be written down, and that cannot be done now: it may be done or not",
        RETRY,
    )
}

/// More requests at once than this replica takes.
pub(crate) fn overloaded() -> Status {
    retry(
        Code::ResourceExhausted,
        "OVERLOADED",
        "more requests at once than this replica takes",
        RETRY,
    )
}

/// A watch whose token does not speak for its bearer any more.
pub(crate) fn token_over() -> Status {
    status(
        Code::Unauthenticated,
        "TOKEN_OVER",
        "the token has expired, or the issuer has withdrawn its key: watch again with a newer one",
    )
}

/// A watch on a gateway that goes, or on a connection that is old.
pub(crate) fn closing() -> Status {
    retry(
        Code::Unavailable,
        "CLOSING",
        "this stream has come to its end: watch again, with what is held",
        Duration::ZERO,
    )
}

/// More subscriptions on one stream than there may be.
pub(crate) fn too_many_subscriptions(limit: usize) -> Status {
    let message = format!("more than {limit} subscriptions on one stream: end one, or open another stream");
    status(Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS", message)
}

/// The gateway's own fault.
pub(crate) fn internal(message: &str) -> Status {
    status(Code::Internal, "INTERNAL", message)
}

/// The deadline came first. A write may have happened all the same.
pub(crate) fn deadline_exceeded() -> Status {
    status(
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        "not done within the deadline",
    )
}

/// Why a configuration was not read, written or deleted. `field` is what held the key or the prefix.
pub(crate) fn config(error: ConfigError, field: &str) -> Status {
    let message = error.to_string();
    match error {
        ConfigError::Key(KeyError::Malformed(problem)) => invalid(field, problem),
        ConfigError::Key(KeyError::TagUnknown) | ConfigError::PrefixUnknown => {
            status(Code::NotFound, "TAG_UNKNOWN", message)
        }
        ConfigError::Decide(error) => decide(error, field),
        ConfigError::NotFound => status(Code::NotFound, "NOT_FOUND", message),
        ConfigError::Unshared => status(Code::FailedPrecondition, "UNPLACED", message),
        ConfigError::AlreadyExists => status(Code::AlreadyExists, "ALREADY_EXISTS", message),
        ConfigError::Changed => status(
            Code::Aborted,
            "CHANGED",
            "it is not in the state that if_match names: read again",
        ),
        ConfigError::CapabilityMissing(_) => status(Code::FailedPrecondition, "CAPABILITY_MISSING", message),
        ConfigError::Unfit(Unfit::Size { .. } | Unfit::Pattern) => invalid("value", message),
        ConfigError::Unfit(Unfit::Depth { .. }) => invalid(field, message),
        ConfigError::Unfit(Unfit::Labelled) => status(Code::FailedPrecondition, "HISTORY_FULL", message),
        ConfigError::Unfit(Unfit::NotSecret) => status(Code::FailedPrecondition, "NOT_SECRET", message),
        ConfigError::PageToken => invalid("page_token", message),
        ConfigError::RequestReused => invalid("request_id", message),
        ConfigError::ResponseFull => status(Code::ResourceExhausted, "RESPONSE_FULL", message),
        ConfigError::Seal => status(Code::Internal, "INTERNAL", message),
        ConfigError::Backend(error) => backend(&error),
        ConfigError::Quota(exceeded) => quota(exceeded),
        ConfigError::StrategyDisabled => status(Code::Unavailable, "STRATEGY_DISABLED", error.to_string()),
        ConfigError::StrategyRejected => strategy_failed("no version of the strategy of this tag could be activated"),
    }
}

fn decide(error: DecideError, field: &str) -> Status {
    match error {
        DecideError::Refused(Refusal::Denied(why)) => status(
            Code::PermissionDenied,
            "STRATEGY_DENIED",
            or(why, "the strategy of this tag denies it"),
        ),
        DecideError::Refused(Refusal::Invalid(why)) => invalid(field, or(why, "the strategy of this tag refuses it")),
        DecideError::Refused(Refusal::Unplaced(why)) => status(
            Code::FailedPrecondition,
            "UNPLACED",
            or(why, "the strategy of this tag has no place for it"),
        ),
        DecideError::Failed => strategy_failed("the strategy of this tag failed or broke its contract"),
        DecideError::Resting(rest) => retry(
            Code::Internal,
            "STRATEGY_FAILED",
            "the strategy of this tag failed too often and rests",
            rest,
        ),
        DecideError::Busy => retry(
            Code::Unavailable,
            "BUSY",
            "the strategy of this tag did not get to run",
            RETRY,
        ),
    }
}

/// The same as a part of an answer, where one key fails and others do not.
pub(crate) fn failure(status: &Status) -> v1::Failure {
    let details = status.get_error_details();
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    v1::Failure {
        code: status.code().into(),
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        retry_delay: delay.and_then(|delay| delay.try_into().ok()),
    }
}

fn or(why: String, otherwise: &str) -> String {
    if why.is_empty() { otherwise.to_owned() } else { why }
}

fn strategy_failed(message: &str) -> Status {
    status(Code::Internal, "STRATEGY_FAILED", message)
}

fn backend(error: &BackendError) -> Status {
    match error {
        BackendError::Away(_) | BackendError::Denied(_) => {
            tracing::warn!(%error, "a backend is out of reach");
            retry(
                Code::Unavailable,
                "BACKEND_UNAVAILABLE",
                "the backend of this key is out of reach",
                RETRY,
            )
        }
        BackendError::Busy { retry: after, .. } => {
            tracing::warn!(%error, "a backend's requests are used up");
            let message = "the backend of this key takes no more requests now";
            retry(Code::Unavailable, "BACKEND_BUSY", message, *after)
        }
        BackendError::TooManyNames(limit) => status(
            Code::ResourceExhausted,
            "LIST_TOO_LARGE",
            format!(
                "a backend holds more than {limit} keys up to the last `/` of this prefix, and looks through no more: ask for one with a further `/`"
            ),
        ),
        BackendError::Full => {
            tracing::error!(%error, "a backend is full");
            status(
                Code::ResourceExhausted,
                "BACKEND_FULL",
                "the backend of this key has no room left; what it holds can be read",
            )
        }
        BackendError::Damaged(_) | BackendError::Foreign => {
            tracing::error!(%error, "a backend failed");
            status(Code::Internal, "BACKEND_FAILED", "the backend of this key failed")
        }
    }
}
