//! A backup as an operator sees it: how far it is, and in the end where.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use tagway_proto::v1::BackupStoreResponse;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::admin_service::By;
use super::status::{self, status};
use crate::audit::{Audit, Outcome, Record};
use crate::backend::embedded::{Backup, BackupError, Contents, NoBackup};

/// What is on its way to who waits.
pub(super) type Progress = ReceiverStream<Result<BackupStoreResponse, Status>>;

/// Between two messages. One is enough to show that it goes on.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes a backup, unless who asked for it leaves.
pub(super) fn make(backup: Backup, by: By, audit: Arc<Audit>) -> Progress {
    // One that tells how far it is, and the last one.
    let (tell, told) = mpsc::channel(2);
    tokio::spawn(async move {
        let last = made(backup, by, &audit, tell.clone()).await;
        // Where nobody is left there is nobody to tell.
        _ = tell.send(last).await;
    });
    ReceiverStream::new(told)
}

type Tell = mpsc::Sender<Result<BackupStoreResponse, Status>>;

async fn made(backup: Backup, by: By, audit: &Audit, tell: Tell) -> Result<BackupStoreResponse, Status> {
    let place = audit.reserve().await.map_err(status::unaudited)?;
    let id = Arc::clone(backup.id());
    let made = tokio::task::spawn_blocking(move || {
        let last = Cell::new(Instant::now());
        backup.make(|contents| {
            if last.get().elapsed() >= PAUSE {
                last.set(Instant::now());
                // Who is slow to read is told later.
                _ = tell.try_send(Ok(message(contents)));
            }
            !tell.is_closed()
        })
    });
    let made = made.await.map_err(|_| status::internal("the backup broke down"))?;
    let answer = made
        .map_err(|error| failed(&error))
        .map(|(contents, file)| BackupStoreResponse {
            file: file.display().to_string(),
            newest: Some(Timestamp::from(contents.newest())),
            ..message(&contents)
        });
    let record = Record {
        reason: if answer.is_ok() { "" } else { "BACKUP_FAILED" },
        subject: by.subject(),
        peer: &by.peer,
        backend: &id,
        ..Record::new(
            "BackupStore",
            if answer.is_ok() {
                Outcome::Done
            } else {
                Outcome::Refused
            },
        )
    };
    place.done(record).await.map_err(status::unaudited)?;
    match &answer {
        Ok(made) => tracing::info!(
            backend = &*id,
            file = made.file,
            keys = made.keys,
            "a store was backed up"
        ),
        Err(error) => tracing::error!(backend = &*id, error = error.message(), "a store was not backed up"),
    }
    answer
}

fn message(contents: &Contents) -> BackupStoreResponse {
    BackupStoreResponse {
        keys: contents.keys,
        versions: contents.versions,
        bytes: contents.bytes,
        ..BackupStoreResponse::default()
    }
}

/// Why one does not begin.
pub(super) fn none(problem: &NoBackup) -> Status {
    let message = problem.to_string();
    match problem {
        NoBackup::Unknown(_) | NoBackup::Which(_) => status::invalid("backend", message),
        NoBackup::Nowhere(_) => status(Code::FailedPrecondition, "BACKUPS_NOWHERE", message),
        NoBackup::Folder { .. } => status(Code::FailedPrecondition, "BACKUP_FAILED", message),
        NoBackup::UnderWay => status(Code::Aborted, "BACKUP_UNDER_WAY", message),
    }
}

fn failed(error: &BackupError) -> Status {
    let code = match error {
        BackupError::Store(_) => Code::Unavailable,
        BackupError::Full => Code::ResourceExhausted,
        BackupError::Folder(_) => Code::FailedPrecondition,
        BackupError::Left => Code::Cancelled,
    };
    status(code, "BACKUP_FAILED", error.to_string())
}
