//! Reads of single parameters, put together: ten cost as much as one. Those of a moment go together, and while one waits
//! for its turn others join it; whichever tenants they are of, as long as the same credentials may read them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_ssm::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_ssm::operation::get_parameters::GetParametersError;
use aws_sdk_ssm::types::Parameter;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout_at};

use super::calls::{Calls, Repeat};
use super::parameter;
use crate::backend::{Access, BackendError, Entry, Urgency};
use crate::identity::VerifiedTenant;
use crate::key::TenantId;
use crate::placement::Space;

/// Most names of one call (API reference, `GetParameters`).
const NAMES: usize = 10;
/// How long a read waits for others to go with it.
const MOMENT: Duration = Duration::from_millis(1);
const OPERATION: &str = "GetParameters";

type Answer = Result<Option<Entry>, BackendError>;

/// What is read: a parameter's name, and a version of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) parameter: String,
    pub(super) version: Option<u64>,
}

/// Puts reads together. Clones put theirs together too.
#[derive(Clone)]
pub(super) struct Reads {
    calls: Arc<Calls>,
    groups: Arc<Mutex<HashMap<Option<TenantId>, Group>>>,
}

/// What waits to be read with the same credentials.
#[derive(Default)]
struct Group {
    /// Tenants that wait, in their order.
    order: VecDeque<TenantId>,
    lines: HashMap<TenantId, VecDeque<Read>>,
}

/// One of a caller's, who may have left.
struct Read {
    wanted: Wanted,
    answer: oneshot::Sender<Answer>,
}

/// What goes together, each once, with all who wait for it.
type Batch = BTreeMap<Wanted, Vec<oneshot::Sender<Answer>>>;

impl Reads {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        let groups = Arc::default();
        Self { calls, groups }
    }

    /// One parameter.
    pub(super) async fn one(&self, tenant: &VerifiedTenant, wanted: Wanted) -> Answer {
        let answers = self.all(tenant, vec![wanted]).await;
        answers.into_iter().next().unwrap_or(Ok(None))
    }

    /// Each of them, in their order, as far as the store's time goes.
    pub(super) async fn all(&self, tenant: &VerifiedTenant, wanted: Vec<Wanted>) -> Vec<Answer> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let deadline = self.calls.deadline();
        let waiting = self.join(tenant, wanted);
        let mut answers = Vec::with_capacity(waiting.len());
        for answer in waiting {
            answers.push(match answer {
                Ok(answer) => match timeout_at(deadline, answer).await {
                    Ok(Ok(answer)) => answer,
                    // The other end goes without an answer only where this gateway goes down.
                    Ok(Err(_)) | Err(_) => Err(self.calls.late()),
                },
                Err(busy) => Err(busy),
            });
        }
        answers
    }

    /// Each of them, in their order, when nobody else has anything to ask.
    pub(super) async fn at_leisure(&self, tenant: &VerifiedTenant, wanted: Vec<Wanted>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(wanted.len());
        for together in wanted.chunks(NAMES) {
            let mut batch = Batch::new();
            let mut waiting = Vec::with_capacity(together.len());
            for wanted in together {
                let (answer, told) = oneshot::channel();
                batch.entry(wanted.clone()).or_default().push(answer);
                waiting.push(told);
            }
            self.calls.turn_as(tenant, Urgency::Sweep).await;
            self.ask(tenant, batch, Urgency::Sweep).await;
            for told in waiting {
                // Each is answered before `ask` returns.
                answers.push(told.await.unwrap_or_else(|_| Err(self.calls.late())));
            }
        }
        answers
    }

    fn join(
        &self,
        tenant: &VerifiedTenant,
        wanted: Vec<Wanted>,
    ) -> Vec<Result<oneshot::Receiver<Answer>, BackendError>> {
        let room = self.calls.turns_in_time() * NAMES;
        let credentials = self.calls.aws().reads_as(tenant);
        let mut groups = self.lock();
        let group = groups.entry(credentials).or_default();
        let is_new = !group.lines.contains_key(tenant.id());
        let line = group.lines.entry(tenant.id().clone()).or_default();
        if line.len() >= room {
            line.retain(|read| !read.answer.is_closed());
        }
        let waiting = wanted.into_iter().map(|wanted| {
            if line.len() >= room {
                return Err(self.calls.busy());
            }
            let (answer, waiting) = oneshot::channel();
            line.push_back(Read { wanted, answer });
            Ok(waiting)
        });
        let waiting = waiting.collect();
        if is_new {
            group.order.push_back(tenant.id().clone());
            tokio::spawn(self.clone().read(tenant.clone()));
        }
        waiting
    }

    /// Reads what waits of a tenant, and what goes with it, until nothing does.
    async fn read(self, tenant: VerifiedTenant) {
        sleep(MOMENT).await;
        loop {
            self.calls.turn(&tenant).await;
            let (batch, more) = self.draw(&tenant);
            if batch.is_empty() {
                self.calls.give_back();
            } else {
                let reads = self.clone();
                let tenant = tenant.clone();
                tokio::spawn(async move { reads.ask(&tenant, batch, Urgency::Asked).await });
            }
            match more {
                0 => return,
                1..NAMES => sleep(MOMENT).await,
                _ => {}
            }
        }
    }

    /// What goes together next, beginning with this tenant's, and how much is left of that. Where nothing is left, its line is gone.
    fn draw(&self, tenant: &VerifiedTenant) -> (Batch, usize) {
        let credentials = self.calls.aws().reads_as(tenant);
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(&credentials) else {
            return (Batch::new(), 0);
        };
        let batch = group.draw(tenant.id());
        let more = group.lines.get(tenant.id()).map_or(0, VecDeque::len);
        if more == 0 {
            group.lines.remove(tenant.id());
            group.order.retain(|waiting| waiting != tenant.id());
        }
        if group.lines.is_empty() {
            groups.remove(&credentials);
        }
        (batch, more)
    }

    /// Asks for a batch, and answers all who wait for it.
    async fn ask(&self, tenant: &VerifiedTenant, batch: Batch, urgency: Urgency) {
        let names: Vec<String> = batch.keys().map(Wanted::to_string).collect();
        let mut found = match self.get(tenant, names, urgency).await {
            Ok(found) => found,
            Err(error) if batch.len() > 1 && may_be_of_one(&error) => {
                for (wanted, mut waiting) in batch {
                    self.calls.turn_as(tenant, urgency).await;
                    waiting.retain(|waiting| !waiting.is_closed());
                    if waiting.is_empty() {
                        self.calls.give_back();
                        continue;
                    }
                    let found = self.get(tenant, vec![wanted.to_string()], urgency).await;
                    let answer = found.map_err(|error| self.calls.failed(OPERATION, &error));
                    tell(waiting, &answer.and_then(|found| one_of(&wanted, found)));
                }
                return;
            }
            Err(error) => {
                let error = self.calls.failed(OPERATION, &error);
                for (_, waiting) in batch {
                    tell(waiting, &Err(error.clone()));
                }
                return;
            }
        };
        for (wanted, waiting) in batch {
            let of_it = found.iter().position(|found| found.name() == Some(&wanted.parameter));
            let of_it = of_it.map(|at| found.swap_remove(at));
            tell(waiting, &one_of(&wanted, of_it));
        }
    }

    async fn get(
        &self,
        tenant: &VerifiedTenant,
        names: Vec<String>,
        urgency: Urgency,
    ) -> Result<Vec<Parameter>, SdkError<GetParametersError>> {
        // With a tenant's own credentials what all read is read too.
        let space = Space::Tenant(tenant.id().clone());
        let client = self.calls.aws().client(tenant, &space, Access::Read).await;
        let send = || {
            let call = client.get_parameters().set_names(Some(names.clone()));
            call.with_decryption(true).send()
        };
        let answer = self.calls.call_now(tenant, urgency, Repeat::Always, send).await?;
        Ok(answer.parameters.unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<TenantId>, Group>> {
        // Nothing in here is left half done.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// One read of each tenant that waits, beginning with this one, and again, until there are enough.
    fn draw(&mut self, first: &TenantId) -> Batch {
        let mut batch = Batch::new();
        let mut order: VecDeque<TenantId> = self.order.iter().filter(|tenant| *tenant != first).cloned().collect();
        order.push_front(first.clone());
        while let Some(tenant) = order.pop_front() {
            let Some(line) = self.lines.get_mut(&tenant) else {
                continue;
            };
            if take(line, &mut batch) {
                order.push_back(tenant);
            }
        }
        // Whoever came last goes first next time.
        self.order.rotate_left(usize::from(self.order.len() > 1));
        batch
    }
}

/// Puts the next read of a line into the batch, if it has room for it.
fn take(line: &mut VecDeque<Read>, batch: &mut Batch) -> bool {
    while let Some(read) = line.front() {
        let known = batch.contains_key(&read.wanted);
        // Two versions of one parameter in one call could not be told apart in its answer.
        let is_another = || batch.keys().any(|other| other.parameter == read.wanted.parameter);
        if !read.answer.is_closed() && !known && (batch.len() == NAMES || is_another()) {
            return false;
        }
        if let Some(Read { wanted, answer }) = line.pop_front()
            && !answer.is_closed()
        {
            batch.entry(wanted).or_default().push(answer);
            if !known {
                return true;
            }
        }
    }
    false
}

/// Whether a call may have been refused for one of the names in it, as where a key of one secret may not be used.
fn may_be_of_one(error: &SdkError<GetParametersError>) -> bool {
    matches!(
        error.code(),
        Some("AccessDeniedException" | "InvalidKeyId" | "ValidationException")
    )
}

/// What an answer says of what was wanted.
fn one_of(wanted: &Wanted, found: impl IntoIterator<Item = Parameter>) -> Answer {
    let entry = found
        .into_iter()
        .next()
        .map(|found| parameter::entry(&found))
        .transpose()?;
    let is_wanted = |entry: &Entry| wanted.version.is_none_or(|version| version == entry.etag.version);
    Ok(entry.filter(is_wanted))
}

fn tell(waiting: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for waiting in waiting {
        // Who left does not hear it.
        _ = waiting.send(answer.clone());
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => f.write_str(&self.parameter),
            Some(version) => write!(f, "{}:{version}", self.parameter),
        }
    }
}
