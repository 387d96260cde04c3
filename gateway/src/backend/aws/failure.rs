//! What AWS's errors mean to an operator, and what would mend them. The codes are those of the services' API references
//! under "Common Errors" and of DynamoDB's developer guide under "Error handling".

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::interceptors::InterceptorContext;
use aws_sdk_dynamodb::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId as _;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;

/// Has an answer tried again that says it went well and cannot be read: it was cut off on its way. What is sent again is
/// done once, by the token that the SDK gives to each write.
#[derive(Debug)]
pub(in crate::backend) struct Unreadable;

impl ClassifyRetry for Unreadable {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let failed = context.output_or_error().is_some_and(|result| result.is_err());
        if failed && context.response().is_some_and(|answer| answer.status().is_success()) {
            RetryAction::transient_error()
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "an answer that cannot be read"
    }
}

/// What a failed call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Failure {
    /// It was refused for being one too many, and nothing was done: fewer, and later.
    Throttled,
    /// It may go better next time. Whether it was done is not known.
    Passing,
    /// It would go the same way again.
    Lasting,
}

/// What a failed call asks for.
pub(in crate::backend) fn of<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if without_credentials(error) {
        return Failure::Lasting;
    }
    match error {
        SdkError::ConstructionFailure(_) => Failure::Lasting,
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status();
            if error.code().is_some_and(is_throttling) || status.as_u16() == 429 {
                Failure::Throttled
            } else if status.is_server_error() || status.is_success() {
                Failure::Passing
            } else {
                Failure::Lasting
            }
        }
        _ => Failure::Passing,
    }
}

fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "LimitExceededException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequestsException"
    )
}

/// What happened, and what would mend it.
pub(crate) fn describe<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    format!("{}: {}", what(error), fix(error))
}

/// What happened.
pub(crate) fn what<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let Some(code) = error.code() else {
        return chain(error);
    };
    let message = error.message().unwrap_or_default();
    let request = error.request_id().unwrap_or_default();
    format!("{code} {message:?} (request {request:?})")
}

/// Without an answer there is only the chain of causes. What each says in its own words: the SDK's longer form holds the
/// answer, and with it tenants' values.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<String> = causes(error).iter().map(ToString::to_string).collect();
    causes.join(": ")
}

/// Whether AWS knows who asks, and does not let them: do it, use the key of a secret, or be that tenant's session.
pub(crate) fn is_denied<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let is_denied =
        |code: Option<&str>| matches!(code, Some("AccessDenied" | "AccessDeniedException" | "InvalidKeyId"));
    let of_session = |cause: &&(dyn Error + 'static)| {
        let refused = cause.downcast_ref::<AssumeRoleError>();
        refused.is_some_and(|refused| is_denied(refused.code()))
    };
    is_denied(error.code()) || causes(error).iter().any(of_session)
}

const UNREADABLE: &str = "the answer was cut off, or is none of this service: check what is between";

/// What would mend it.
pub(crate) fn fix<E>(error: &SdkError<E, HttpResponse>) -> &'static str
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if without_credentials(error) {
        return "no credentials: give the gateway's role, or the variables that AWS's tools read, and let it assume tenant_role";
    }
    match error {
        SdkError::TimeoutError(_) => return "no answer in time: check the network, endpoint_url and timeout",
        SdkError::DispatchFailure(_) => return "cannot be reached: check the network, region and endpoint_url",
        SdkError::ResponseError(_) => return UNREADABLE,
        SdkError::ServiceError(answer) if answer.raw().status().is_success() => return UNREADABLE,
        _ => {}
    }
    match error.code().unwrap_or_default() {
        "AccessDenied" | "AccessDeniedException" => {
            "the credentials may not do this: compare their policies with gateway/deploy"
        }
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            "the credentials are over: renew them, or let a role give them; check this machine's clock"
        }
        "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => {
            "AWS does not know these credentials: check them, the region and this machine's clock"
        }
        "ResourceNotFoundException" => "it is not there: check table and region, or run `tagway provision`",
        "ValidationException" => "it is not of the shape that this gateway needs: run `tagway provision`",
        "InvalidKeyId" => {
            "the key of its secrets is not there or is off, or may not be used: check kms_key and its policy"
        }
        "ParameterLimitExceeded" => "the account has as many parameters as it may: raise that quota",
        code if is_throttling(code) => {
            "more requests than it takes: raise its capacity or the account's quota, or look for a busy tenant"
        }
        _ => "nothing to mend here if it passes; else see AWS's health page",
    }
}

/// Whether the call was never sent, for want of credentials.
fn without_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).iter().any(|cause| cause.is::<CredentialsError>())
}

/// The error, and what caused it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}
