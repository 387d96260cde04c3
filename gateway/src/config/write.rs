//! Writes and deletes of one key. Each is made of steps that may be cut off after any of them: what remains reads as
//! before or as after, and to read again and do the same completes it.
//!
//! A write goes home and then clears former homes, so that the key is never nowhere. A delete clears former homes, the last
//! one first, and then home, so that nothing comes back. A precondition is judged on what a read would return and then made to hold by the one
//! store in which it can be: home, or the former home that holds the key.

use std::sync::Arc;

use super::{Capability, Config, ConfigError, Configs, Keyed, WriteOptions, check_capability};
use crate::backend::{Backend, Conditions, Deleted, Entry, NewEntry, Once, Precondition, Unfit, WriteError};
use crate::cache::Consistency;
use crate::clock::Clock;
use crate::identity::Writer;
use crate::key::{ConfigKey, Etag};
use crate::placement::{Origin, Place, Placed};
use crate::strategy::Operation;

/// A precondition, as far as it is judged.
enum Judged<'p> {
    /// It holds if this holds at home.
    AtHome(Precondition),
    /// It holds if the former home is still in this state, and home holds nothing.
    AtFormer(&'p Place, Etag),
    /// It does not hold.
    Not,
}

impl Configs {
    /// Writes. Returns what stands then, without its value.
    pub async fn put(
        &self,
        writer: &Writer,
        key: &str,
        entry: NewEntry,
        options: &WriteOptions,
    ) -> Result<Config, ConfigError> {
        let keyed = self.for_write(writer, key, Operation::Write, options).await?;
        let asked = ("put", &*entry.value, &entry.content_type, entry.secret);
        let once = options.once(&keyed.key, &asked)?;
        if let (Some(done), false) = (once, keyed.placed.is_alone())
            && let Some(answer) = self.done(writer, &keyed, done, options).await?
        {
            return Ok(answer);
        }
        self.write(writer, &keyed, entry, options, once).await
    }

    /// Writes what stood at `key` in an earlier version again, as a new one. Returns what stands then, without its value.
    pub async fn rollback(
        &self,
        writer: &Writer,
        key: &str,
        version: u64,
        options: &WriteOptions,
    ) -> Result<Config, ConfigError> {
        let keyed = self.for_write(writer, key, Operation::Write, options).await?;
        let once = options.once(&keyed.key, &("rollback", version))?;
        // First, for what it did may have moved the key away from its past.
        if let Some(done) = once
            && let Some(answer) = self.done(writer, &keyed, done, options).await?
        {
            return Ok(answer);
        }
        let earlier = self.find_version(writer, &keyed.placed, version).await?;
        let earlier = earlier.ok_or(ConfigError::NotFound)?.entry;
        let entry = NewEntry {
            value: earlier.value,
            content_type: earlier.content_type,
            secret: earlier.secret,
        };
        self.write(writer, &keyed, entry, options, once).await
    }

    /// Deletes. True if something stood at home or in a former home.
    pub async fn delete(&self, writer: &Writer, key: &str, options: &WriteOptions) -> Result<bool, ConfigError> {
        let Keyed { key, placed, .. } = self.for_write(writer, key, Operation::Delete, options).await?;
        let once = options.once(&key, &"delete")?;
        let placed = &placed;
        let home = self.backend(&placed.home.backend)?;
        let at_home = |precondition, elsewhere| async move {
            let conditions = Conditions { precondition, once };
            self.cache
                .delete(writer, home, &placed.home, elsewhere, conditions)
                .await
        };
        if once.is_some() && !placed.is_alone() {
            // Before anything is cleared: what was done is not done again, and what is refused does nothing.
            match at_home(Precondition::Never, false).await {
                Err(WriteError::PreconditionFailed) => {}
                done => {
                    options.trail.replays();
                    return done.map(Deleted::something).map_err(|error| options.error(error));
                }
            }
        }
        let (mut elsewhere, mut shown) = (false, None);
        let judged = self.judge(writer, placed, options.precondition).await?;
        options.trail.begins();
        let precondition = match judged {
            Judged::AtHome(Precondition::None) => {
                // From beneath, so that what shows is the last to go.
                for former in placed.former.iter().rev() {
                    let cleared = self.clear(writer, former, Precondition::None).await?;
                    elsewhere |= cleared.something();
                    shown = cleared.etag().or(shown);
                }
                Precondition::None
            }
            Judged::AtHome(Precondition::Match(etag)) => {
                options.trail.followed(etag);
                Precondition::Match(self.clear_beneath(writer, placed, &placed.home, etag, options).await?)
            }
            Judged::AtHome(precondition) => {
                self.check_condition(&placed.home, precondition)?;
                precondition
            }
            Judged::AtFormer(holder, etag) => {
                options.trail.followed(etag);
                let etag = self.clear_beneath(writer, placed, holder, etag, options).await?;
                elsewhere = self.clear(writer, holder, Precondition::Match(etag)).await?.something();
                if !elsewhere {
                    return Err(options.refused());
                }
                if once.is_none() {
                    return Ok(true);
                }
                // For the request to be remembered. What was written at home meanwhile is newer than this delete.
                Precondition::Absent
            }
            Judged::Not => return Err(options.refused()),
        };
        match at_home(precondition, elsewhere).await {
            Err(WriteError::PreconditionFailed) if elsewhere => Ok(true),
            deleted => {
                let deleted = deleted.map_err(|error| options.error(error))?;
                if let Some(etag) = deleted.etag().or(shown) {
                    options.trail.followed(etag);
                }
                Ok(deleted.something())
            }
        }
    }

    async fn for_write(
        &self,
        writer: &Writer,
        key: &str,
        operation: Operation,
        options: &WriteOptions,
    ) -> Result<Keyed, ConfigError> {
        let snapshot = self.registry.current();
        let keyed = Self::place(&snapshot, writer, key, operation, &options.context, options.scope).await?;
        options.trail.decided(&keyed.by);
        let can = self.backend(&keyed.placed.home.backend)?.capabilities();
        check_capability(options.request_id.is_none() || can.request_id, Capability::RequestId)?;
        Ok(keyed)
    }

    async fn write(
        &self,
        writer: &Writer,
        Keyed { key, placed, .. }: &Keyed,
        mut entry: NewEntry,
        options: &WriteOptions,
        once: Option<Once>,
    ) -> Result<Config, ConfigError> {
        let home = self.backend(&placed.home.backend)?;
        let limit = home.capabilities().max_value_bytes;
        if entry.value.len() > limit as usize {
            let size = entry.value.len();
            return Err(Unfit::Size { size, limit }.into());
        }
        let judged = self.judge(writer, placed, options.precondition).await?;
        // What is cleared is what was there before the write. What comes later was put there by a strategy of another
        // mind, on a replica that is ahead or behind, and is not ours to lose.
        let left_behind = self.standing(writer, &placed.former).await?;
        // What is a secret stays one on its way home.
        entry.secret |= left_behind.iter().any(|(_, entry)| entry.secret);
        check_capability(!entry.secret || home.capabilities().secret, Capability::Secret)?;
        let began = Clock::system().now();
        options.trail.begins();
        let (precondition, claimed) = match judged {
            Judged::AtHome(precondition) => {
                self.check_condition(&placed.home, precondition)?;
                (precondition, None)
            }
            Judged::AtFormer(holder, etag) => {
                self.check_condition(&placed.home, Precondition::Absent)?;
                let claimed = self.claim(writer, holder, etag, options).await?;
                (Precondition::Absent, Some((holder, claimed)))
            }
            Judged::Not => return Err(options.refused()),
        };
        let conditions = Conditions { precondition, once };
        let written = self.cache.write(writer, home, &placed.home, entry, conditions).await;
        if let (Err(WriteError::PreconditionFailed), Some((holder, claimed))) = (&written, claimed) {
            // Home holds something newer, and whoever wrote it could not clear what was claimed meanwhile.
            self.clear(writer, holder, Precondition::Match(claimed)).await?;
        }
        let written = written.map_err(|error| options.error(error))?;
        if once.is_some() && written.updated_at < began {
            options.trail.replays();
        }
        // A store that judges etags counts 1, 2, 3 within a life; of another this is not known.
        if home.capabilities().if_match {
            let shown = left_behind.first().map(|(_, entry)| entry.etag);
            if let Some(etag) = written.etag.before().or(shown) {
                options.trail.followed(etag);
            }
        }
        for (former, entry) in left_behind {
            match claimed.filter(|(holder, _)| *holder == former) {
                None => _ = self.clear(writer, former, Precondition::Match(entry.etag)).await?,
                Some((_, claimed)) => {
                    let kept = self
                        .clear(writer, former, Precondition::Match(claimed))
                        .await?
                        .something();
                    // Somebody deleted what was claimed, and was told so: then nothing follows it. A home that cannot
                    // judge an etag is left alone: what stands there may be newer.
                    if !kept
                        && home.capabilities().if_match
                        && self
                            .clear(writer, &placed.home, Precondition::Match(written.etag))
                            .await?
                            .something()
                    {
                        return Err(options.refused());
                    }
                }
            }
        }
        Ok(Config::new(key, Origin::Home, &placed.home, written))
    }

    /// The answer to a request that was done before; and what it left undone, where it was cut off: what lies in former
    /// homes under its answer is cleared, and what is newer than that is not its own.
    async fn done(
        &self,
        writer: &Writer,
        Keyed { key, placed, .. }: &Keyed,
        once: Once,
        options: &WriteOptions,
    ) -> Result<Option<Config>, ConfigError> {
        let home = self.backend(&placed.home.backend)?;
        let nothing = NewEntry {
            value: bytes::Bytes::new(),
            content_type: String::new(),
            secret: false,
        };
        let conditions = Conditions {
            precondition: Precondition::Never,
            once: Some(once),
        };
        let answer = match self.cache.write(writer, home, &placed.home, nothing, conditions).await {
            Err(WriteError::PreconditionFailed) => return Ok(None),
            answer => answer.map_err(|error| options.error(error))?,
        };
        options.trail.begins();
        options.trail.replays();
        let left_behind = self.standing(writer, &placed.former).await?;
        let stands = home.read(writer, &placed.home.name).await?;
        if stands.is_some_and(|stands| stands.etag == answer.etag) {
            for (former, entry) in left_behind {
                if entry.updated_at <= answer.updated_at {
                    self.clear(writer, former, Precondition::Match(entry.etag)).await?;
                }
            }
        }
        Ok(Some(Config::new(key, Origin::Home, &placed.home, answer)))
    }

    /// Clears what former homes hold beneath `shown`, so that nothing comes up when that goes. It is claimed first: who
    /// loses it to another has cleared nothing. Returns its etag.
    async fn clear_beneath(
        &self,
        writer: &Writer,
        placed: &Placed,
        shown: &Place,
        etag: Etag,
        options: &WriteOptions,
    ) -> Result<Etag, ConfigError> {
        self.check_condition(shown, Precondition::Match(etag))?;
        let mut beneath = self.standing(writer, &placed.former).await?;
        beneath.retain(|(former, _)| *former != shown);
        if beneath.is_empty() {
            return Ok(etag);
        }
        let claimed = self.claim(writer, shown, etag, options).await?;
        for (former, entry) in beneath {
            self.clear(writer, former, Precondition::Match(entry.etag)).await?;
        }
        Ok(claimed)
    }

    /// What has to hold at home, or in a former home, for the precondition to hold of what a read would return.
    async fn judge<'p>(
        &self,
        writer: &Writer,
        placed: &'p Placed,
        precondition: Precondition,
    ) -> Result<Judged<'p>, ConfigError> {
        if precondition == Precondition::None || placed.is_alone() {
            return Ok(Judged::AtHome(precondition));
        }
        let found = self.find(writer, placed, Consistency::Latest).await?;
        Ok(match (precondition, found) {
            (Precondition::Absent, None) => Judged::AtHome(precondition),
            (Precondition::Match(etag), Some(found)) if found.entry.etag == etag => match found.origin {
                Origin::Home => Judged::AtHome(precondition),
                Origin::Former => Judged::AtFormer(found.place, etag),
                Origin::Default => Judged::AtHome(Precondition::Absent),
            },
            _ => Judged::Not,
        })
    }

    /// What the former homes hold.
    async fn standing<'p>(&self, writer: &Writer, former: &'p [Place]) -> Result<Vec<(&'p Place, Entry)>, ConfigError> {
        let mut standing = Vec::new();
        for place in former {
            let entry = self.backend(&place.backend)?.read(writer, &place.name).await?;
            standing.extend(entry.map(|entry| (place, entry)));
        }
        Ok(standing)
    }

    /// Writes what a place holds once more, so that of all who have its etag one can go on. Returns the new one.
    async fn claim(
        &self,
        writer: &Writer,
        holder: &Place,
        etag: Etag,
        options: &WriteOptions,
    ) -> Result<Etag, ConfigError> {
        let condition = Precondition::Match(etag);
        self.check_condition(holder, condition)?;
        let backend = self.backend(&holder.backend)?;
        let standing = backend.read(writer, &holder.name).await?;
        let standing = standing.filter(|standing| standing.etag == etag);
        let standing = standing.ok_or_else(|| options.refused())?;
        let same = NewEntry {
            value: standing.value,
            content_type: standing.content_type,
            secret: standing.secret,
        };
        let conditions = Conditions {
            precondition: condition,
            once: None,
        };
        let claimed = self.cache.write(writer, backend, holder, same, conditions).await;
        Ok(claimed.map_err(|error| options.error(error))?.etag)
    }

    /// Deletes there, if the condition holds and the store can judge it.
    async fn clear(&self, writer: &Writer, former: &Place, precondition: Precondition) -> Result<Deleted, ConfigError> {
        let backend = self.backend(&former.backend)?;
        let precondition = if backend.capabilities().if_match {
            precondition
        } else {
            Precondition::None
        };
        let conditions = Conditions {
            precondition,
            once: None,
        };
        match self.cache.delete(writer, backend, former, false, conditions).await {
            Err(WriteError::PreconditionFailed) => Ok(Deleted::Nothing),
            Err(WriteError::Backend(error)) => Err(error.into()),
            // No id was given, and nothing is written.
            Err(WriteError::RequestReused) => Err(ConfigError::RequestReused),
            Err(WriteError::Unfit(unfit)) => Err(unfit.into()),
            Ok(deleted) => Ok(deleted),
        }
    }

    fn check_condition(&self, place: &Place, precondition: Precondition) -> Result<(), ConfigError> {
        let backend: &Arc<dyn Backend> = self.backend(&place.backend)?;
        let can = backend.capabilities();
        match precondition {
            Precondition::None | Precondition::Never => Ok(()),
            Precondition::Match(_) => check_capability(can.if_match, Capability::IfMatch),
            Precondition::Absent => check_capability(can.if_absent, Capability::IfAbsent),
        }
    }
}

impl WriteOptions {
    /// The request, to be done once. `asked` is what it asks for besides key and options.
    fn once(&self, key: &ConfigKey, asked: &impl serde::Serialize) -> Result<Option<Once>, ConfigError> {
        let Some(id) = self.request_id else {
            return Ok(None);
        };
        let precondition = format!("{:?}", self.precondition);
        let whole = (asked, key.to_string(), precondition, &self.context, self.scope);
        let whole = postcard::to_stdvec(&whole).map_err(|_| ConfigError::Seal)?;
        let mut digest = [0; 32];
        digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &whole).as_ref());
        Ok(Some(Once { id, digest }))
    }

    /// The precondition does not hold.
    fn refused(&self) -> ConfigError {
        match self.precondition {
            Precondition::Absent => ConfigError::AlreadyExists,
            _ => ConfigError::Changed,
        }
    }

    fn error(&self, error: WriteError) -> ConfigError {
        match error {
            WriteError::Backend(error) => error.into(),
            WriteError::RequestReused => ConfigError::RequestReused,
            WriteError::PreconditionFailed => self.refused(),
            WriteError::Unfit(unfit) => unfit.into(),
        }
    }
}
