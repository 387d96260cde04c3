//! Gives the errors that tonic makes itself (a message too long, bytes that are no message) the shape that all others
//! have.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::status;

#[derive(Clone)]
pub(super) struct ShapeLayer;

impl<S> Layer<S> for ShapeLayer {
    type Service = Shape<S>;

    fn layer(&self, inner: S) -> Shape<S> {
        Shape(inner)
    }
}

#[derive(Clone)]
pub(super) struct Shape<S>(S);

impl<S, B> Service<Request<B>> for Shape<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // An error without a body has its status in the headers; ours has details there, tonic's has none.
            Ok(match Status::from_header_map(answer.headers()) {
                Some(error) if error.code() != Code::Ok && error.details().is_empty() => shaped(&error).into_http(),
                _ => answer,
            })
        })
    }
}

fn shaped(error: &Status) -> Status {
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
