//! `tagway rollback`

use clap::Args;
use tagway_proto::v1;

use super::client::{self, Conditions, Gateway};
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
    /// A dimension for the strategy; several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = client::dimension)]
    context: Vec<(String, String)>,
    #[command(flatten)]
    gateway: Gateway,
}

impl Rollback {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = v1::RollbackConfigRequest {
            key: self.key,
            version: self.version,
            precondition: self.conditions.message(),
            context: self.context.into_iter().collect(),
            request_id: String::new(),
            scope: v1::Scope::Unspecified.into(),
        };
        let answer = self.gateway.connect().await?.rollback_config(request).await?;
        self.gateway
            .print_written(&answer.into_inner().config.unwrap_or_default())
    }
}
