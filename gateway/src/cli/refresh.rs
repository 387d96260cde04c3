//! `tagway refresh`

use std::io::{self, Write};

use clap::Args;
use serde_json::{Map, json};
use tagway_proto::v1;

use super::client::{self, Admin, Output};
use super::failure::Failure;

/// The arguments of `tagway refresh`.
#[derive(Args)]
#[command(after_help = "Example: tagway refresh --tenant acme tenant_config_limits")]
pub(super) struct Refresh {
    /// Keys; all, unless said
    keys: Vec<String>,
    /// Whose; everybody's, unless said
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,
    #[command(flatten)]
    gateway: Admin,
}

impl Refresh {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = v1::RefreshConfigsRequest {
            tenant: self.tenant,
            keys: self.keys,
            event: String::new(),
        };
        let mut client = self.gateway.connect(client::CALL).await?;
        let refreshed = client.refresh_configs(request).await?.into_inner().refreshed;
        if self.gateway.output() == Output::Json {
            return client::print(Map::from_iter([("refreshed".to_owned(), json!(refreshed))]));
        }
        Ok(writeln!(io::stdout(), "{refreshed} entries are looked at again")?)
    }
}
