//! Ends a request at its caller's deadline (`grpc-timeout`), or at the operator's bound where that is nearer or the
//! caller has none. tonic's own timeout says CANCELLED; a deadline has a code of its own.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::timeout;
use tonic::body::Body;

use super::around::{Around, Next};
use super::status;

/// tonic keeps the caller's deadline too, and says CANCELLED. This one comes first by so much.
const AHEAD: Duration = Duration::from_millis(5);

/// The operator's bound.
#[derive(Clone)]
pub(super) struct Deadline {
    pub(super) at_most: Duration,
}

impl Around for Deadline {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let asked = grpc_timeout(request.headers()).map(|asked| asked.saturating_sub(AHEAD).max(asked / 2));
        let left = asked.map_or(self.at_most, |asked| asked.min(self.at_most));
        timeout(left, next.run(request))
            .await
            .unwrap_or_else(|_| status::deadline_exceeded().into_http())
    }
}

/// At most 8 digits and a unit (gRPC over HTTP/2, "Timeout"). What is malformed counts as not there.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_read_as_grpc_writes_them() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("99999999H"), Some(Duration::from_hours(99_999_999)));
        for malformed in ["", "m", "1", "100x", "-1S", "1.5S", "123456789S", "+1S"] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }
}
