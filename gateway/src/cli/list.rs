//! `tagway list`

use clap::Args;
use tagway_proto::v1;

use super::client::{self, Context, Gateway, Output};
use super::failure::Failure;

/// The arguments of `tagway list`.
#[derive(Args)]
#[command(after_help = "Example: tagway list tenant_config_ --keys-only")]
pub(super) struct List {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Leave values out
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    gateway: Gateway,
}

impl List {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut gateway = self.gateway.connect().await?;
        let text = self.gateway.output() == Output::Text;
        let mut request = v1::ListConfigsRequest {
            prefix: self.prefix,
            page_size: 1000,
            page_token: String::new(),
            keys_only: self.keys_only || text,
            context: self.context.message(),
        };
        loop {
            let page = gateway.list_configs(request.clone()).await?.into_inner();
            for config in &page.configs {
                match (text, self.keys_only) {
                    (true, _) => client::print_line(config)?,
                    (false, true) => client::print(client::object(config))?,
                    (false, false) => client::print(client::object_with_value(config))?,
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            request.page_token = page.next_page_token;
        }
    }
}
