//! `tagway restore`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::Args;
use tagway::backend::embedded::{self, Contents, RestoreError};
use tagway::clock::Clock;
use tagway::settings::{BackendKind, Settings, development};

use super::failure::Failure;

/// The arguments of `tagway restore`.
#[derive(Args)]
#[command(after_help = "\
What was written since the backup is gone. No etag that was ever given is one of a restored state, so nobody takes one for the other:
watchers are sent what stands, and writes with if_match read again first.

Examples: tagway restore --check local-2026-11-28T201347.000Z.redb
          tagway restore local-2026-11-28T201347.000Z.redb --config tagway.toml --replace")]
pub(super) struct Restore {
    /// A backup
    #[arg(value_name = "FILE")]
    backup: PathBuf,
    /// Only read it whole, and say what it holds
    #[arg(long, conflicts_with_all = ["backend", "replace"])]
    check: bool,
    /// Settings, which say where the store is; without, it is the one of --data
    #[arg(long, value_name = "FILE", env = "TAGWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Where a gateway for development keeps its store
    #[arg(long, value_name = "FOLDER", default_value = super::serve::DATA, conflicts_with = "config")]
    data: PathBuf,
    /// Which store; the only embedded one, unless said
    #[arg(long, value_name = "ID")]
    backend: Option<String>,
    /// Put it in the place of what is there, which is kept beside it
    #[arg(long)]
    replace: bool,
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.check {
            let contents = embedded::check(&self.backup);
            let contents = contents.map_err(|error| Failure::Failed(format!("{}: {error}", self.backup.display())))?;
            return say(&self.backup, "is whole", &contents);
        }
        let settings = match &self.config {
            Some(file) => Settings::load(file, super::variables()?)?,
            None => development::development(&self.data, super::variables()?)?,
        };
        let (store, history) = self.store(&settings)?;
        let now = Clock::system().now();
        let restored = embedded::restore(&self.backup, &store, history, now, self.replace);
        let restored = restored.map_err(|error| match error {
            RestoreError::Exists(_) | RestoreError::InUse(_) => Failure::Usage(error.to_string()),
            error => Failure::Failed(error.to_string()),
        })?;
        say(&store, "is restored", &restored.contents)?;
        if let Some(replaced) = restored.replaced {
            writeln!(io::stdout(), "what was there is {}", replaced.display())?;
        }
        Ok(())
    }

    /// Where the store is that is meant, and how many versions it keeps.
    fn store(&self, settings: &Settings) -> Result<(PathBuf, u32), Failure> {
        let embedded = settings.backends.iter();
        let mut embedded = embedded.filter(|(_, backend)| backend.kind == BackendKind::Embedded);
        let found = match &self.backend {
            Some(id) => embedded.find(|(of, _)| *of == id),
            None => embedded.next().filter(|_| embedded.next().is_none()),
        };
        let problem = match &self.backend {
            Some(id) => format!("--backend: the settings have no embedded store `{id}`"),
            None => "--backend: the settings do not have exactly one embedded store: say which".to_owned(),
        };
        let (_, backend) = found.ok_or_else(|| Failure::Usage(problem.clone()))?;
        let path = backend.path.clone().ok_or(Failure::Usage(problem))?;
        Ok((path, backend.history()))
    }
}

fn say(file: &Path, is_so: &str, contents: &Contents) -> Result<(), Failure> {
    Ok(writeln!(
        io::stdout(),
        "{} {is_so}: {} keys of {}, {} versions, the newest of {}",
        file.display(),
        contents.keys,
        ByteSize(contents.bytes),
        contents.versions,
        humantime::format_rfc3339_seconds(contents.newest())
    )?)
}
