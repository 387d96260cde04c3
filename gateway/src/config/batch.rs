//! Many keys in one answer: each for itself, as far as the answer has room.

use super::list::{PAGE_BYTES, size};
use super::{Config, ConfigError, Configs, Keyed, Scope};
use crate::identity::Reader;
use crate::strategy::{Context, Operation, Snapshot};

impl Configs {
    /// What stands at each of the keys, in their order. All are decided by one snapshot, and what one of them meets with
    /// is told of that one alone. Values that would not fit any more are [`ConfigError::ResponseFull`].
    pub async fn batch(&self, reader: &Reader, keys: &[String], context: &Context) -> Vec<Result<Config, ConfigError>> {
        let snapshot = self.registry.current();
        let mut answers = Vec::with_capacity(keys.len());
        let mut together = 0;
        for key in keys {
            let mut answer = self.one(&snapshot, reader, key, context).await;
            if let Ok(config) = &answer {
                let size = size(&config.entry);
                if together + size > PAGE_BYTES {
                    answer = Err(ConfigError::ResponseFull);
                } else {
                    together += size;
                }
            }
            answers.push(answer);
        }
        answers
    }

    async fn one(
        &self,
        snapshot: &Snapshot,
        reader: &Reader,
        key: &str,
        context: &Context,
    ) -> Result<Config, ConfigError> {
        let Keyed { key, placed } = Self::place(snapshot, reader, key, Operation::Read, context, Scope::Own).await?;
        let found = self.find(reader, &placed).await?.ok_or(ConfigError::NotFound)?;
        Ok(Config::new(&key, found.origin, found.place, found.entry))
    }
}
