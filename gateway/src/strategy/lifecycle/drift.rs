//! The drift gate: what would become of the keys that are known, if other strategies decided.
//!
//! Each name that is remembered, near or watched is decided by what serves and by what would. A key that has a value is not to
//! lose it: where the value would not be found any more, or another one in its place, the key moves. Names that cannot be judged
//! are counted, for a gate that has seen too little has nothing to say.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::names::KnownNames;
use crate::backend::Catalog;
use crate::cache::{Cache, Consistency};
use crate::identity::VerifiedTenant;
use crate::key::{ConfigKey, Tag, TagPrefix, TenantId};
use crate::placement::{Place, PlaceRange, Placed};
use crate::strategy::Operation;
use crate::strategy::decide::Strategy;
use crate::strategy::memory::{Answer, Asked, Bags, KnownName, Question};
use crate::strategy::registry::Snapshot;
use crate::strategy::version::Fault;

/// Moved keys that are named.
const NAMED: usize = 100;
/// Names that are judged at once.
const AT_ONCE: usize = 4;
/// After which the rest is not judged.
const AT_MOST: Duration = Duration::from_mins(1);
/// Reads of stores, so that who asks for keys does not wait for this.
const READS: usize = 1000;
/// Of these, for one tenant: so that none is left without because of another.
const READS_OF_ONE: usize = 200;

/// What would become of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// Names that somebody else would decide.
    pub known: u64,
    /// Of those, the ones of which it is known what would become.
    pub judged: u64,
    /// Keys that would lose their value.
    pub moved: u64,
    /// `tenant/key` of the first hundred of them.
    pub moved_keys: Vec<String>,
}

impl Drift {
    /// Whether enough is known to say anything.
    pub(super) fn is_covered(&self) -> bool {
        self.known > 0 && self.judged * 10 >= self.known * 9
    }

    /// Why nothing may become active that comes to this, unless somebody accepts it.
    pub(super) fn refusal(&self) -> Option<String> {
        let Self {
            known, judged, moved, ..
        } = self;
        if *moved > 0 {
            Some(format!(
                "{moved} of {known} known keys would not be found any more, or another value in their place: allow_moves \
                 accepts that"
            ))
        } else if *known == 0 {
            let none =
                "no key that it would decide is known here yet, so nothing can be compared: allow_moves does without";
            Some(none.to_owned())
        } else if !self.is_covered() {
            Some(format!(
                "only {judged} of {known} known keys could be compared: allow_moves does without the others"
            ))
        } else {
            None
        }
    }

    fn count(&mut self, name: &KnownName, fate: Fate) {
        self.known += 1;
        match fate {
            Fate::Stays => self.judged += 1,
            Fate::Moves => {
                self.judged += 1;
                self.moved += 1;
                if self.moved_keys.len() < NAMED {
                    self.moved_keys.push(format!("{}/{}", name.tenant, name.key));
                }
            }
            Fate::Unknown => {}
        }
    }
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Moves,
    Unknown,
}

/// Where values are looked for.
pub(super) struct Values<'v> {
    pub(super) cache: &'v Arc<Cache>,
    pub(super) stores: &'v Catalog,
}

/// Judges what is `known`. What the strategies of `new` answer meanwhile they remember, so that who asks next does not wait.
pub(super) async fn compare(old: &Snapshot, new: &Snapshot, known: KnownNames, values: &Values<'_>) -> Drift {
    let until = Instant::now() + AT_MOST;
    let gate = Gate {
        old,
        new,
        values,
        reads: Mutex::default(),
        listed: Mutex::default(),
    };
    let mut fates = stream::iter(known.names)
        .map(|name| async {
            let fate = timeout_at(until, gate.judge(&name)).await;
            (name, fate.unwrap_or(Some(Fate::Unknown)))
        })
        .buffer_unordered(AT_ONCE);
    let mut drift = Drift {
        known: known.more,
        ..Drift::default()
    };
    while let Some((name, fate)) = fates.next().await {
        if let Some(fate) = fate {
            drift.count(&name, fate);
        }
    }
    drift.moved_keys.sort();
    drift
}

/// Where lists look: of each tenant, tag and what the strategy was shown. None: there is no list.
type Listed = HashMap<(TenantId, Tag, Bags), Option<Arc<BTreeSet<PlaceRange>>>>;

struct Gate<'g> {
    old: &'g Snapshot,
    new: &'g Snapshot,
    values: &'g Values<'g>,
    /// Of each tenant.
    reads: Mutex<HashMap<TenantId, usize>>,
    listed: Mutex<Listed>,
}

impl Gate<'_> {
    /// None: nothing changes for it.
    async fn judge(&self, name: &KnownName) -> Option<Fate> {
        let (strategy, key) = decider(self.old, &name.key)?;
        let before = match remembered(strategy, name, &key) {
            Some(answer) => Ok(answer),
            None => answer(strategy, name, &key).await,
        };
        let next = decider(self.new, &name.key);
        if let Some((next, of)) = &next
            && Arc::ptr_eq(next.decides(), strategy.decides())
            && *of == key
        {
            return None;
        }
        let before = match before {
            Ok(Answer::Placed(before)) => before,
            Err(fault) if fault.is_of_the_machine() => return Some(Fate::Unknown),
            // Who could not find it loses nothing.
            Ok(_) | Err(_) => return None,
        };
        let after = match &next {
            None => None,
            Some((next, key)) => match answer(next, name, key).await {
                Ok(answer) => Some(answer),
                Err(fault) if fault.is_of_the_machine() => return Some(Fate::Unknown),
                // Whoever asks for it gets an error, whatever it holds.
                Err(_) => return Some(Fate::Moves),
            },
        };
        if let (Some((next, key)), Some(answer)) = (&next, &after) {
            remember(next, name, key, answer.clone());
        }
        let after = match &after {
            Some(Answer::Placed(placed)) => Some(&**placed),
            _ => None,
        };
        if let (Some(after), Some((next, key))) = (after, &next)
            && !self.is_listed(next, name, key, after).await
        {
            // Who lists or watches would not see it.
            return Some(Fate::Moves);
        }
        Some(self.fate(&before, after, name.verified.as_ref()).await)
    }

    async fn fate(&self, before: &Placed, after: Option<&Placed>, verified: Option<&VerifiedTenant>) -> Fate {
        let places = |placed: &Placed| -> Vec<Place> { placed.layers().map(|layer| layer.place.clone()).collect() };
        let (before, after) = (places(before), after.map(places).unwrap_or_default());
        if before == after {
            return Fate::Stays;
        }
        for place in &before {
            match self.holds(place, verified).await {
                Some(false) => {}
                None => return Fate::Unknown,
                Some(true) => {
                    for next in &after {
                        match self.holds(next, verified).await {
                            _ if next == place => return Fate::Stays,
                            Some(false) => {}
                            Some(true) => return Fate::Moves,
                            None => return Fate::Unknown,
                        }
                    }
                    return Fate::Moves;
                }
            }
        }
        Fate::Stays
    }

    /// Whether lists look wherever `placed` says that the key may be.
    async fn is_listed(&self, strategy: &Strategy, name: &KnownName, key: &ConfigKey, placed: &Placed) -> bool {
        let bags = strategy.decides().bags_of(&name.bags);
        let of = (name.tenant.clone(), key.tag().clone(), bags);
        let known = self.listed().get(&of).cloned();
        let ranges = if let Some(ranges) = known {
            ranges
        } else {
            let prefix = TagPrefix {
                tag: of.1.clone(),
                name_prefix: "".into(),
                named: true,
            };
            let asked = Asked::Enumerate {
                prefix: &prefix,
                bags: &of.2,
            };
            let ranges = match strategy.decides().rehearse(&name.tenant, asked).await {
                Ok(Answer::Ranges(ranges)) => Some(ranges),
                // Which is no worse for one key than for another.
                Ok(_) | Err(_) => None,
            };
            self.listed().insert(of, ranges.clone());
            ranges
        };
        ranges.is_none_or(|ranges| placed.layers().all(|layer| ranges.contains(&layer.place.range())))
    }

    /// One more read of stores, of so many for each tenant.
    fn may_read(&self, tenant: &TenantId) -> bool {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.values().sum::<usize>() >= READS {
            return false;
        }
        let of = reads.entry(tenant.clone()).or_default();
        let may_read = *of < READS_OF_ONE;
        *of += usize::from(may_read);
        may_read
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a value; none if nobody knows.
    async fn holds(&self, place: &Place, verified: Option<&VerifiedTenant>) -> Option<bool> {
        let Values { cache, stores } = self.values;
        if let Some((etag, _)) = cache.believed(place) {
            return Some(etag.is_some());
        }
        let (verified, store) = (verified?, stores.get(&place.backend)?);
        self.may_read(verified.id()).then_some(())?;
        let read = cache
            .read(verified, store, place, cache.policy(None), Consistency::Cached)
            .await;
        Some(read.ok()?.found.is_some())
    }
}

/// Who decides that key.
fn decider<'s>(snapshot: &'s Snapshot, text: &str) -> Option<(&'s Arc<Strategy>, ConfigKey)> {
    let key = snapshot.tags().parse(text).ok()?;
    Some((snapshot.strategy(key.tag()).ok()?, key))
}

fn remembered(strategy: &Strategy, name: &KnownName, key: &ConfigKey) -> Option<Answer> {
    let memory = strategy.memory().if_any(&name.tenant)?;
    memory.answers.get(&Asked::Decide {
        key,
        operation: Operation::Read,
        bags: &strategy.decides().bags_of(&name.bags),
    })
}

async fn answer(strategy: &Strategy, name: &KnownName, key: &ConfigKey) -> Result<Answer, Fault> {
    let asked = Asked::Decide {
        key,
        operation: Operation::Read,
        bags: &strategy.decides().bags_of(&name.bags),
    };
    strategy.decides().rehearse(&name.tenant, asked).await
}

fn remember(strategy: &Strategy, name: &KnownName, key: &ConfigKey, answer: Answer) {
    let question = Question::Decide {
        key: key.clone(),
        operation: Operation::Read,
        bags: strategy.decides().bags_of(&name.bags),
    };
    let memory = strategy.memory().of(&name.tenant);
    if let Some(verified) = &name.verified {
        memory.is_of(verified);
    }
    memory.answers.insert(question, answer);
}
