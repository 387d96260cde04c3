//! `tagway put`

use std::fs::File;
use std::io::{self, Read};

use clap::Args;
use tagway_proto::v1;

use super::client::{Conditions, Context, Gateway, Scope};
use super::failure::Failure;

/// More than any gateway takes.
const VALUE_BYTES: u64 = 64 << 20;

/// The arguments of `tagway put`.
#[derive(Args)]
#[command(after_help = "Examples: tagway put tenant_config_limits '{\"requests\": 100}'
          tagway put tenant_config_limits @limits.json --if-match 01JD...-3
          generate | tagway put tenant_config_limits -")]
pub(super) struct Put {
    /// Tag and name
    key: String,
    /// The value; @FILE for a file's bytes, - for stdin's
    value: String,
    /// What the value is; application/json unless said
    #[arg(long, default_value = "", hide_default_value = true)]
    content_type: String,
    /// Keep it encrypted
    #[arg(long)]
    secret: bool,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    scope: Scope,
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
            context: self.context.message(),
            request_id: String::new(),
            secret: self.secret,
            scope: self.scope.message(),
        };
        let answer = self.gateway.connect().await?.put_config(request).await?;
        self.gateway
            .print_written(&answer.into_inner().config.unwrap_or_default())
    }
}

fn value(argument: &str) -> Result<Vec<u8>, Failure> {
    let (name, source): (&str, Box<dyn Read>) = match argument.strip_prefix('@') {
        _ if argument == "-" => ("stdin", Box::new(io::stdin())),
        Some(file) => {
            let opened = File::open(file).map_err(|error| Failure::Usage(format!("{file}: {error}")))?;
            (file, Box::new(opened))
        }
        None => return Ok(argument.as_bytes().to_vec()),
    };
    let mut value = Vec::new();
    let read = source.take(VALUE_BYTES + 1).read_to_end(&mut value);
    read.map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
    if value.len() as u64 > VALUE_BYTES {
        return Err(Failure::Usage(format!(
            "{name}: more than 64 MiB, and no gateway takes that"
        )));
    }
    Ok(value)
}
