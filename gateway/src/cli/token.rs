//! `tagway token`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use tagway::clock::Clock;
use tagway::identity::development::{Claims, DevelopmentKey};
use tagway::key::TenantId;
use tagway::settings::Permission;

use super::failure::Failure;

/// The arguments of `tagway token`.
#[derive(Args)]
#[command(after_help = "Example: export TAGWAY_TOKEN=$(tagway token --tenant acme --permissions read,write)")]
pub(super) struct Token {
    /// The tenant; several times: one token for all of them, of which x-tagway-tenant picks
    #[arg(long, required = true, value_name = "TENANT")]
    tenant: Vec<TenantId>,
    /// What its bearer may do: read, write, share, admin
    #[arg(long, value_delimiter = ',', default_value = "read,write", value_parser = permission)]
    permissions: Vec<Permission>,
    /// Who bears it
    #[arg(long, default_value = "developer", value_parser = subject)]
    subject: String,
    /// For how long it is good
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    lifetime: std::time::Duration,
    /// A further claim, for strategies that ask for it
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// Where the gateway keeps its signing key
    #[arg(long, value_name = "FOLDER", default_value = super::serve::DATA)]
    data: PathBuf,
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failure> {
        let key = DevelopmentKey::open(&self.data).map_err(|error| {
            Failure::Failed(format!(
                "{error}\n  fix: run `tagway serve` here once, or name its folder with --data"
            ))
        })?;
        let tenants: Vec<String> = self.tenant.iter().map(ToString::to_string).collect();
        let further = self.claim.into_iter().map(|(name, value)| (name, Value::String(value)));
        let token = key.mint(
            &Claims {
                tenants: &tenants,
                subject: &self.subject,
                permissions: &self.permissions,
                lifetime: self.lifetime,
                further: &further.collect(),
            },
            &Clock::system(),
        )?;
        Ok(writeln!(io::stdout(), "{}", token.reveal())?)
    }
}

fn permission(text: &str) -> Result<Permission, String> {
    Permission::ALL
        .into_iter()
        .find(|permission| permission.to_string() == text)
        .ok_or_else(|| "one of read, write, share, admin".to_owned())
}

fn subject(text: &str) -> Result<String, String> {
    if (1..=256).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("1 to 256 bytes without control characters".to_owned())
    }
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    if ["iss", "aud", "sub", "iat", "exp", "scope", "tenant_id"].contains(&name) {
        return Err(format!("`{name}` is said by the other arguments"));
    }
    Ok((name.to_owned(), value.to_owned()))
}
