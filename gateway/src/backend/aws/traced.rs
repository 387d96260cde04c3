//! What is sent to AWS says which trace it belongs to, for proxies and collectors on the way.

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use crate::telemetry::traceparent;

/// Puts it into the headers, after they were signed: AWS does not look at it.
#[derive(Debug)]
pub(crate) struct Traced;

impl Intercept for Traced {
    fn name(&self) -> &'static str {
        "Traced"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(traceparent) = traceparent() {
            context.request_mut().headers_mut().insert("traceparent", traceparent);
        }
        Ok(())
    }
}
