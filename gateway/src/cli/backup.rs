//! `tagway backup`

use std::io::{self, Write};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Map, json};
use tagway_proto::v1;

use super::client::{self, Admin, Output};
use super::failure::Failure;

/// A large store takes its time. Where nothing comes any more, the connection's pings notice.
const LONGEST: Duration = Duration::from_hours(24);

/// The arguments of `tagway backup`.
#[derive(Args)]
#[command(
    after_help = "The file is on the gateway's machine, in the folder backends.<id>.backups: the values in it are all tenants',\n\
                        and go to nobody. `tagway restore --check` reads it whole.\n\nExample: tagway backup local"
)]
pub(super) struct Backup {
    /// Which store; the only embedded one, unless said
    #[arg(default_value = "", hide_default_value = true)]
    backend: String,
    #[command(flatten)]
    gateway: Admin,
}

impl Backup {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = self.gateway.connect(LONGEST).await?;
        let request = v1::BackupStoreRequest {
            backend: self.backend.clone(),
        };
        let mut told = client.backup_store(request).await?.into_inner();
        let progress = client::progress(None);
        while let Some(backup) = told.message().await? {
            progress.set_position(backup.keys);
            if !backup.file.is_empty() {
                progress.finish_and_clear();
                return self.print(&backup);
            }
        }
        Err(Failure::Away("the gateway went before the backup was whole".to_owned()))
    }

    fn print(&self, backup: &v1::BackupStoreResponse) -> Result<(), Failure> {
        if self.gateway.output() == Output::Json {
            return client::print(Map::from_iter([
                ("file".to_owned(), json!(backup.file)),
                ("keys".to_owned(), json!(backup.keys)),
                ("versions".to_owned(), json!(backup.versions)),
                ("bytes".to_owned(), json!(backup.bytes)),
                (
                    "newest".to_owned(),
                    json!(backup.newest.map(|newest| newest.to_string())),
                ),
            ]));
        }
        Ok(writeln!(
            io::stdout(),
            "{}: {} keys of {}, {} versions",
            backup.file,
            backup.keys,
            ByteSize(backup.bytes),
            backup.versions
        )?)
    }
}
