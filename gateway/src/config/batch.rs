//! Many keys in one answer: each for itself, as far as the answer has room. Stores are asked for many keys at once, layer by
//! layer: for all homes, then for what lies beneath those that hold nothing.

use std::collections::BTreeMap;

use super::list::{PAGE_BYTES, size};
use super::read::layers;
use super::{Config, ConfigError, Configs, Keyed, Scope};
use crate::backend::ReadMany;
use crate::identity::Reader;
use crate::placement::{Origin, Place};
use crate::strategy::{Context, Operation};

/// A key on its way through the layers of its decision.
struct Sought<'k> {
    keyed: &'k Keyed,
    layers: Box<dyn Iterator<Item = (Origin, &'k Place)> + Send + 'k>,
    /// Where it is to be looked for next, or was found.
    at: Option<(Origin, &'k Place)>,
    answer: Option<Result<Config, ConfigError>>,
}

impl Configs {
    /// What stands at each of the keys, in their order. All are decided by one snapshot, and what one of them meets with
    /// is told of that one alone. Values that would not fit any more are [`ConfigError::ResponseFull`].
    pub async fn batch(&self, reader: &Reader, keys: &[String], context: &Context) -> Vec<Result<Config, ConfigError>> {
        let snapshot = self.registry.current();
        let mut placed = Vec::with_capacity(keys.len());
        for key in keys {
            placed.push(Self::place(&snapshot, reader, key, Operation::Read, context, Scope::Own).await);
        }
        let mut sought = placed
            .iter()
            .map(|placed| placed.as_ref().ok().map(Sought::new))
            .collect::<Vec<_>>();
        loop {
            let mut asked: BTreeMap<&str, Vec<&mut Sought<'_>>> = BTreeMap::new();
            for sought in sought.iter_mut().flatten().filter(|sought| sought.answer.is_none()) {
                if let Some((_, place)) = sought.descend() {
                    asked.entry(&place.backend).or_default().push(sought);
                }
            }
            if asked.is_empty() {
                break;
            }
            for (backend, sought) in asked {
                self.look(reader, backend, sought).await;
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
            let size = size(&config.entry);
            if together + size > PAGE_BYTES {
                return Err(ConfigError::ResponseFull);
            }
            together += size;
            Ok(config)
        });
        answers.collect()
    }

    /// Asks one store for all that is sought there.
    async fn look(&self, reader: &Reader, backend: &str, sought: Vec<&mut Sought<'_>>) {
        let backend = match self.backend(backend) {
            Ok(backend) => backend,
            Err(error) => {
                for sought in sought {
                    sought.answer = Some(Err(error.clone()));
                }
                return;
            }
        };
        let names: Vec<_> = sought.iter().filter_map(|sought| Some(&sought.at?.1.name)).collect();
        let found = backend.read_many(reader, &names, PAGE_BYTES).await;
        for (sought, found) in sought.into_iter().zip(found) {
            sought.answer = match (found, sought.at) {
                (Ok(ReadMany::Found(entry)), Some((origin, place))) => {
                    Some(Ok(Config::new(&sought.keyed.key, origin, place, entry)))
                }
                (Ok(ReadMany::Unread), _) => Some(Err(ConfigError::ResponseFull)),
                (Ok(_), _) => None,
                (Err(error), _) => Some(Err(error.into())),
            };
        }
    }
}

impl<'k> Sought<'k> {
    fn new(keyed: &'k Keyed) -> Self {
        Self {
            keyed,
            layers: Box::new(layers(&keyed.placed)),
            at: None,
            answer: None,
        }
    }

    /// The next layer. None: there is none, and the key is nowhere.
    fn descend(&mut self) -> Option<(Origin, &'k Place)> {
        self.at = self.layers.next();
        self.at
    }
}
