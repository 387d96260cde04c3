//! Where what somebody watches may live: what changes there may change what he sees.

use tokio::sync::watch;

use super::{ConfigError, Configs, Keyed, Scope};
use crate::identity::Reader;
use crate::key::{KeyPrefix, TagPrefix};
use crate::placement::{Place, PlaceRange};
use crate::strategy::{Context, Operation};

/// Places and ranges, each with what lies there.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    /// Each place of each key that is watched by its name.
    pub places: Vec<(String, Place)>,
    /// Each range in which a key could live that begins so.
    pub ranges: Vec<(TagPrefix, PlaceRange)>,
}

impl Configs {
    /// Changes whenever strategies do: interests are to be had anew then.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.registry.generations()
    }

    /// Where these prefixes and keys lead, by one snapshot.
    pub async fn interest(
        &self,
        reader: &Reader,
        prefixes: &[KeyPrefix],
        keys: &[String],
        context: &Context,
    ) -> Result<Interest, ConfigError> {
        let snapshot = self.registry.current();
        let mut interest = Interest::default();
        for prefix in prefixes {
            for (prefix, ranges) in Self::ranges(&snapshot, reader, prefix, context).await? {
                let ranges = ranges.iter().map(|range| (prefix.clone(), range.clone()));
                interest.ranges.extend(ranges);
            }
        }
        for key in keys {
            let Keyed { placed, .. } =
                Self::place(&snapshot, reader, key, Operation::Read, context, Scope::Own).await?;
            let places = placed.layers().map(|layer| (key.clone(), layer.place.clone()));
            interest.places.extend(places);
        }
        Ok(interest)
    }
}
