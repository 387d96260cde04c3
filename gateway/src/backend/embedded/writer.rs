//! The one thread that writes: whatever waits goes into one transaction and one sync.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::super::{BackendError, Conditions, Entry, NewEntry, Precondition, WriteError};
use super::record::{Record, micros};
use super::requests::{Requests, Seen};
use super::store::Store;
use super::{CHANGES, HISTORY, REQUEST_AGES, REQUESTS, VALUES};
use crate::clock::Clock;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life, TenantId};

/// Most changes of one transaction. What one sync is shared by, and what one failed sync fails.
const GROUP: usize = 256;
/// Changes that may wait. More wait where they are asked for, within their callers' deadlines.
const QUEUE: usize = 2 * GROUP;
/// What a change may take of the disk besides its value: eight trees, eight pages deep, of 4 KiB.
const PER_CHANGE: u64 = 8 * 8 * 4096;
/// Changes that the log keeps.
const LOG: u64 = 100_000;

pub(super) enum Change {
    Put(NewEntry),
    /// `elsewhere`: whether the same request deleted the key in another store already.
    Delete {
        elsewhere: bool,
    },
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This stands after a put, or stood before a delete; without the value.
    Stood(Entry),
    /// Nothing stood here, but in another store.
    Elsewhere,
    /// Nothing stood anywhere.
    Nothing,
}

impl Change {
    fn value(&self) -> &[u8] {
        match self {
            Self::Put(entry) => &entry.value,
            Self::Delete { .. } => &[],
        }
    }
}

struct Job {
    tenant: TenantId,
    by: Arc<str>,
    path: String,
    change: Change,
    conditions: Conditions,
    done: oneshot::Sender<Result<Outcome, WriteError>>,
}

/// The way to the thread, which ends when this is dropped and what waits is done.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(store: Arc<Store>, history: u32, clock: Clock) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new().name("tagway-writer".to_owned()).spawn(move || {
            Group {
                store,
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

    /// Makes a change durable.
    pub(super) async fn apply(
        &self,
        tenant: &VerifiedTenant,
        path: String,
        change: Change,
        conditions: Conditions,
    ) -> Result<Outcome, WriteError> {
        let stopped = || BackendError::Away("the writer has stopped".to_owned());
        let (done, answer) = oneshot::channel();
        let job = Job {
            tenant: tenant.id().clone(),
            by: Arc::clone(tenant.caller().subject()),
            path,
            change,
            conditions,
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
    store: Arc<Store>,
    history: u64,
    clock: Clock,
}

impl Group {
    fn serve(&self, mut waiting: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP);
        while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
            self.write(&mut group);
        }
    }

    /// Makes what is in `group` durable, answers, and leaves it empty.
    fn write(&self, group: &mut Vec<Job>) {
        let committed = self.store.write(room(group), |database| self.commit(database, group));
        match committed {
            Ok(answers) => {
                for (job, answer) in group.drain(..).zip(answers) {
                    // Who left does not care any more; the change is made all the same.
                    _ = job.done.send(answer);
                }
            }
            // There is no room for all of them at once: one that takes little is not refused for what others take.
            Err(BackendError::Full) if group.len() > 1 => {
                let mut rest = group.split_off(group.len() / 2);
                self.write(group);
                self.write(&mut rest);
            }
            Err(error) => {
                tracing::error!(%error, changes = group.len(), "the embedded store could not write");
                for job in group.drain(..) {
                    _ = job.done.send(Err(error.clone().into()));
                }
            }
        }
    }

    /// All of the group's changes that may happen, or none. What one of them may not do is its answer, and no failure.
    fn commit(&self, database: &Database, group: &[Job]) -> Result<Vec<Result<Outcome, WriteError>>, BackendError> {
        let mut transaction = database.begin_write()?;
        // Tenants choose what is written, and redb's checksums are no match for somebody who chooses: only with the
        // second sync is a commit that was cut off told from one that was not, whatever its pages hold.
        transaction.set_two_phase_commit(true);
        let mut answers = Vec::with_capacity(group.len());
        {
            let mut tables = Tables::open(&transaction)?;
            let now = self.clock.now();
            tables.requests.forget(now)?;
            for job in group {
                match self.answer(&mut tables, job, now) {
                    // The tables cannot be trusted any more, so none of it happens.
                    Err(WriteError::Backend(error @ BackendError::Away(_))) => return Err(error),
                    answer => answers.push(answer),
                }
            }
        }
        transaction.commit()?;
        Ok(answers)
    }

    /// Answers as before, if it was asked before; else changes the tables, or answers why not. Nothing has changed then.
    fn answer(&self, tables: &mut Tables<'_>, job: &Job, now: SystemTime) -> Result<Outcome, WriteError> {
        let Some(once) = &job.conditions.once else {
            return self.apply(tables, job, now);
        };
        match tables.requests.seen(&job.tenant, once, now)? {
            Seen::Done(answer) => Ok(answer),
            Seen::Another => Err(WriteError::RequestReused),
            Seen::Never => {
                let answer = self.apply(tables, job, now)?;
                tables.requests.remember(&job.tenant, once, &answer, now)?;
                Ok(answer)
            }
        }
    }

    fn apply(&self, tables: &mut Tables<'_>, job: &Job, now: SystemTime) -> Result<Outcome, WriteError> {
        let path = job.path.as_str();
        let standing = tables.standing(path)?;
        let holds = match (job.conditions.precondition, &standing) {
            (Precondition::None, _) => true,
            (Precondition::Never, _) => false,
            (Precondition::Absent, standing) => standing.is_none(),
            (Precondition::Match(etag), standing) => standing.as_ref().is_some_and(|standing| standing.etag == etag),
        };
        if !holds {
            return Err(WriteError::PreconditionFailed);
        }
        if standing.is_none()
            && let Change::Delete { elsewhere } = job.change
        {
            return Ok(if elsewhere {
                Outcome::Elsewhere
            } else {
                Outcome::Nothing
            });
        }
        let (place, etag) = if let Some(standing) = &standing {
            let version = standing.etag.version + 1;
            (
                standing.place + 1,
                Etag {
                    version,
                    ..standing.etag
                },
            )
        } else {
            // Lives of one key follow each other, also where the clock was set back between them.
            let (place, before) = tables.last(path)?.unzip();
            let life = Life::begin(now, before.map(|etag| etag.life));
            (place.unwrap_or(0) + 1, Etag { life, version: 1 })
        };
        let put = match &job.change {
            Change::Put(entry) => Some(entry),
            Change::Delete { .. } => None,
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
        // Cut short in the middle it leaves tables that nothing may be committed of.
        let cut = |error: BackendError| BackendError::Away(error.to_string());
        tables.put(path, &record, self.history).map_err(cut)?;
        Ok(match standing {
            Some(standing) if put.is_none() => Outcome::Stood(standing.entry),
            _ => Outcome::Stood(record.entry(true)),
        })
    }
}

/// What a commit may take of the disk, at most, before it gives anything back: each value stands in two tables, and the
/// pages on the way to what changed are written anew, of five tables and of redb's own.
fn room(group: &[Job]) -> u64 {
    group
        .iter()
        .map(|job| PER_CHANGE + 3 * job.change.value().len() as u64)
        .sum()
}

/// What a key holds before a change.
struct Standing {
    place: u64,
    etag: Etag,
    entry: Entry,
}

pub(super) struct Tables<'t> {
    values: Table<'t, &'static str, &'static [u8]>,
    history: Table<'t, (&'static str, u64), &'static [u8]>,
    changes: Table<'t, u64, (&'static str, &'static str)>,
    requests: Requests<'t>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, BackendError> {
        Ok(Self {
            values: transaction.open_table(VALUES)?,
            history: transaction.open_table(HISTORY)?,
            changes: transaction.open_table(CHANGES)?,
            requests: Requests {
                by_id: transaction.open_table(REQUESTS)?,
                by_age: transaction.open_table(REQUEST_AGES)?,
            },
        })
    }

    fn standing(&self, path: &str) -> Result<Option<Standing>, BackendError> {
        let Some(found) = self.values.get(path)? else {
            return Ok(None);
        };
        let record = Record::read(found.value())?;
        Ok(Some(Standing {
            place: record.place,
            etag: record.etag(),
            entry: record.entry(true),
        }))
    }

    /// Place and etag of the newest record in a key's history.
    fn last(&self, path: &str) -> Result<Option<(u64, Etag)>, BackendError> {
        let Some(newest) = self.history.range((path, 0)..=(path, u64::MAX))?.next_back() else {
            return Ok(None);
        };
        let (_, bytes) = newest?;
        let record = Record::read(bytes.value())?;
        Ok(Some((record.place, record.etag())))
    }

    /// Puts the record where it belongs, and drops what falls out of history and log.
    pub(super) fn put(&mut self, path: &str, record: &Record<'_>, history: u64) -> Result<(), BackendError> {
        let bytes = record.write()?;
        if record.deleted {
            self.values.remove(path)?;
        } else {
            self.values.insert(path, bytes.as_slice())?;
        }
        self.history.insert((path, record.place), bytes.as_slice())?;
        if let Some(oldest) = record.place.checked_sub(history) {
            self.history.retain_in((path, 0)..=(path, oldest), |_, _| false)?;
        }
        let sequence = self.changes.last()?.map_or(0, |(sequence, _)| sequence.value()) + 1;
        self.changes
            .insert(sequence, (path, record.etag().to_string().as_str()))?;
        if let Some(oldest) = sequence.checked_sub(LOG) {
            self.changes.remove(oldest)?;
        }
        Ok(())
    }
}
