//! The names that are known here: what is watched, what strategies remember, what was known before this gateway started, and what
//! is near.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cache::Cache;
use crate::clock::Clock;
use crate::key::TenantId;
use crate::placement::{Place, Space};
use crate::strategy::memory::{Bags, KnownName};
use crate::strategy::registry::Snapshot;
use crate::watch::Hub;

/// Of all tenants and strategies.
const NAMES: usize = 100_000;
/// A name that nobody asked for since is nobody's any more.
const FORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// Where they are known.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) hub: Arc<Hub>,
    pub(super) cache: Arc<Cache>,
    pub(super) clock: Clock,
    /// Of before this gateway started.
    pub(super) before: Arc<Vec<KnownName>>,
}

/// Names, each once.
#[derive(Default)]
pub(super) struct Known {
    pub(super) names: Vec<KnownName>,
    /// So many more there are, of which nothing is known.
    pub(super) more: u64,
}

impl Names {
    /// All of them, as what `snapshot` holds remembers them. It takes a while, and not on the runtime's threads.
    pub(super) async fn all(&self, snapshot: Arc<Snapshot>) -> Known {
        let names = self.clone();
        let all = tokio::task::spawn_blocking(move || names.collect(&snapshot));
        // Where it breaks down nothing is known.
        all.await.unwrap_or_default()
    }

    fn collect(&self, snapshot: &Snapshot) -> Known {
        let now = self.clock.now();
        let nameless = |place: &Place, verified| match place.name.range().space() {
            Space::Shared => None,
            Space::Tenant(tenant) => Some(KnownName {
                tenant: tenant.clone(),
                verified,
                key: place.name.key(),
                bags: Bags::default(),
                asked: now,
            }),
        };
        let watched = self.hub.known_places().into_iter();
        let watched = watched.filter_map(|(place, tenant)| nameless(&place, Some(tenant)));
        let remembered = snapshot.strategies().flat_map(|strategy| strategy.known_names(now));
        let before = self.before.iter().filter(|name| !is_forgotten(name, now)).cloned();
        let near = self.cache.places_of(None, &HashSet::new()).into_iter();
        let near = near.filter_map(|place| nameless(&place, None));
        each_once(remembered.chain(watched).chain(before).chain(near), NAMES)
    }
}

fn is_forgotten(name: &KnownName, now: SystemTime) -> bool {
    now.duration_since(name.asked).is_ok_and(|since| since > FORGOTTEN)
}

/// Names, each once, and at most so many. One of which it is not known what the strategy was shown is known already where another
/// is of which it is.
fn each_once(names: impl IntoIterator<Item = KnownName>, at_most: usize) -> Known {
    let mut seen: HashMap<(TenantId, String), HashSet<Bags>> = HashMap::new();
    let mut known = Known::default();
    for name in names {
        let of = (name.tenant.clone(), name.key.clone());
        if known.names.len() >= at_most {
            known.more += u64::from(!seen.contains_key(&of));
            continue;
        }
        let bags = seen.entry(of).or_default();
        let says_nothing = name.bags == Bags::default() && !bags.is_empty();
        if !says_nothing && bags.insert(name.bags.clone()) {
            known.names.push(name);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str, layer: Option<&str>) -> KnownName {
        let context = layer.map(|layer| ("layer".to_owned(), layer.to_owned()));
        KnownName {
            tenant: "acme".parse().unwrap(),
            verified: None,
            key: key.to_owned(),
            bags: Bags {
                claims: Vec::new(),
                context: context.into_iter().collect(),
            },
            asked: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn each_name_is_known_once_and_what_is_too_much_is_counted() {
        let all = [
            name("t_a", Some("one")),
            name("t_a", Some("two")),
            name("t_a", Some("one")),
            name("t_a", None),
            name("t_b", None),
            name("t_b", None),
        ];
        let known = each_once(all.clone(), 100);
        let keys: Vec<_> = known.names.iter().map(|name| name.key.as_str()).collect();
        assert_eq!((keys, known.more), (vec!["t_a", "t_a", "t_b"], 0));
        let known = each_once(all, 2);
        assert_eq!(
            (known.names.len(), known.more),
            (2, 2),
            "two mentions of one that is left out"
        );
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let asked = name("t_a", None);
        assert!(!is_forgotten(&asked, asked.asked + FORGOTTEN));
        assert!(is_forgotten(&asked, asked.asked + FORGOTTEN + Duration::from_secs(1)));
    }
}
