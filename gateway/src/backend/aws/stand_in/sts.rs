//! STS as an endpoint plays it: it gives keys that name their tenant.

use std::time::Duration;

use axum::body::Body;
use axum::http::Response;

use super::proxy::Call;

/// A role that is assumed for tenants.
pub(in crate::backend) const ROLE: &str = "arn:aws:iam::123456789012:role/tagway-tenant";

/// The answer to `AssumeRole`: the access key is `of-<tenant>`.
pub(in crate::backend) fn session(call: &Call, lifetime: Duration) -> Response<Body> {
    let form = call.body.as_str().unwrap();
    let field = |name: &str| {
        let value = form
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(ToOwned::to_owned)
    };
    assert_eq!(call.access_key, "test", "the gateway's own credentials assume the role");
    assert!(field("RoleArn").unwrap().ends_with("tagway-tenant"));
    assert_eq!(field("Tags.member.1.Key").unwrap(), "TenantId");
    assert_eq!(field("Tags.member.2.Key"), None);
    let tenant = field("Tags.member.1.Value").unwrap();
    assert_eq!(field("RoleSessionName").unwrap(), format!("tagway-{tenant}"));
    let expiry = humantime::format_rfc3339_seconds(crate::clock::Clock::system().now() + lifetime);
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><AssumedRoleUser>\
         <AssumedRoleId>AROA:x</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/tagway-tenant/x</Arn>\
         </AssumedRoleUser><Credentials><AccessKeyId>of-{tenant}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>{expiry}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    );
    Response::builder()
        .header("content-type", "text/xml")
        .body(body.into())
        .unwrap()
}

/// Whose the key of a call is. None: the gateway's own.
pub(in crate::backend) fn tenant_of(call: &Call) -> Option<&str> {
    call.access_key.strip_prefix("of-")
}
