//! `tagway get`

use std::io::{self, IsTerminal, Write};

use clap::Args;
use tagway_proto::v1;

use super::client::{self, Context, Gateway, Output, Scope};
use super::failure::Failure;

/// The arguments of `tagway get`.
#[derive(Args)]
#[command(after_help = "Example: tagway get tenant_config_payment-gateway --output text > payment.json")]
pub(super) struct Get {
    /// Tag and name
    key: String,
    /// An earlier version
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    version: u64,
    /// Ask the backend, whatever the gateway's cache holds
    #[arg(long)]
    latest: bool,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    gateway: Gateway,
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let consistency = if self.latest {
            v1::Consistency::Latest
        } else {
            v1::Consistency::Unspecified
        };
        let request = v1::GetConfigRequest {
            key: self.key,
            version: self.version,
            consistency: consistency.into(),
            context: self.context.message(),
            scope: self.scope.message(),
        };
        let answer = self.gateway.connect().await?.get_config(request).await?.into_inner();
        let config = answer.config.unwrap_or_default();
        if self.gateway.output() == Output::Json {
            return client::print(client::object_with_value(&config));
        }
        // The bytes themselves, so that they can be piped into a file.
        let mut out = io::stdout().lock();
        out.write_all(&config.value)?;
        if out.is_terminal() {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}
