//! Many keys in one answer: each for itself, as far as the answer has room. Stores are asked for many keys at once, layer by
//! layer: for all homes, then for what lies beneath those that hold nothing.

use std::collections::BTreeMap;

use super::list::size;
use super::read::{Layers, Look};
use super::{Config, ConfigError, Configs, Keyed, Scope};
use crate::backend::ReadMany;
use crate::cache::{Consistency, Read};
use crate::identity::Reader;
use crate::placement::Layer;
use crate::strategy::{Context, Operation};

/// A key on its way through the layers of its decision.
struct Sought<'k> {
    keyed: &'k Keyed,
    layers: Layers<'k>,
    /// Where it is being looked for, or was found.
    at: Option<Look<'k>>,
    answer: Option<Result<Read<Option<Config>>, ConfigError>>,
}

impl Configs {
    /// What stands at each of the keys, in their order. All are decided by one snapshot, and what one of them meets with
    /// is told of that one alone. Values beyond so many `bytes` are [`ConfigError::ResponseFull`].
    pub async fn batch(
        &self,
        reader: &Reader,
        keys: &[(&str, Consistency)],
        context: &Context,
        bytes: usize,
    ) -> Vec<Result<Read<Option<Config>>, ConfigError>> {
        let snapshot = self.registry.current();
        let mut placed = Vec::with_capacity(keys.len());
        for (key, _) in keys {
            placed.push(Self::place(&snapshot, reader, key, Operation::Read, context, Scope::Own).await);
        }
        let mut sought = placed
            .iter()
            .zip(keys)
            .map(|(placed, (_, consistency))| placed.as_ref().ok().map(|keyed| Sought::new(keyed, *consistency)))
            .collect::<Vec<_>>();
        loop {
            let mut asked: BTreeMap<&str, Vec<&mut Sought<'_>>> = BTreeMap::new();
            for sought in sought.iter_mut().flatten().filter(|sought| sought.answer.is_none()) {
                match sought.layers.next() {
                    Some(look) => {
                        sought.at = Some(look);
                        asked.entry(&look.layer.place.backend).or_default().push(sought);
                    }
                    None => sought.is_nowhere(),
                }
            }
            if asked.is_empty() {
                break;
            }
            for (backend, sought) in asked {
                self.ask(reader, backend, sought, bytes).await;
            }
        }
        let mut together = 0;
        let answers = placed.iter().zip(sought).map(|(placed, sought)| {
            if let Err(error) = placed {
                return Err(error.clone());
            }
            // Every one that was placed was sought to the end.
            let answer = sought.and_then(|sought| sought.answer);
            let read = answer.unwrap_or(Err(ConfigError::NotFound))?;
            let size = read.found.as_ref().map_or(0, |config| size(&config.entry));
            if together > 0 && together + size > bytes {
                return Err(ConfigError::ResponseFull);
            }
            together += size;
            Ok(read)
        });
        answers.collect()
    }

    /// Asks one store for all that is sought there.
    async fn ask(&self, reader: &Reader, backend: &str, sought: Vec<&mut Sought<'_>>, bytes: usize) {
        let backend = match self.backend(backend) {
            Ok(backend) => backend,
            Err(error) => {
                for sought in sought {
                    sought.answer = Some(Err(error.clone()));
                }
                return;
            }
        };
        let places: Vec<_> = sought
            .iter()
            .filter_map(|sought| {
                let Look { layer, consistency } = sought.at?;
                Some((layer.place, self.cache.policy(layer.policy), consistency))
            })
            .collect();
        let found = self.cache.read_many(reader, backend, &places, bytes).await;
        for (sought, found) in sought.into_iter().zip(found) {
            let Some(look) = sought.at else { continue };
            let Layer { origin, place, .. } = look.layer;
            sought.answer = match found {
                Ok(Read { found, freshness }) => {
                    let freshness = sought.layers.looked(look, freshness);
                    match found {
                        ReadMany::Found(entry) => Some(Ok(Read {
                            found: Some(Config::new(&sought.keyed.key, origin, place, entry)),
                            freshness,
                        })),
                        ReadMany::Unread => Some(Err(ConfigError::ResponseFull)),
                        ReadMany::Nothing => None,
                    }
                }
                Err(error) => Some(Err(error.into())),
            };
        }
    }
}

impl<'k> Sought<'k> {
    fn new(keyed: &'k Keyed, consistency: Consistency) -> Self {
        Self {
            keyed,
            layers: Layers::new(&keyed.placed, consistency),
            at: None,
            answer: None,
        }
    }

    fn is_nowhere(&mut self) {
        // A decision has a home, and that was looked at.
        let freshness = self.layers.freshness().ok_or(ConfigError::NotFound);
        self.answer = Some(freshness.map(|freshness| Read { found: None, freshness }));
    }
}
