//! Reads of one key: home, then former homes, then defaults, as its decision orders them. The first that holds it answers,
//! and one that cannot be asked fails the read: to skip it would show what lies under it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Config, ConfigError, Configs, Keyed, Scope, check_history};
use crate::backend::Entry;
use crate::cache::{Consistency, Freshness, Read};
use crate::identity::{Reader, VerifiedTenant};
use crate::placement::{Layer, Origin, Place, Placed};
use crate::strategy::{Context, Operation};

/// What a read found, and where.
pub(super) struct Found<'p> {
    pub(super) origin: Origin,
    pub(super) place: &'p Place,
    pub(super) entry: Entry,
    /// Of all that was looked at for it.
    pub(super) freshness: Freshness,
}

/// Where a key is looked for, in order.
pub(super) struct Layers<'p> {
    placed: &'p Placed,
    consistency: Consistency,
    /// How many were looked at.
    depth: usize,
    /// Of all that was looked at.
    freshness: Option<Freshness>,
    /// Home was looked at then, or later.
    home: Option<Instant>,
    /// The last of the former homes that were looked at had answered by then.
    former: Option<Instant>,
}

/// One look.
#[derive(Clone, Copy)]
pub(super) struct Look<'p> {
    pub(super) layer: Layer<'p>,
    pub(super) consistency: Consistency,
}

impl<'p> Layers<'p> {
    pub(super) fn new(placed: &'p Placed, consistency: Consistency) -> Self {
        Self {
            placed,
            consistency,
            depth: 0,
            freshness: None,
            home: None,
            former: None,
        }
    }

    /// How true all is that was seen on the way.
    pub(super) fn freshness(&self) -> Option<Freshness> {
        self.freshness
    }

    /// That was looked at. Returns how true all is that was seen on the way: that a layer holds nothing is as old as any of it.
    pub(super) fn looked(&mut self, look: Look<'_>, freshness: Freshness) -> Freshness {
        match look.layer.origin {
            Origin::Home => self.home = Some(freshness.as_of),
            Origin::Former => self.former = self.former.max(Some(freshness.until)),
            Origin::Default => {}
        }
        let all = self.freshness.map_or(freshness, |before| before.and(freshness));
        *self.freshness.insert(all)
    }
}

impl<'p> Iterator for Layers<'p> {
    type Item = Look<'p>;

    fn next(&mut self) -> Option<Look<'p>> {
        let layer = self.placed.layer(self.depth);
        // A write that moves a key writes home before it clears a former home. So who saw it in neither looks at home
        // again, unless that was looked at after all of the others: it may have been between the two.
        let is_past_own = layer.is_none_or(|layer| layer.origin == Origin::Default);
        if is_past_own && self.former.take() > self.home {
            return Some(Look {
                layer: self.placed.layer(0)?,
                consistency: Consistency::Latest,
            });
        }
        self.depth += 1;
        Some(Look {
            layer: layer?,
            consistency: self.consistency,
        })
    }
}

impl Configs {
    /// What stands at `key`; or what stood there, if `version` is not 0.
    pub async fn get(
        &self,
        reader: &Reader,
        key: &str,
        version: u64,
        context: &Context,
        scope: Scope,
        consistency: Consistency,
    ) -> Result<Read<Config>, ConfigError> {
        let snapshot = self.registry.current();
        let Keyed { key, placed, .. } = Self::place(&snapshot, reader, key, Operation::Read, context, scope).await?;
        let found = if version == 0 {
            self.find(reader, &placed, consistency).await?
        } else {
            Box::pin(self.find_version(reader, &placed, version)).await?
        };
        let found = found.ok_or(ConfigError::NotFound)?;
        Ok(Read {
            found: Config::new(&key, found.origin, found.place, found.entry),
            freshness: found.freshness,
        })
    }

    /// What stands at `key`, if anything does.
    pub async fn look(
        &self,
        reader: &Reader,
        key: &str,
        context: &Context,
        consistency: Consistency,
    ) -> Result<Read<Option<Config>>, ConfigError> {
        let snapshot = self.registry.current();
        let Keyed { key, placed, .. } =
            Self::place(&snapshot, reader, key, Operation::Read, context, Scope::Own).await?;
        let (found, freshness) = self.seek(reader, &placed, consistency).await?;
        let found = found.map(|(layer, entry)| Config::new(&key, layer.origin, layer.place, entry));
        Ok(Read { found, freshness })
    }

    /// The first place that holds the key, and what it holds.
    pub(super) async fn find<'p>(
        &self,
        tenant: &VerifiedTenant,
        placed: &'p Placed,
        consistency: Consistency,
    ) -> Result<Option<Found<'p>>, ConfigError> {
        let (found, freshness) = self.seek(tenant, placed, consistency).await?;
        Ok(found.map(|(Layer { origin, place, .. }, entry)| Found {
            origin,
            place,
            entry,
            freshness,
        }))
    }

    /// The same, and how true it is that there is that, or nothing.
    async fn seek<'p>(
        &self,
        tenant: &VerifiedTenant,
        placed: &'p Placed,
        consistency: Consistency,
    ) -> Result<(Option<(Layer<'p>, Entry)>, Freshness), ConfigError> {
        let mut layers = Layers::new(placed, consistency);
        while let Some(look) = layers.next() {
            let Layer { place, policy, .. } = look.layer;
            let backend = self.backend(&place.backend)?;
            let policy = self.cache.policy(policy);
            let read = self.cache.read(tenant, backend, place, policy, look.consistency);
            let read = read.await?;
            let freshness = layers.looked(look, read.freshness);
            if let Some(entry) = read.found {
                return Ok((Some((look.layer, entry)), freshness));
            }
        }
        // A decision has a home, and that was looked at.
        let freshness = layers.freshness().ok_or(ConfigError::NotFound)?;
        Ok((None, freshness))
    }

    /// What the key was in an earlier version, in the place that answers now.
    pub(super) async fn find_version<'p>(
        &self,
        tenant: &VerifiedTenant,
        placed: &'p Placed,
        version: u64,
    ) -> Result<Option<Found<'p>>, ConfigError> {
        for (origin, place) in self.past(tenant, placed).await? {
            let backend = self.backend(&place.backend)?;
            check_history(backend)?;
            if let Some(entry) = backend.read_version(tenant, &place.name, version).await? {
                return Ok(Some(Found {
                    origin,
                    place,
                    entry,
                    freshness: Freshness::now(),
                }));
            }
        }
        Ok(None)
    }

    /// Where the past of a key is: in the place that answers now; or, where none does, wherever it may have lived.
    pub(super) async fn past<'p>(
        &self,
        tenant: &VerifiedTenant,
        placed: &'p Placed,
    ) -> Result<Vec<(Origin, &'p Place)>, ConfigError> {
        if placed.is_alone() {
            return Ok(placed.own().collect());
        }
        Ok(match self.find(tenant, placed, Consistency::Latest).await? {
            Some(found) => vec![(found.origin, found.place)],
            None => placed.own().collect(),
        })
    }

    /// Whether that store may tell of what stood before, for a while.
    #[must_use]
    pub fn reads_lag(&self, backend: &str) -> bool {
        let store = self.catalog.get(backend);
        store.is_some_and(|store| store.capabilities().reads_lag)
    }

    pub(super) fn backend(&self, id: &str) -> Result<&Arc<dyn crate::backend::Backend>, ConfigError> {
        // Grants are cut out of the catalog, so this finds it.
        let missing = || crate::backend::BackendError::Damaged(format!("`{id}` is not in the catalog"));
        Ok(self.catalog.get(id).ok_or_else(missing)?)
    }
}
