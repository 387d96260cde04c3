//! What is watched, for who compares it with its stores: what stood there when that was done last, and what watchers were shown
//! since. What they hold is one or the other, so what is neither any more is news to somebody.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem;
use std::sync::{Arc, PoisonError};

use super::hub::{Hub, Registration};
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Name, TenantId};
use crate::placement::{Place, PlaceRange, Space};

/// What stood in a range, by name.
pub type Listing = HashMap<Name, Etag>;

/// What stood at a place when it was compared last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stood {
    /// It never was, or something else was shown since.
    #[default]
    Unknown,
    /// Nothing.
    Nothing,
    /// This.
    State(Etag),
}

impl From<Option<Etag>> for Stood {
    fn from(etag: Option<Etag>) -> Self {
        etag.map_or(Self::Nothing, Self::State)
    }
}

/// What is watched in one store, each with a tenant of those that watch it.
#[derive(Debug, Default)]
pub struct Watched {
    /// By name.
    pub places: Vec<WatchedPlace>,
    /// By the beginnings of names, of which none begins with another.
    pub ranges: Vec<WatchedRange>,
}

/// A key that is watched by its name.
#[derive(Debug)]
pub struct WatchedPlace {
    /// Where.
    pub place: Place,
    /// One of those that watch it.
    pub tenant: VerifiedTenant,
    /// What stood there last.
    pub before: Stood,
}

/// All names in a range that begin so.
#[derive(Debug)]
pub struct WatchedRange {
    /// Where.
    pub range: PlaceRange,
    /// How they begin.
    pub beginning: Arc<str>,
    /// One of those that watch them.
    pub tenant: VerifiedTenant,
    /// What stood there last. None: it never was compared.
    pub before: Option<Arc<Listing>>,
    /// Names of what was shown since, and did not stand there then.
    pub shown: HashSet<Name>,
}

/// What is known of a place that is watched by its name.
#[derive(Debug, Default)]
pub(super) struct ComparedPlace {
    stood: Stood,
    /// Something that did not stand there was shown since it was last asked for.
    is_shown: bool,
}

/// And of a range.
#[derive(Debug, Default)]
pub(super) struct ComparedRange {
    listings: HashMap<Arc<str>, Arc<Listing>>,
    shown: HashSet<Name>,
}

/// One of them, and another the next time: what is refused to one may be another's to read.
fn any<W>(by: &BTreeMap<u64, W>) -> Option<&u64> {
    let ((first, _), (last, _)) = (by.first_key_value()?, by.last_key_value()?);
    let (number, _) = by.range(fastrand::u64(first..=last)..).next()?;
    Some(number)
}

impl Hub {
    /// What is watched in that store, to be compared. What comes of it is to be told by [`Self::compared_place`] and
    /// [`Self::compared_range`], or their comparison begins with nothing next time.
    #[must_use]
    pub fn watched(&self, backend: &str) -> Watched {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        let interests = &mut *interests;
        let everyone = &interests.everyone;
        let tenant = |number: Option<&u64>| Some(everyone.get(number?)?.tenant.clone());
        let mut watched = Watched::default();
        for (place, named) in &mut interests.places {
            let Some(tenant) = tenant(any(&named.by)).filter(|_| *place.backend == *backend) else {
                continue;
            };
            let is_shown = mem::take(&mut named.compared.is_shown);
            watched.places.push(WatchedPlace {
                place: place.clone(),
                tenant,
                before: if is_shown { Stood::Unknown } else { named.compared.stood },
            });
        }
        for (range, swept) in &mut interests.ranges {
            let Some(tenant) = tenant(any(&swept.by)).filter(|_| *range.backend == *backend) else {
                continue;
            };
            let all: BTreeSet<&Arc<str>> = swept.by.values().flat_map(|swept| &swept.beginnings).collect();
            let mut beginnings: Vec<Arc<str>> = all.into_iter().cloned().collect();
            beginnings.dedup_by(|next, before| next.starts_with(&**before));
            let ComparedRange { listings, shown } = &mut swept.compared;
            listings.retain(|beginning, _| beginnings.binary_search(beginning).is_ok());
            for beginning in beginnings {
                let of_it = |name: &Name| name.as_str().starts_with(&*beginning);
                watched.ranges.push(WatchedRange {
                    range: range.clone(),
                    tenant: tenant.clone(),
                    before: listings.get(&beginning).cloned(),
                    shown: shown.extract_if(of_it).collect(),
                    beginning,
                });
            }
            // What is left nobody watches any more.
            shown.clear();
        }
        watched
    }

    /// That stood there.
    pub fn compared_place(&self, place: &Place, etag: Option<Etag>) {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(named) = interests.places.get_mut(place) {
            named.compared.stood = etag.into();
        }
    }

    /// That stood there. Where nothing is known of what did before, who watches there lists again.
    pub fn compared_range(&self, range: &PlaceRange, beginning: &Arc<str>, listing: Listing) {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        let Some(swept) = interests.ranges.get_mut(range) else {
            return;
        };
        let before = swept.compared.listings.insert(Arc::clone(beginning), listing.into());
        if before.is_none() {
            for swept in swept.by.values() {
                swept.marks.list_again();
            }
        }
    }

    /// It could not be compared: what was shown there is yet to be.
    pub fn place_not_compared(&self, place: &Place) {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(named) = interests.places.get_mut(place) {
            named.compared.is_shown = true;
        }
    }

    /// It could not be compared: what was shown there is yet to be.
    pub fn range_not_compared(&self, range: &PlaceRange, shown: HashSet<Name>) {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(swept) = interests.ranges.get_mut(range) {
            swept.compared.shown.extend(shown);
        }
    }

    /// Places that are watched of these keys in the space of `tenant`, or in any.
    #[must_use]
    pub fn places_of(&self, tenant: Option<&TenantId>, keys: &HashSet<String>) -> HashSet<Place> {
        let is_theirs = |space: &Space| tenant.is_none_or(|tenant| *space == Space::Tenant(tenant.clone()));
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let named = interests.places.keys().filter(|place| keys.contains(&place.name.key()));
        let named = named.filter(|place| is_theirs(place.name.range().space())).cloned();
        let ranges = interests
            .ranges
            .iter()
            .filter(|(range, _)| is_theirs(range.range.space()));
        let swept = ranges.flat_map(|(range, swept)| {
            let asked = keys.iter().filter_map(|key| key.strip_prefix(range.range.tag()));
            let asked = asked.filter(|name| swept.by.values().any(|swept| swept.has(name)));
            asked.filter_map(|name| Some(range.place(&name.parse().ok()?)))
        });
        named.chain(swept).collect()
    }

    /// Every place that is watched by its key, and every one that a watched range was last seen to hold; each with one who watches.
    #[must_use]
    pub fn known_places(&self) -> Vec<(Place, VerifiedTenant)> {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let tenant = |number: Option<&u64>| Some(interests.everyone.get(number?)?.tenant.clone());
        let named = interests.places.iter();
        let named = named.filter_map(|(place, named)| Some((place.clone(), tenant(named.by.keys().next())?)));
        let swept = interests.ranges.iter().filter_map(|(range, swept)| {
            let tenant = tenant(swept.by.keys().next())?;
            let seen = swept.compared.listings.values().flat_map(|listing| listing.keys());
            let places: Vec<_> = seen.map(|name| (range.place(name), tenant.clone())).collect();
            Some(places)
        });
        named.chain(swept.flatten()).collect()
    }

    /// Those of `tenant`, or all, compare everything anew.
    pub fn compare_anew(&self, tenant: Option<&TenantId>) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        for watcher in interests.everyone.values() {
            if tenant.is_none_or(|tenant| watcher.tenant.id() == tenant) {
                watcher.marks.mark_everything();
            }
        }
    }
}

impl Registration {
    /// The client holds that state of a key from here on.
    pub(super) fn shown(&self, key: &Arc<str>, etag: Etag) {
        let places = || self.places.iter().filter(|(of, _)| of == key).map(|(_, place)| place);
        let interests = self.hub.interests.read().unwrap_or_else(PoisonError::into_inner);
        let compared = || places().filter_map(|place| Some(&interests.places.get(place)?.compared));
        // Where nothing was compared yet, all is listed again anyway.
        let ranges: Vec<(&PlaceRange, Name)> = self
            .ranges
            .iter()
            .filter(|range| {
                let swept = interests.ranges.get(range);
                swept.is_some_and(|swept| !swept.compared.listings.is_empty())
            })
            .filter_map(|range| Some((range, key.strip_prefix(range.range.tag())?.parse().ok()?)))
            .collect();
        let listed = || {
            ranges
                .iter()
                .filter_map(|(range, name)| Some((&interests.ranges.get(range)?.compared, name)))
        };
        // Where it stood when that was compared, its end will be noticed.
        let has_stood = compared().any(|compared| compared.stood == Stood::State(etag))
            || listed().any(|(compared, name)| {
                compared
                    .listings
                    .values()
                    .any(|listing| listing.get(name) == Some(&etag))
            });
        let is_noted = compared().all(|compared| compared.is_shown)
            && listed().all(|(compared, name)| compared.shown.contains(name));
        if has_stood || is_noted {
            return;
        }
        drop(interests);
        let mut interests = self.hub.interests.write().unwrap_or_else(PoisonError::into_inner);
        for place in places() {
            if let Some(named) = interests.places.get_mut(place) {
                named.compared.is_shown = true;
            }
        }
        for (range, name) in ranges {
            if let Some(swept) = interests.ranges.get_mut(range) {
                swept.compared.shown.insert(name);
            }
        }
    }
}
