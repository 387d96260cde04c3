//! What AWS's errors mean to an operator, and what would mend them. The codes are those of the services' API references
//! under "Common Errors" and of DynamoDB's developer guide under "Error handling".

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId as _;

/// What happened, and what would mend it.
pub(in crate::backend) fn describe<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let fix = fix(error);
    let Some(code) = error.code() else {
        // Without an answer there is only the chain of causes.
        return format!("{}: {fix}", DisplayErrorContext(error));
    };
    let message = error.message().unwrap_or_default();
    let request = error.request_id().unwrap_or_default();
    format!("{code} {message:?} (request {request:?}): {fix}")
}

fn fix<E>(error: &SdkError<E, HttpResponse>) -> &'static str
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if without_credentials(error) {
        return "no credentials: give the gateway's role, or the variables that AWS's tools read, and let it assume tenant_role";
    }
    match error {
        SdkError::TimeoutError(_) => return "no answer in time: check the network, endpoint_url and timeout",
        SdkError::DispatchFailure(_) => return "cannot be reached: check the network, region and endpoint_url",
        SdkError::ResponseError(_) => {
            return "the answer was cut off, or is none of this service: check what is between";
        }
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
        "LimitExceededException"
        | "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException" => {
            "more requests than it takes: raise its capacity or the account's quota, or look for a busy tenant"
        }
        _ => "nothing to mend here if it passes; else see AWS's health page",
    }
}

/// Whether the call was never sent, for want of credentials.
fn without_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut causes = Some(error);
    while let Some(cause) = causes {
        if cause.is::<CredentialsError>() {
            return true;
        }
        causes = cause.source();
    }
    false
}
