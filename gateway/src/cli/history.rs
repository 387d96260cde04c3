//! `tagway history`

use clap::Args;
use tagway_proto::v1;

use super::client::{self, Context, Gateway, Output, Scope};
use super::failure::Failure;

/// The arguments of `tagway history`.
#[derive(Args)]
#[command(after_help = "Example: tagway history tenant_config_limits")]
pub(super) struct History {
    /// Tag and name
    key: String,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    gateway: Gateway,
}

impl History {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut gateway = self.gateway.connect().await?;
        let text = self.gateway.output() == Output::Text;
        let mut request = v1::ListConfigVersionsRequest {
            key: self.key,
            page_size: 100,
            page_token: String::new(),
            context: self.context.message(),
            scope: self.scope.message(),
        };
        loop {
            let page = gateway.list_config_versions(request.clone()).await?.into_inner();
            for config in &page.versions {
                if text {
                    client::print_line(config)?;
                } else {
                    client::print(client::object_with_value(config))?;
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            request.page_token = page.next_page_token;
        }
    }
}
