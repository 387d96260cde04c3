//! The one thread that writes: whatever waits goes into one transaction and one sync.

use std::io;
use std::sync::Arc;
use std::thread;

use redb::{Database, ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::super::{BackendError, Entry, NewEntry, Precondition, WriteError};
use super::record::{Record, micros};
use super::{CHANGES, HISTORY, VALUES, away};
use crate::clock::Clock;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life};

/// Most changes of one transaction. What one sync is shared by, and what one failed sync fails.
const GROUP: usize = 256;
/// Changes that may wait. More wait where they are asked for, within their callers' deadlines.
const QUEUE: usize = 2 * GROUP;
/// Changes that the log keeps.
const LOG: u64 = 100_000;

pub(super) enum Change {
    Put(NewEntry),
    Delete,
}

struct Job {
    path: String,
    by: Arc<str>,
    change: Change,
    precondition: Precondition,
    done: oneshot::Sender<Result<Option<Entry>, WriteError>>,
}

/// The way to the thread, which ends when this is dropped and what waits is done.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(database: Arc<Database>, history: u32, clock: Clock) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new().name("tagway-writer".to_owned()).spawn(move || {
            Group {
                database,
                history: u64::from(history),
                clock,
            }
            .serve(waiting);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Makes a change durable. Returns what stands at `path` after a put, and what stood there before a delete.
    pub(super) async fn apply(
        &self,
        tenant: &VerifiedTenant,
        path: String,
        change: Change,
        precondition: Precondition,
    ) -> Result<Option<Entry>, WriteError> {
        let stopped = || BackendError::Away("the writer has stopped".to_owned());
        let (done, answer) = oneshot::channel();
        let job = Job {
            path,
            by: Arc::clone(tenant.caller().subject()),
            change,
            precondition,
            done,
        };
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was its callers' to see.
            _ = thread.join();
        }
    }
}

struct Group {
    database: Arc<Database>,
    history: u64,
    clock: Clock,
}

impl Group {
    fn serve(&self, mut waiting: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP);
        while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
            match self.commit(&group) {
                Ok(answers) => {
                    for (job, answer) in group.drain(..).zip(answers) {
                        // Who left does not care any more; the change is made all the same.
                        _ = job.done.send(answer);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, changes = group.len(), "the embedded store could not write");
                    for job in group.drain(..) {
                        _ = job.done.send(Err(error.clone().into()));
                    }
                }
            }
        }
    }

    /// All of the group's changes that may happen, or none. What one of them may not do is its answer, and no failure.
    fn commit(&self, group: &[Job]) -> Result<Vec<Result<Option<Entry>, WriteError>>, BackendError> {
        let commit = || -> Result<Vec<_>, redb::Error> {
            let mut transaction = self.database.begin_write()?;
            // Tenants choose what is written, and redb's checksums are no match for somebody who chooses: only with
            // the second sync is a commit that was cut off told from one that was not, whatever its pages hold.
            transaction.set_two_phase_commit(true);
            let answers = {
                let mut tables = Tables {
                    values: transaction.open_table(VALUES)?,
                    history: transaction.open_table(HISTORY)?,
                    changes: transaction.open_table(CHANGES)?,
                };
                let answers = group.iter().map(|job| self.apply(&mut tables, job));
                answers.collect::<Result<Vec<_>, redb::Error>>()?
            };
            transaction.commit()?;
            Ok(answers)
        };
        commit().map_err(|error| away(&error))
    }

    /// Changes the tables, or answers why not. Nothing has changed then.
    fn apply(&self, tables: &mut Tables<'_>, job: &Job) -> Result<Result<Option<Entry>, WriteError>, redb::Error> {
        let path = job.path.as_str();
        let standing = match tables
            .values
            .get(path)?
            .map(|found| Standing::read(found.value()))
            .transpose()
        {
            Ok(standing) => standing,
            Err(error) => return Ok(Err(error.into())),
        };
        let holds = match (job.precondition, &standing) {
            (Precondition::None, _) => true,
            (Precondition::Absent, standing) => standing.is_none(),
            (Precondition::Match(etag), standing) => standing.as_ref().is_some_and(|standing| standing.etag == etag),
        };
        if !holds {
            return Ok(Err(WriteError::PreconditionFailed));
        }
        let before = match (&job.change, standing) {
            (Change::Delete, None) => return Ok(Ok(None)),
            (_, Some(standing)) => Some(standing),
            (Change::Put(_), None) => None,
        };
        // Lives of one key follow each other, also where the clock was set back between them.
        let last = match &before {
            Some(standing) => Some((standing.place, standing.etag)),
            None => match tables.last(path)?.transpose() {
                Ok(last) => last,
                Err(error) => return Ok(Err(error.into())),
            },
        };
        let now = self.clock.now();
        let etag = match (&before, last) {
            (Some(standing), _) => Etag {
                version: standing.etag.version + 1,
                ..standing.etag
            },
            (None, last) => Etag {
                life: Life::begin(now, last.map(|(_, etag)| etag.life)),
                version: 1,
            },
        };
        let place = last.map_or(0, |(place, _)| place) + 1;
        let put = match &job.change {
            Change::Put(entry) => Some(entry),
            Change::Delete => None,
        };
        let record = Record {
            life: etag.life.0.0,
            version: etag.version,
            place,
            deleted: put.is_none(),
            updated_at_micros: micros(now),
            updated_by: &job.by,
            content_type: put.map_or("", |entry| &entry.content_type),
            value: put.map_or(&[], |entry| &entry.value),
        };
        let bytes = match record.write() {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error.into())),
        };
        tables.put(path, put.is_some(), place, &bytes, etag, self.history)?;
        Ok(Ok(match put {
            Some(_) => Some(record.entry(true)),
            None => before.map(|standing| standing.entry),
        }))
    }
}

/// What a key holds before a change.
struct Standing {
    place: u64,
    etag: Etag,
    entry: Entry,
}

impl Standing {
    fn read(bytes: &[u8]) -> Result<Self, BackendError> {
        let record = Record::read(bytes)?;
        Ok(Self {
            place: record.place,
            etag: record.etag(),
            entry: record.entry(true),
        })
    }
}

struct Tables<'t> {
    values: Table<'t, &'static str, &'static [u8]>,
    history: Table<'t, (&'static str, u64), &'static [u8]>,
    changes: Table<'t, u64, (&'static str, &'static str)>,
}

impl Tables<'_> {
    /// Place and etag of the newest record in a key's history.
    #[allow(
        clippy::type_complexity,
        reason = "a failure to read the table, then one to read the record"
    )]
    fn last(&self, path: &str) -> Result<Option<Result<(u64, Etag), BackendError>>, redb::Error> {
        let newest = self
            .history
            .range((path, 0)..=(path, u64::MAX))?
            .next_back()
            .transpose()?;
        Ok(newest.map(|(_, bytes)| Record::read(bytes.value()).map(|record| (record.place, record.etag()))))
    }

    fn put(
        &mut self,
        path: &str,
        stands: bool,
        place: u64,
        bytes: &[u8],
        etag: Etag,
        history: u64,
    ) -> Result<(), redb::Error> {
        if stands {
            self.values.insert(path, bytes)?;
        } else {
            self.values.remove(path)?;
        }
        self.history.insert((path, place), bytes)?;
        if let Some(oldest) = place.checked_sub(history) {
            self.history.retain_in((path, 0)..=(path, oldest), |_, _| false)?;
        }
        let sequence = self.changes.last()?.map_or(0, |(sequence, _)| sequence.value()) + 1;
        self.changes.insert(sequence, (path, etag.to_string().as_str()))?;
        if let Some(oldest) = sequence.checked_sub(LOG) {
            self.changes.remove(oldest)?;
        }
        Ok(())
    }
}
