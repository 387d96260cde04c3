//! Ministack: all of AWS that the gateway uses, in one process. Slow, and never throttled. Its Parameter Store is as strict
//! as AWS documents it and sends the events that AWS sends, by `python/parameters.py`; its buses are there or not, by `python/buses.py`.

use crate::server::Server;

/// The account that everything in a [`Ministack`] belongs to.
pub const ACCOUNT: &str = "123456789012";

/// One that runs, with nothing in it. It forgets everything when it ends.
pub struct Ministack(Server);

impl Ministack {
    /// One that believes every caller.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("false")
    }

    /// One that checks signatures and evaluates IAM policies, with what `python/policies.py` adds: variables,
    /// `dynamodb:LeadingKeys`, and what one request to Parameter Store is about. The access key `test` is the account's root and may do everything; other keys come from
    /// IAM or STS.
    #[must_use]
    pub fn start_with_auth() -> Self {
        Self::start_with("true")
    }

    fn start_with(auth: &str) -> Self {
        let services = "cloudformation,dynamodb,ssm,events,sqs,sns,sts,iam,s3,lambda,cognito-idp,kms,pipes";
        let variables = [
            ("AUTH", auth),
            // It would listen on a well-known port.
            ("IOT_MTLS_ENABLED", "0"),
            ("LOG_LEVEL", "WARNING"),
            ("MINISTACK_ACCOUNT_ID", ACCOUNT),
            ("SERVICES", services),
        ];
        Self(Server::start(&["ministack"], &variables, "/_ministack/health"))
    }

    /// What goes into `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}
