//! The logic: settings and a tenant in, two places in order out.

use std::collections::BTreeMap;

use serde::Deserialize;

/// JSON Schema (2020-12) of the settings.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "the component shows it"))]
pub(crate) const SCHEMA: &str = r##"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "minProperties": 1,
  "propertyNames": { "pattern": "^[a-z][a-z0-9_]*_$", "maxLength": 64 },
  "additionalProperties": {
    "type": "object",
    "required": ["from", "to", "percent"],
    "additionalProperties": false,
    "properties": {
      "from": { "$ref": "#/$defs/place" },
      "to": { "$ref": "#/$defs/place" },
      "percent": { "type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01 }
    }
  },
  "$defs": {
    "place": {
      "type": "object",
      "required": ["backend"],
      "additionalProperties": false,
      "properties": { "backend": { "type": "string" }, "namespace": { "type": "string" } }
    }
  }
}"##;

/// What is wrong with the settings, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON Pointer into the settings.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every tag's move.
#[derive(Debug)]
pub struct Moves(BTreeMap<String, Move>);

/// One tag's move.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    from: Place,
    to: Place,
    percent: f64,
}

/// Where keys live.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Id of a granted backend.
    pub backend: String,
    /// Path segments joined by `/`, possibly none.
    #[serde(default)]
    pub namespace: String,
}

impl Moves {
    /// Reads the settings. `backends` are the granted ids.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn configure(settings: &str, backends: &[&str]) -> Result<Self, Vec<Problem>> {
        let problem = |path: String, message: String| Problem { path, message };
        let moves: BTreeMap<String, Move> = serde_json::from_str(settings).map_err(|error| {
            let message = format!("an object from tags to {{ from, to, percent }}: {error}");
            vec![problem(String::new(), message)]
        })?;
        let mut problems = Vec::new();
        for (tag, moved) in &moves {
            let path = |key: &str| format!("/{}/{key}", tag.replace('~', "~0").replace('/', "~1"));
            for (key, place) in [("from", &moved.from), ("to", &moved.to)] {
                if !backends.contains(&place.backend.as_str()) {
                    let granted = backends.join(", ");
                    let message = format!("`{}` is not granted; granted are: {granted}", place.backend);
                    problems.push(problem(path(&format!("{key}/backend")), message));
                }
                if !is_namespace(&place.namespace) {
                    let message = "0 to 4 segments [A-Za-z0-9_-]* joined by \"/\", each ending in a letter or digit";
                    problems.push(problem(path(&format!("{key}/namespace")), message.to_owned()));
                }
            }
            if moved.from == moved.to {
                problems.push(problem(path("to"), "the very place that it moves from".to_owned()));
            }
            if !(0.0..=100.0).contains(&moved.percent) {
                problems.push(problem(path("percent"), "a number from 0 to 100".to_owned()));
            }
        }
        if moves.is_empty() {
            problems.push(problem(String::new(), "no tag: name at least one".to_owned()));
        }
        if problems.is_empty() {
            Ok(Self(moves))
        } else {
            Err(problems)
        }
    }

    /// The tags, ascending.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Home and former home of a tenant's keys: which of the two is which.
    #[must_use]
    pub fn places(&self, tag: &str, tenant: &str) -> Option<[&Place; 2]> {
        let moved = self.0.get(tag)?;
        // In hundredths of a percent; a tenant's own never changes, so raising the percentage only adds tenants.
        let own = u32::try_from(hash(tag, tenant) % 10_000).unwrap_or_default();
        Some(if f64::from(own) < moved.percent * 100.0 {
            [&moved.to, &moved.from]
        } else {
            [&moved.from, &moved.to]
        })
    }
}

/// As `strategy.wit` says of a placement's namespace: better told here than with every request.
fn is_namespace(text: &str) -> bool {
    let is_segment = |segment: &str| {
        segment.ends_with(|last: char| last.is_ascii_alphanumeric())
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    text.is_empty() || (text.len() <= 256 && text.split('/').count() <= 4 && text.split('/').all(is_segment))
}

/// FNV-1a, and the finalizer of `SplitMix64` for its low bits. With the tag, so that the same tenants are not first in
/// every move. It never changes: who has moved would move back.
fn hash(tag: &str, tenant: &str) -> u64 {
    let bytes = tag.bytes().chain(tenant.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use super::{Moves, Problem, hash};

    fn moves(percent: f64) -> Moves {
        let settings = format!(
            r#"{{"t_": {{"from": {{"backend": "old"}}, "to": {{"backend": "new", "namespace": "x"}}, "percent": {percent}}}}}"#
        );
        Moves::configure(&settings, &["old", "new"]).unwrap()
    }

    /// Of ten thousand tenants, those that are written to the new place.
    fn moved(percent: f64) -> Vec<usize> {
        let moves = moves(percent);
        let is_moved = |tenant: &usize| {
            let [home, former] = moves.places("t_", &format!("tenant-{tenant}")).unwrap();
            assert_ne!(home, former);
            home.backend == "new"
        };
        (0..10_000).filter(is_moved).collect()
    }

    #[test]
    fn a_percentage_of_tenants_moves_and_raising_it_only_adds() {
        assert_eq!(moved(0.0).len(), 0);
        assert_eq!(moved(100.0).len(), 10_000);
        let mut before = Vec::new();
        for percent in [0.5, 1.0, 10.0, 25.0, 50.0, 99.0] {
            let now = moved(percent);
            #[allow(clippy::cast_precision_loss, reason = "at most ten thousand")]
            let off = (now.len() as f64 - percent * 100.0).abs();
            assert!(off < 200.0, "{percent} %: {}", now.len());
            assert!(before.iter().all(|tenant| now.contains(tenant)), "{percent} %");
            before = now;
        }
    }

    #[test]
    fn a_tenant_keeps_its_place_for_ever() {
        assert_eq!(hash("tenant_config_", "acme") % 10_000, 9271);
        assert_eq!(hash("tenant_config_", "globex") % 10_000, 1374);
        assert_eq!(hash("param_config_", "acme") % 10_000, 4772);
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        let problems = |settings: &str| -> Vec<String> {
            let problems = Moves::configure(settings, &["old"]).unwrap_err();
            problems.into_iter().map(|Problem { path, .. }| path).collect()
        };
        assert_eq!(problems("[]"), [""]);
        assert_eq!(problems("{}"), [""]);
        assert_eq!(
            problems(r#"{"t_": {"from": {"backend": "old"}, "to": {"backend": "new"}, "percent": 101}}"#),
            ["/t_/to/backend", "/t_/percent"]
        );
        assert_eq!(
            problems(
                r#"{"t_": {"from": {"backend": "old"}, "to": {"backend": "old", "namespace": "a_"}, "percent": 5}}"#
            ),
            ["/t_/to/namespace"]
        );
        assert_eq!(
            problems(r#"{"t_": {"from": {"backend": "old"}, "to": {"backend": "old"}, "percent": 5}}"#),
            ["/t_/to"]
        );
        assert_eq!(
            problems(r#"{"t_": {"from": {"backend": "old"}, "to": {"backend": "old", "namespace": "x"}, "per": 5}}"#),
            [""]
        );
    }
}
