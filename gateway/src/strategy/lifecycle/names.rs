//! The names that are known here: what is watched, what strategies remember, what was known before this gateway started, and what
//! is near.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
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
/// So many of one tenant tell enough, where there is no room for all of them.
const ENOUGH: usize = 10_000;
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

/// Names, each once, and each tenant's among those of others: what looks at some of them has seen some of each.
#[derive(Default)]
pub(super) struct KnownNames {
    pub(super) names: Vec<KnownName>,
    /// So many more there are, of tenants of which too little is known.
    pub(super) more: u64,
}

impl Names {
    /// All of them, as what `snapshot` holds remembers them. It takes a while, and not on the runtime's threads.
    pub(super) async fn all(&self, snapshot: Arc<Snapshot>) -> KnownNames {
        let names = self.clone();
        let all = tokio::task::spawn_blocking(move || names.collect(&snapshot));
        // Where it breaks down nothing is known.
        all.await.unwrap_or_default()
    }

    fn collect(&self, snapshot: &Snapshot) -> KnownNames {
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
        let mut gathered = Gathered::new(NAMES, ENOUGH);
        for name in remembered.chain(watched).chain(before).chain(near) {
            gathered.add(name);
        }
        gathered.known()
    }
}

fn is_forgotten(name: &KnownName, now: SystemTime) -> bool {
    now.duration_since(name.asked).is_ok_and(|since| since > FORGOTTEN)
}

/// Names, as they are found. Where there is no room for all, whoever has most has no more: so a tenant that asks for names without end
/// keeps nobody else's from being known.
struct Gathered {
    at_most: usize,
    enough: usize,
    count: usize,
    tenants: HashMap<TenantId, OfTenant>,
    /// Who has how many.
    by_count: BTreeSet<(usize, TenantId)>,
    hashes: RandomState,
}

#[derive(Default)]
struct OfTenant {
    names: Vec<KnownName>,
    /// What the strategy was shown with each of them.
    bags: HashMap<String, HashSet<Bags>>,
    /// For which there was no room; by their hashes, for they are mentioned more than once.
    left_out: HashSet<u64>,
}

impl Gathered {
    fn new(at_most: usize, enough: usize) -> Self {
        Self {
            at_most,
            enough,
            count: 0,
            tenants: HashMap::new(),
            by_count: BTreeSet::new(),
            hashes: RandomState::new(),
        }
    }

    fn add(&mut self, name: KnownName) {
        let tenant = name.tenant.clone();
        let of = self.tenants.entry(tenant.clone()).or_default();
        if of.has(&name) {
            return;
        }
        let count = of.names.len();
        if self.count == self.at_most {
            let most = self.by_count.last().cloned();
            let Some((most, whose)) = most.filter(|(most, _)| count + 1 < *most) else {
                of.left_out.insert(self.hashes.hash_one(&name.key));
                return;
            };
            if let Some(of) = self.tenants.get_mut(&whose) {
                of.leave_one_out(&self.hashes);
            }
            self.counts(whose, most, most - 1);
        }
        self.tenants.entry(tenant.clone()).or_default().put(name);
        self.counts(tenant, count, count + 1);
    }

    /// That tenant had so many, and has so many now.
    fn counts(&mut self, tenant: TenantId, before: usize, now: usize) {
        let mut of = (before, tenant);
        self.by_count.remove(&of);
        of.0 = now;
        self.by_count.insert(of);
        self.count = self.count + now - before;
    }

    fn known(self) -> KnownNames {
        let too_few = self.tenants.values().filter(|of| of.names.len() < self.enough);
        let more = too_few.map(|of| of.left_out.len() as u64).sum();
        let mut tenants: Vec<_> = self.tenants.into_values().map(|of| of.names.into_iter()).collect();
        let mut names = Vec::with_capacity(self.count);
        while !tenants.is_empty() {
            tenants.retain_mut(|of| of.next().map(|name| names.push(name)).is_some());
        }
        KnownNames { names, more }
    }
}

impl OfTenant {
    /// One of which it is not known what the strategy was shown is known already where another is of which it is.
    fn has(&self, name: &KnownName) -> bool {
        let bags = self.bags.get(&name.key);
        bags.is_some_and(|bags| name.bags == Bags::default() || bags.contains(&name.bags))
    }

    fn put(&mut self, name: KnownName) {
        let bags = self.bags.entry(name.key.clone()).or_default();
        bags.insert(name.bags.clone());
        self.names.push(name);
    }

    fn leave_one_out(&mut self, hashes: &RandomState) {
        let Some(name) = self.names.pop() else { return };
        self.left_out.insert(hashes.hash_one(&name.key));
        if let Some(bags) = self.bags.get_mut(&name.key) {
            bags.remove(&name.bags);
            if bags.is_empty() {
                self.bags.remove(&name.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tenant: &str, key: &str, layer: Option<&str>) -> KnownName {
        let context = layer.map(|layer| ("layer".to_owned(), layer.to_owned()));
        KnownName {
            tenant: tenant.parse().unwrap(),
            verified: None,
            key: key.to_owned(),
            bags: Bags {
                claims: Vec::new(),
                context: context.into_iter().collect(),
            },
            asked: SystemTime::UNIX_EPOCH,
        }
    }

    fn known(names: impl IntoIterator<Item = KnownName>, at_most: usize, enough: usize) -> (Vec<String>, u64) {
        let mut gathered = Gathered::new(at_most, enough);
        for name in names {
            gathered.add(name);
        }
        assert!(gathered.count <= at_most);
        let known = gathered.known();
        let names = known.names.iter().map(|name| format!("{}/{}", name.tenant, name.key));
        (names.collect(), known.more)
    }

    #[test]
    fn each_name_is_known_once_and_what_is_too_much_is_counted() {
        let all = [
            name("acme", "t_a", Some("one")),
            name("acme", "t_a", Some("two")),
            name("acme", "t_a", Some("one")),
            name("acme", "t_a", None),
            name("acme", "t_b", None),
            name("acme", "t_b", None),
        ];
        let (names, more) = known(all.clone(), 100, 100);
        assert_eq!(
            (names.as_slice(), more),
            (["acme/t_a", "acme/t_a", "acme/t_b"].map(String::from).as_slice(), 0)
        );
        let (names, more) = known(all, 2, 100);
        assert_eq!((names.len(), more), (2, 1), "two mentions of one that is left out");
    }

    #[test]
    fn a_tenant_with_names_without_end_leaves_every_other_ones_known() {
        let flood = |from: usize| (from..from + 1000).map(|number| name("flood", &format!("t_{number}"), None));
        let others = |from: usize| {
            (from..from + 10).flat_map(|number| {
                let key = format!("t_{number}");
                ["acme", "globex"].map(|tenant| name(tenant, &key, None))
            })
        };
        // Whoever is first.
        let all = flood(0).chain(others(0)).chain(flood(1000)).chain(others(10));
        let (names, more) = known(all, 100, 50);
        let of = |tenant: &str| names.iter().filter(|name| name.starts_with(tenant)).count();
        assert_eq!((of("acme"), of("globex"), of("flood")), (20, 20, 60));
        assert_eq!(more, 0, "60 of it are enough");
        let first: HashSet<&str> = names[..3].iter().filter_map(|name| name.split('/').next()).collect();
        assert_eq!(first.len(), 3, "some of each come first: {names:?}");
        // Where nothing is known of most of a tenant's, that is said.
        let (names, more) = known(flood(0).chain(others(0)), 100, 90);
        assert_eq!((names.len(), more), (100, 920));
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let asked = name("acme", "t_a", None);
        assert!(!is_forgotten(&asked, asked.asked + FORGOTTEN));
        assert!(is_forgotten(&asked, asked.asked + FORGOTTEN + Duration::from_secs(1)));
    }
}
