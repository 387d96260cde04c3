//! Many keys in one answer: each for itself, as far as the answer has room. Stores are asked for many keys at once, layer by
//! layer: for all homes, then for what lies beneath those that hold nothing.

use std::collections::BTreeMap;

use super::list::{PAGE_BYTES, size};
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
    /// Where it is to be looked for next, or was found.
    at: Option<Look<'k>>,
    answer: Option<Result<Read<Config>, ConfigError>>,
}

impl Configs {
    /// What stands at each of the keys, in their order. All are decided by one snapshot, and what one of them meets with
    /// is told of that one alone. Values that would not fit any more are [`ConfigError::ResponseFull`].
    pub async fn batch(
        &self,
        reader: &Reader,
        keys: &[String],
        context: &Context,
        consistency: Consistency,
    ) -> Vec<Result<Read<Config>, ConfigError>> {
        let snapshot = self.registry.current();
        let mut placed = Vec::with_capacity(keys.len());
        for key in keys {
            placed.push(Self::place(&snapshot, reader, key, Operation::Read, context, Scope::Own).await);
        }
        let mut sought = placed
            .iter()
            .map(|placed| placed.as_ref().ok().map(|keyed| Sought::new(keyed, consistency)))
            .collect::<Vec<_>>();
        loop {
            let mut asked: BTreeMap<(&str, bool), Vec<&mut Sought<'_>>> = BTreeMap::new();
            for sought in sought.iter_mut().flatten().filter(|sought| sought.answer.is_none()) {
                if let Some(Look { layer, consistency }) = sought.descend() {
                    let is_latest = consistency == Consistency::Latest;
                    asked.entry((&layer.place.backend, is_latest)).or_default().push(sought);
                }
            }
            if asked.is_empty() {
                break;
            }
            for ((backend, is_latest), sought) in asked {
                let consistency = if is_latest {
                    Consistency::Latest
                } else {
                    Consistency::Cached
                };
                self.look(reader, backend, sought, consistency).await;
            }
        }
        let mut together = 0;
        let answers = placed.iter().zip(sought).map(|(placed, sought)| {
            if let Err(error) = placed {
                return Err(error.clone());
            }
            let config = sought
                .and_then(|sought| sought.answer)
                .unwrap_or(Err(ConfigError::NotFound))?;
            let size = size(&config.found.entry);
            if together + size > PAGE_BYTES {
                return Err(ConfigError::ResponseFull);
            }
            together += size;
            Ok(config)
        });
        answers.collect()
    }

    /// Asks one store for all that is sought there.
    async fn look(&self, reader: &Reader, backend: &str, sought: Vec<&mut Sought<'_>>, consistency: Consistency) {
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
                let Layer { place, policy, .. } = sought.at?.layer;
                Some((place, self.cache.policy(policy)))
            })
            .collect();
        let found = self.cache.read_many(reader, backend, &places, consistency, PAGE_BYTES);
        let found = found.await;
        for (sought, found) in sought.into_iter().zip(found) {
            let Some(look) = sought.at else { continue };
            let Layer { origin, place, .. } = look.layer;
            sought.answer = match found {
                Ok(Read { found, freshness }) => {
                    let freshness = sought.layers.looked(look, freshness);
                    match found {
                        ReadMany::Found(entry) => Some(Ok(Read {
                            found: Config::new(&sought.keyed.key, origin, place, entry),
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

    /// The next layer. None: there is none, and the key is nowhere.
    fn descend(&mut self) -> Option<Look<'k>> {
        self.at = self.layers.next();
        self.at
    }
}
