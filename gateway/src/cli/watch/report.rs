//! What a watch prints: for programs an object a line, and for people a line a change, with all else on stderr.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::client::{self, Output};
use super::super::failure::Failure;
use super::Change;

pub(super) struct Report {
    is_json: bool,
    keys_only: bool,
    is_stale: bool,
}

impl Report {
    pub(super) fn new(output: Output, keys_only: bool) -> Self {
        Self {
            is_json: output == Output::Json,
            keys_only,
            is_stale: false,
        }
    }

    pub(super) fn change(&self, change: &Change) -> Result<(), Failure> {
        let event = change.event();
        match change {
            Change::Put(config) if self.is_json => {
                let mut object = if self.keys_only {
                    client::object(config)
                } else {
                    client::object_with_value(config)
                };
                object.insert("event".to_owned(), json!(event));
                line(Value::Object(object))
            }
            Change::Removed(removed) if self.is_json => {
                line(json!({ "event": event, "key": removed.key, "etag": removed.etag }))
            }
            Change::Put(config) => {
                let (key, version, time) = (&config.key, config.version, client::time(config));
                line(format_args!(
                    "{event:<7} {key:<48} v{version:<5} {time} {}",
                    config.etag
                ))
            }
            Change::Removed(removed) => line(format_args!("{event:<7} {}", removed.key)),
        }
    }

    /// Everything that stands has been told.
    pub(super) fn synced(&mut self, is_stale: bool) -> Result<(), Failure> {
        self.is_stale = is_stale;
        let note = if is_stale {
            "that is what stands, as far as it is known: a store is out of reach"
        } else {
            "that is what stands"
        };
        self.event(&json!({ "event": "synced", "stale": is_stale }), note)
    }

    /// Whether something is out of reach, where that is another answer than before.
    pub(super) fn stale(&mut self, is_stale: bool) -> Result<(), Failure> {
        if std::mem::replace(&mut self.is_stale, is_stale) == is_stale {
            return Ok(());
        }
        if is_stale {
            let note = "stale: something is out of reach, and changes may come late";
            self.event(&json!({ "event": "stale" }), note)
        } else {
            self.event(&json!({ "event": "fresh" }), "fresh again")
        }
    }

    /// Everything is compared anew.
    pub(super) fn resync(&self) -> Result<(), Failure> {
        self.event(&json!({ "event": "resync" }), "everything is compared anew")
    }

    /// The stream is lost, and another will be opened.
    pub(super) fn again(&self, failure: &Failure, pause: Duration) -> Result<(), Failure> {
        let why = failure.to_string();
        // How to mend it is for who has just typed a command.
        let why = why.lines().next().unwrap_or_default();
        let seconds = pause.as_secs_f64();
        self.event(
            &json!({ "event": "reconnecting", "why": why, "seconds": seconds }),
            &format!("reconnecting in {seconds:.1} s: {why}"),
        )
    }

    fn event(&self, object: &Value, words: &str) -> Result<(), Failure> {
        if self.is_json {
            return line(object);
        }
        note(words);
        Ok(())
    }
}

/// For people, beside what is told.
pub(super) fn note(words: &str) {
    // With stderr gone there is nobody left to tell.
    _ = writeln!(io::stderr(), "tagway: {words}");
}

/// Out at once: who reads it may act on it.
fn line(line: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
