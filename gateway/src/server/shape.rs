//! Gives the errors that tonic makes itself (a message too long, bytes that are no message) the shape that all others
//! have.

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};

use super::around::{Around, Next};
use super::status;

#[derive(Clone)]
pub(super) struct Shape;

impl Around for Shape {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let answer = next.run(request).await;
        // An error without a body has its status in the headers; ours has details there, tonic's has none.
        match Status::from_header_map(answer.headers()) {
            Some(error) if error.code() != Code::Ok && error.details().is_empty() => shaped(&error).into_http(),
            _ => answer,
        }
    }
}

pub(super) fn shaped(error: &Status) -> Status {
    match error.code() {
        Code::OutOfRange => status::status(
            Code::InvalidArgument,
            "REQUEST_TOO_LARGE",
            "the message has more bytes than limits.request_bytes allows",
        ),
        // prost could not read it.
        Code::Internal => status::status(Code::InvalidArgument, "REQUEST_MALFORMED", error.message()),
        Code::Unimplemented => status::status(Code::Unimplemented, "UNIMPLEMENTED", "no such method, or compression"),
        code => status::status(code, "TRANSPORT", error.message()),
    }
}
