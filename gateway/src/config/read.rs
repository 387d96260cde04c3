//! Reads of one key: home, then former homes, then defaults, as its decision orders them. The first that holds it answers,
//! and one that cannot be asked fails the read: to skip it would show what lies under it.

use std::sync::Arc;

use super::{Config, ConfigError, Configs, Keyed, Scope, check_history};
use crate::backend::Entry;
use crate::identity::{Reader, VerifiedTenant};
use crate::placement::{Origin, Place, Placed};
use crate::strategy::{Context, Operation};

/// What a read found, and where.
pub(super) struct Found<'p> {
    pub(super) origin: Origin,
    pub(super) place: &'p Place,
    pub(super) entry: Entry,
}

/// Where a key is looked for, in order.
pub(super) fn layers(placed: &Placed) -> impl Iterator<Item = (Origin, &Place)> {
    // A write that moves a key writes home before it clears a former home. So who saw it in neither looks at home
    // again: it was between the two.
    let again = (!placed.former.is_empty()).then_some((Origin::Home, &placed.home));
    placed.own().chain(again).chain(placed.beneath())
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
    ) -> Result<Config, ConfigError> {
        let snapshot = self.registry.current();
        let Keyed { key, placed } = Self::place(&snapshot, reader, key, Operation::Read, context, scope).await?;
        let found = if version == 0 {
            self.find(reader, &placed).await?
        } else {
            self.find_version(reader, &placed, version).await?
        };
        let found = found.ok_or(ConfigError::NotFound)?;
        Ok(Config::new(&key, found.origin, found.place, found.entry))
    }

    /// The first place that holds the key, and what it holds.
    pub(super) async fn find<'p>(
        &self,
        tenant: &VerifiedTenant,
        placed: &'p Placed,
    ) -> Result<Option<Found<'p>>, ConfigError> {
        for (origin, place) in layers(placed) {
            if let Some(entry) = self.backend(&place.backend)?.read(tenant, &place.name).await? {
                return Ok(Some(Found { origin, place, entry }));
            }
        }
        Ok(None)
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
                return Ok(Some(Found { origin, place, entry }));
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
        Ok(match self.find(tenant, placed).await? {
            Some(found) => vec![(found.origin, found.place)],
            None => placed.own().collect(),
        })
    }

    pub(super) fn backend(&self, id: &str) -> Result<&Arc<dyn crate::backend::Backend>, ConfigError> {
        // Grants are cut out of the catalog, so this finds it.
        let missing = || crate::backend::BackendError::Damaged(format!("`{id}` is not in the catalog"));
        Ok(self.catalog.get(id).ok_or_else(missing)?)
    }
}
