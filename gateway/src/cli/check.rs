//! `tagway check`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use tagway::app;
use tagway::settings::{Listen, Settings};

use super::client::block_on;
use super::failure::Failure;

/// The arguments of `tagway check`.
#[derive(Args)]
#[command(after_help = "Example: tagway check tagway.toml")]
pub(super) struct Check {
    /// Settings
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = Settings::load(&self.file, super::variables()?)?;
        let registry = block_on(async { Ok(app::check(&settings).await?) })?;
        let mut out = io::stdout().lock();
        writeln!(out, "listens    {} for gRPC", settings.server.listen)?;
        if let Listen::At(address) = settings.server.ops_listen {
            writeln!(out, "listens    {address} for operators")?;
        }
        let keys = settings
            .identity
            .jwks
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        writeln!(out, "issuer     {}, keys from {keys}", settings.identity.issuer)?;
        for (id, backend) in &settings.backends {
            writeln!(out, "backend    {id}: {}", backend.kind)?;
        }
        let snapshot = registry.current();
        let mut strategies: Vec<_> = snapshot.strategies().collect();
        strategies.sort_by(|a, b| a.name().cmp(b.name()));
        for strategy in strategies {
            let tags: Vec<&str> = strategy.tags().iter().map(tagway::key::Tag::as_str).collect();
            writeln!(
                out,
                "strategy   {} {}: {}, {}",
                strategy.name(),
                strategy.version(),
                tags.join(" "),
                strategy.digest()
            )?;
        }
        out.flush()?;
        let rejected: Vec<String> = snapshot.rejected().map(ToString::to_string).collect();
        if rejected.is_empty() {
            Ok(())
        } else {
            Err(Failure::Usage(rejected.join("\n")))
        }
    }
}
