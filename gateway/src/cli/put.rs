//! `tagway put`

use std::fs;
use std::io::{self, Read, Write};

use clap::Args;
use tagway_proto::v1;

use super::client::{self, Conditions, Gateway, Output};
use super::failure::Failure;

/// Example: tagway put tenant_config_limits '{"requests": 100}'
#[derive(Args)]
#[command(after_help = "Examples: tagway put tenant_config_limits '{\"requests\": 100}'
          tagway put tenant_config_limits @limits.json --if-match 01JD...-3
          generate | tagway put tenant_config_limits -")]
pub(super) struct Put {
    /// Tag and name
    key: String,
    /// The value; @FILE for a file's bytes, - or nothing for stdin's
    #[arg(default_value = "-", hide_default_value = true)]
    value: String,
    /// What the value is; application/json unless said
    #[arg(long, default_value = "", hide_default_value = true)]
    content_type: String,
    /// Keep it encrypted
    #[arg(long)]
    secret: bool,
    #[command(flatten)]
    conditions: Conditions,
    /// A dimension for the strategy; several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = client::dimension)]
    context: Vec<(String, String)>,
    #[command(flatten)]
    gateway: Gateway,
}

impl Put {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = v1::PutConfigRequest {
            value: value(&self.value)?.into(),
            key: self.key,
            content_type: self.content_type,
            precondition: self.conditions.message(),
            context: self.context.into_iter().collect(),
            request_id: String::new(),
            secret: self.secret,
            scope: v1::Scope::Unspecified.into(),
        };
        let answer = self.gateway.connect().await?.put_config(request).await?.into_inner();
        let config = answer.config.unwrap_or_default();
        if self.gateway.output() == Output::Json {
            return client::print(client::object(&config));
        }
        Ok(writeln!(
            io::stdout(),
            "{} is at version {}, etag {}",
            config.key,
            config.version,
            config.etag
        )?)
    }
}

fn value(argument: &str) -> Result<Vec<u8>, Failure> {
    if argument == "-" {
        let mut value = Vec::new();
        io::stdin().lock().read_to_end(&mut value)?;
        return Ok(value);
    }
    match argument.strip_prefix('@') {
        Some(file) => fs::read(file).map_err(|error| Failure::Usage(format!("{file}: {error}"))),
        None => Ok(argument.as_bytes().to_vec()),
    }
}
