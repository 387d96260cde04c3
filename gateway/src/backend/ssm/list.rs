//! Lists. Parameter Store gives ten parameters a call, in no order: so a list is gathered whole, within a bound, and its
//! pages are cut from that. It is kept for those who go on to the next page, and not for who begins a new list; and nobody
//! goes on with what is older than the beginning of its list, which another gateway may have seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::calls::{Calls, Repeat};
use super::{parameter, path};
use crate::backend::{Access, BackendError, Entry, Page, PageRequest, Urgency};
use crate::identity::VerifiedTenant;
use crate::key::{Name, TenantId};
use crate::placement::Space;

/// Most parameters of one answer (API reference, `GetParametersByPath`).
const RESULTS: i32 = 10;
/// How long a list is kept for who goes on.
const KEPT: Duration = Duration::from_secs(30);
/// Most bytes that are kept for them, of all tenants together.
const KEPT_BYTES: u64 = 32 << 20;
/// Of an entry, besides its value and its name.
const PER_ENTRY_BYTES: usize = 256;

/// Gathers lists.
pub(super) struct Lists {
    calls: Arc<Calls>,
    /// Most names of one.
    most: usize,
    /// By path.
    kept: Cache<String, Arc<Gathered>, Bytes>,
    under_way: Mutex<UnderWay>,
    /// Of each tenant, those that somebody asked for.
    gatherings: Mutex<HashMap<TenantId, usize>>,
}

/// When each began, by who asks, with whose credentials, how urgently, and path.
type UnderWay = HashMap<Who, (Instant, Shared<Gathering>)>;
type Who = (TenantId, Urgency, String);
type Gathering = BoxFuture<'static, Result<Arc<Gathered>, BackendError>>;

/// All that stood under a path.
struct Gathered {
    /// When that began, and when it was done.
    at: Instant,
    done: Instant,
    entries: BTreeMap<Name, Entry>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<String, Arc<Gathered>> for Bytes {
    fn weight(&self, path: &String, gathered: &Arc<Gathered>) -> u64 {
        let entry = |(name, entry): (&Name, &Entry)| PER_ENTRY_BYTES + name.as_str().len() + entry.value.len();
        let bytes = path.len() + PER_ENTRY_BYTES + gathered.entries.iter().map(entry).sum::<usize>();
        bytes as u64
    }
}

impl Lists {
    pub(super) fn new(calls: Arc<Calls>, most: usize) -> Arc<Self> {
        Arc::new(Self {
            calls,
            most,
            // Some paths of average size. What is larger takes the room of several.
            kept: Cache::with_weighter(1024, KEPT_BYTES, Bytes),
            under_way: Mutex::default(),
            gatherings: Mutex::default(),
        })
    }

    /// A page of what stands in a folder.
    pub(super) async fn page(
        self: &Arc<Self>,
        tenant: &VerifiedTenant,
        folder: &str,
        request: &PageRequest<'_>,
    ) -> Result<Page, BackendError> {
        // No further up than what is asked for.
        let within = request.prefix.rsplit_once('/').map_or("", |(within, _)| within);
        let under = if within.is_empty() {
            folder.to_owned()
        } else {
            format!("{folder}/{within}")
        };
        if path::levels(&under) >= path::LEVELS {
            return Ok(Page::new(Instant::now()));
        }
        let kept = request.since.and_then(|since| self.kept(&under, since));
        let gathered = match kept {
            Some(kept) => kept,
            None => self.gathering(tenant, folder, &under, request)?.await?,
        };
        Ok(gathered.page(request))
    }

    /// A write of this gateway, which is under way until what this returns is dropped. What was gathered before it or
    /// meanwhile is not what stands.
    pub(super) fn change<'l>(&'l self, parameter: &'l str) -> Change<'l> {
        let change = Change { lists: self, parameter };
        change.forget();
        change
    }

    fn kept(&self, under: &str, since: Instant) -> Option<Arc<Gathered>> {
        let kept = self.kept.get(under)?;
        (kept.at >= since && kept.done.elapsed() < KEPT).then_some(kept)
    }

    /// Gathers, once for all who ask meanwhile, and to the end whoever leaves: what takes longer than a caller waits is there
    /// for who comes again. Its age says so. A tenant has no more of them under way than there are turns in an operation's time: they go on
    /// when nobody waits any more, so nothing else would bound them.
    fn gathering(
        self: &Arc<Self>,
        tenant: &VerifiedTenant,
        folder: &str,
        under: &str,
        request: &PageRequest<'_>,
    ) -> Result<Shared<Gathering>, BackendError> {
        let who = (tenant.id().clone(), request.urgency, under.to_owned());
        let mut under_way = self.under_way();
        if let Some((at, gathering)) = under_way.get(&who)
            && request.since.is_none_or(|since| *at >= since)
        {
            return Ok(gathering.clone());
        }
        let counted = match request.urgency {
            Urgency::Asked => Some(Counted::one_more(self, tenant.id()).ok_or_else(|| self.calls.busy())?),
            // One a tenant, and of few tenants at once.
            Urgency::Sweep => None,
        };
        let at = Instant::now();
        let gather = Arc::clone(self).gather(
            tenant.clone(),
            request.range.space().clone(),
            folder.to_owned(),
            who.clone(),
            at,
        );
        let gather = tokio::spawn(async move {
            let _counted = counted;
            gather.await
        });
        let gathering = async move {
            let gathered = gather.await;
            gathered.unwrap_or_else(|_| Err(BackendError::Damaged("a list ended without an answer".to_owned())))
        };
        let gathering = gathering.boxed().shared();
        under_way.insert(who, (at, gathering.clone()));
        Ok(gathering)
    }

    async fn gather(
        self: Arc<Self>,
        tenant: VerifiedTenant,
        space: Space,
        folder: String,
        who: Who,
        at: Instant,
    ) -> Result<Arc<Gathered>, BackendError> {
        let gathered = self.gather_all(&tenant, &space, &folder, &who, at).await;
        let mut under_way = self.under_way();
        // Unless a write below has had it forgotten, or there is a newer one.
        if under_way.get(&who).is_some_and(|(of, _)| *of == at) {
            under_way.remove(&who);
            if let Ok(gathered) = &gathered {
                self.keep(who.2, gathered);
            }
        }
        gathered
    }

    fn keep(&self, under: String, gathered: &Arc<Gathered>) {
        if self.kept.get(&under).is_none_or(|kept| kept.at < gathered.at) {
            self.kept.insert(under, Arc::clone(gathered));
        }
    }

    async fn gather_all(
        &self,
        tenant: &VerifiedTenant,
        space: &Space,
        folder: &str,
        (_, urgency, under): &Who,
        at: Instant,
    ) -> Result<Arc<Gathered>, BackendError> {
        let client = self.calls.aws().client(tenant, space, Access::Read).await;
        let mut entries = BTreeMap::new();
        let mut names = 0;
        let mut next = None;
        loop {
            let send = || {
                let call = client.get_parameters_by_path().path(under).recursive(true);
                let call = call.with_decryption(true).max_results(RESULTS);
                call.set_next_token(next.clone()).send()
            };
            let answer = self.calls.call_as(tenant, *urgency, Repeat::Always, send).await;
            let answer = answer.map_err(|error| self.calls.failed("GetParametersByPath", &error))?;
            names += answer.parameters().len();
            for parameter in answer.parameters() {
                let name = parameter
                    .name()
                    .and_then(|name| name.strip_prefix(folder)?.strip_prefix('/'));
                // What somebody put there under a name that no key has, no read finds.
                let Some(name) = name.and_then(|name| name.parse().ok()) else {
                    continue;
                };
                entries.insert(name, parameter::entry(parameter)?);
            }
            if names > self.most {
                return Err(BackendError::TooManyNames(self.most));
            }
            next = answer.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        Ok(Arc::new(Gathered {
            at,
            done: Instant::now(),
            entries,
        }))
    }

    fn gatherings(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        // Nothing in here is left half done.
        self.gatherings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        // Nothing in here is left half done.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gathering that was asked for, until it has ended.
struct Counted {
    lists: Arc<Lists>,
    tenant: TenantId,
}

impl Counted {
    /// None: the tenant has all that it may.
    fn one_more(lists: &Arc<Lists>, tenant: &TenantId) -> Option<Self> {
        let mut gatherings = lists.gatherings();
        let its = gatherings.entry(tenant.clone()).or_default();
        if *its >= lists.calls.turns_in_time().max(1) {
            return None;
        }
        *its += 1;
        Some(Self {
            lists: Arc::clone(lists),
            tenant: tenant.clone(),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut gatherings = self.lists.gatherings();
        if let Some(its) = gatherings.get_mut(&self.tenant) {
            *its -= 1;
            if *its == 0 {
                gatherings.remove(&self.tenant);
            }
        }
    }
}

/// A write that is under way.
pub(super) struct Change<'l> {
    lists: &'l Lists,
    parameter: &'l str,
}

impl Change<'_> {
    fn forget(&self) {
        let is_above = |path: &str| {
            self.parameter
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        // In this order: what ends meanwhile is kept under that lock, and found below.
        self.lists.under_way().retain(|(_, _, path), _| !is_above(path));
        for (end, _) in self.parameter.match_indices('/') {
            self.lists.kept.remove(&self.parameter[..end]);
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Gathered {
    fn page(&self, request: &PageRequest<'_>) -> Page {
        let mut page = Page::new(self.at);
        let mut together = 0;
        let asked = |name: &str| name.starts_with(request.prefix) && name > request.after;
        for (name, entry) in self.entries.iter().filter(|(name, _)| asked(name.as_str())) {
            if page.entries.len() == request.entries || together >= request.bytes {
                page.more = true;
                break;
            }
            let mut entry = entry.clone();
            if request.keys_only {
                entry.value.clear();
            }
            together += entry.value.len();
            page.entries.push((name.clone(), entry));
        }
        page
    }
}
