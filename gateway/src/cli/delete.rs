//! `tagway delete`

use std::io::{self, Write};

use clap::Args;
use serde_json::{Map, json};
use tagway_proto::v1;

use super::client::{self, Conditions, Context, Gateway, Output, Scope};
use super::failure::Failure;

/// The arguments of `tagway delete`.
#[derive(Args)]
#[command(after_help = "Example: tagway delete tenant_config_limits --allow-missing")]
pub(super) struct Delete {
    /// Tag and name
    key: String,
    /// Fine if there is no such key
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    gateway: Gateway,
}

impl Delete {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let key = self.key.clone();
        let request = v1::DeleteConfigRequest {
            key: self.key,
            precondition: self.conditions.message(),
            context: self.context.message(),
            allow_missing: self.allow_missing,
            request_id: String::new(),
            scope: self.scope.message(),
        };
        self.gateway.connect().await?.delete_config(request).await?;
        if self.gateway.output() == Output::Json {
            return client::print(Map::from_iter([("deleted".to_owned(), json!(key))]));
        }
        Ok(writeln!(io::stdout(), "{key} is deleted")?)
    }
}
