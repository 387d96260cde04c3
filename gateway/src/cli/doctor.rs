//! `tagway doctor`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, json};
use tagway::clock::Clock;
use tagway::doctor::{Finding, Verdict, examine};
use tagway::settings::Settings;

use super::client::{self, Output};
use super::failure::Failure;

/// The arguments of `tagway doctor`.
#[derive(Args)]
#[command(
    after_help = "It changes nothing. Exits with 1 where something fails; what is a warning lets a gateway serve.\n\n\
                  Example: tagway doctor tagway.toml"
)]
pub(super) struct Doctor {
    /// Settings
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How findings look; text on a terminal and json elsewhere, unless said
    #[arg(long)]
    output: Option<Output>,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = Settings::load(&self.file, super::variables()?)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let findings = runtime.block_on(examine(&self.file, settings, Clock::system()));
        // Whoever hangs was told, and keeps nobody.
        runtime.shutdown_background();
        let output = client::output(self.output);
        for finding in &findings {
            print(finding, output)?;
        }
        let failed = findings
            .iter()
            .filter(|finding| matches!(finding.verdict, Verdict::Fail { .. }));
        let failed: Vec<&str> = failed.map(|finding| &*finding.subject).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Failure::Failed(format!("failed: {}", failed.join(", "))))
        }
    }
}

fn print(finding: &Finding, output: Output) -> Result<(), Failure> {
    let Finding {
        subject,
        found,
        verdict,
    } = finding;
    let verdict_shown = verdict.to_string();
    if output == Output::Json {
        return client::print(Map::from_iter([
            ("verdict".to_owned(), json!(verdict_shown)),
            ("subject".to_owned(), json!(subject)),
            ("found".to_owned(), json!(found)),
            ("fix".to_owned(), json!(verdict.fix())),
        ]));
    }
    // What others said may have lines of its own.
    let line = |text: &str| text.lines().collect::<Vec<_>>().join("; ");
    let mut out = io::stdout().lock();
    writeln!(out, "{verdict_shown:<5} {subject:<28} {}", line(found))?;
    if let Some(fix) = verdict.fix() {
        writeln!(out, "      fix: {}", line(fix))?;
    }
    Ok(())
}
