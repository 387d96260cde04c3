//! `tagway rollback`

use clap::Args;
use tagway_proto::v1;

use super::client::{Conditions, Context, Gateway, Scope};
use super::failure::Failure;

/// The arguments of `tagway rollback`.
#[derive(Args)]
#[command(after_help = "Example: tagway rollback tenant_config_limits 3")]
pub(super) struct Rollback {
    /// Tag and name
    key: String,
    /// The version to go back to, as `tagway history` names it
    version: u64,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    gateway: Gateway,
}

impl Rollback {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = v1::RollbackConfigRequest {
            key: self.key,
            version: self.version,
            precondition: self.conditions.message(),
            context: self.context.message(),
            request_id: String::new(),
            scope: self.scope.message(),
        };
        let answer = self.gateway.connect().await?.rollback_config(request).await?;
        self.gateway
            .print_written(&answer.into_inner().config.unwrap_or_default())
    }
}
