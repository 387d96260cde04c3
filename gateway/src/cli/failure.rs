//! Why a command did not do it, and the exit code that says so.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tagway::app::StartError;
use tagway::settings::SettingsError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Printed to stderr. Its kind is the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Arguments or settings: nothing was tried.
    Usage(String),
    /// The gateway's answer.
    Refused(Box<Status>),
    /// No gateway answered.
    Away(String),
    /// Anything else.
    Failed(String),
    /// Who read the output has gone, as `head` does.
    Unread,
}

impl Failure {
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Unread)
    }

    /// Whether the same may go well later, and the least to wait for that.
    pub(crate) fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::Away(_) => Some(Duration::ZERO),
            Self::Refused(status) => match status.code() {
                Code::Unauthenticated
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::NotFound
                // An older gateway, and a value that is too large for us: both stay so.
                | Code::Unimplemented
                | Code::OutOfRange => None,
                _ => {
                    let details = status.get_error_details();
                    let told = details.retry_info().and_then(|info| info.retry_delay);
                    Some(told.unwrap_or_default())
                }
            },
            Self::Usage(_) | Self::Failed(_) | Self::Unread => None,
        }
    }

    /// Whether a watch ended with its token.
    pub(crate) fn is_token_over(&self) -> bool {
        matches!(self, Self::Refused(status) if reason(status) == "TOKEN_OVER")
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unread => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Away(_) => 6,
            Self::Refused(status) => match status.code() {
                Code::InvalidArgument => 2,
                Code::NotFound => 3,
                Code::AlreadyExists | Code::Aborted => 4,
                Code::Unauthenticated | Code::PermissionDenied => 5,
                // Cancelled is our own timeout.
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => 6,
                // A limit stays one.
                Code::ResourceExhausted if status.get_error_details().retry_info().is_some() => 6,
                _ => 1,
            },
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Away(text) | Self::Failed(text) => f.write_str(text),
            Self::Unread => Ok(()),
            Self::Refused(status) => {
                let reason = reason(status);
                write!(f, "{}", status.message())?;
                if !reason.is_empty() {
                    write!(f, " ({reason})")?;
                }
                match &*reason {
                    "TOKEN_MISSING" | "TOKEN_CLAIM" | "TOKEN_SIGNATURE" | "TOKEN_MALFORMED" | "TOKEN_OVER" => {
                        f.write_str("\n  fix: set TAGWAY_TOKEN; in development: tagway token --tenant acme")
                    }
                    "PERMISSION_MISSING" => f.write_str("\n  fix: a token with that permission"),
                    "" if status.code() == Code::Unknown => {
                        f.write_str("\n  fix: TAGWAY_ENDPOINT is where the gateway listens for gRPC, not for operators")
                    }
                    "CHANGED" => f.write_str("\n  fix: get the key again and use its etag"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Why, in one stable word; none where it was no gateway that said it.
fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Keys(_)
            | StartError::Tls(_)
            | StartError::PageTokenKey { .. }
            | StartError::Region { .. }
            | StartError::EventsRegion(_) => Self::Usage(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// What is written goes to stdout, so that a broken pipe is the only failure of interest.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Unread
        } else {
            Self::Failed(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_what_may_pass_is_worth_another_try() {
        let exhausted = |details| Status::with_error_details(Code::ResourceExhausted, "", details);
        let code = |status: Status| format!("{:?}", Failure::from(status).exit_code());
        let quota = exhausted(ErrorDetails::with_retry_info(Some(Duration::from_secs(1))));
        assert_eq!(code(quota), format!("{:?}", ExitCode::from(6)));
        let limit = exhausted(ErrorDetails::with_error_info("LIST_TOO_LARGE", "tagway", []));
        assert_eq!(code(limit), format!("{:?}", ExitCode::from(1)));
    }
}
