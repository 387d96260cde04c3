//! `tagway provision`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use tagway::app;
use tagway::backend::dynamodb::Table;
use tagway::settings::Settings;

use super::client::block_on;
use super::failure::Failure;

/// The arguments of `tagway provision`.
#[derive(Args)]
#[command(after_help = "Example: tagway provision tagway.toml --dry-run")]
pub(super) struct Provision {
    /// Settings
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Provision {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = Settings::load(&self.file, super::variables()?)?;
        block_on(async {
            let mut out = io::stdout();
            let tables = settings
                .backends
                .iter()
                .filter_map(|(id, backend)| Some((id, backend, backend.table.as_ref()?)));
            let mut any = false;
            for (id, backend, name) in tables {
                any = true;
                let table = Table::new(app::at_aws(id, backend, 1), name).await;
                let table = table.map_err(|error| Failure::Usage(format!("backends.{id}.region: {error}")))?;
                self.provision(&table, id, name).await?;
            }
            if !any {
                writeln!(out, "nothing to provision: no backend has the kind dynamodb")?;
            }
            Ok(())
        })
    }

    async fn provision(&self, table: &Table, id: &str, name: &str) -> Result<(), Failure> {
        let failed = |error| Failure::Failed(format!("backends.{id}: table {name}: {error}"));
        let mut out = io::stdout();
        let steps = table.lacks().await.map_err(failed)?;
        if steps.is_empty() {
            writeln!(out, "{id}: table {name} is as it has to be")?;
        }
        for step in steps {
            if self.dry_run {
                writeln!(out, "{id}: table {name}: would {step}")?;
                continue;
            }
            table.take(step).await.map_err(failed)?;
            writeln!(out, "{id}: table {name}: done: {step}")?;
        }
        Ok(())
    }
}
