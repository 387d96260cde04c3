//! One line.

use std::time::SystemTime;

use serde::Serialize;

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is not, and whoever asked was told why.
    Refused,
    /// Something failed, or the time was over: it may be done.
    Unknown,
}

/// What happened. Everything but `what` and `outcome` is left out where it is empty.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Record<'a> {
    /// The method that was called; or what the gateway did by itself.
    pub what: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// Why not, as the error says: its stable reason.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'a str,
    /// Whose.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tenant: &'a str,
    /// Who, as the token says.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub subject: &'a str,
    /// From where.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub peer: &'a str,
    /// Which key.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub key: &'a str,
    /// The default that all tenants read is meant.
    #[serde(skip_serializing_if = "is_false")]
    pub shared: bool,
    /// The store that is meant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub backend: &'a str,
    /// The caller's name for the request.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: &'a str,
    /// What stood.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub etag_before: &'a str,
    /// What stands.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub etag_after: &'a str,
    /// It was done before, and is answered as it was then.
    #[serde(skip_serializing_if = "is_false")]
    pub replayed: bool,
    /// What decided where the key lives; or the strategy that is meant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub strategy: &'a str,
    /// Of the snapshot that it became active with.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// The component's.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub digest: &'a str,
}

#[derive(Serialize)]
struct Whole<'a> {
    time: String,
    replica: &'a str,
    #[serde(flatten)]
    record: Record<'a>,
    /// Refusals before it that were counted and no more.
    #[serde(skip_serializing_if = "is_zero")]
    omitted: u64,
}

impl<'a> Record<'a> {
    /// Of which nothing is known but that.
    #[must_use]
    pub fn new(what: &'a str, outcome: Outcome) -> Self {
        Self {
            what,
            outcome,
            reason: "",
            tenant: "",
            subject: "",
            peer: "",
            key: "",
            shared: false,
            backend: "",
            request_id: "",
            etag_before: "",
            etag_after: "",
            replayed: false,
            strategy: "",
            generation: 0,
            digest: "",
        }
    }

    pub(super) fn line(self, replica: &str, now: SystemTime, omitted: u64) -> String {
        let whole = Whole {
            time: humantime::format_rfc3339_micros(now).to_string(),
            replica,
            record: self,
            omitted,
        };
        // Text and numbers are always JSON.
        let mut line = serde_json::to_string(&whole).unwrap_or_default();
        line.push('\n');
        line
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}
