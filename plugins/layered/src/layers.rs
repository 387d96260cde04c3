//! The logic: settings in, one ordered list of places a request out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// JSON Schema (2020-12) of the settings.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "the component shows it"))]
pub(crate) const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "minProperties": 1,
  "propertyNames": { "pattern": "^[a-z][a-z0-9_]*_$", "maxLength": 64 },
  "additionalProperties": {
    "type": "object",
    "required": ["backend", "layers"],
    "additionalProperties": false,
    "properties": {
      "backend": { "type": "string", "description": "id of a backend that the operator granted" },
      "shared": { "type": "string", "description": "the same, for what all tenants read" },
      "layers": {
        "type": "array",
        "description": "most specific first; the base comes last by itself",
        "items": { "type": "array", "minItems": 1, "maxItems": 4, "items": { "type": "string", "pattern": "^[a-z0-9]+$" } }
      },
      "claims": { "type": "array", "items": { "type": "string" }, "description": "dimensions taken from the token" }
    }
  }
}"#;

/// `strategy.wit`: most placements of one decision.
const PLACEMENTS: usize = 8;
/// `strategy.wit`: most segments of a namespace, and so most dimensions of a layer.
const DIMENSIONS: usize = 4;

/// What is wrong with the settings, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON Pointer into the settings.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every tag's layers.
#[derive(Debug)]
pub struct Layers(BTreeMap<String, Tag>);

/// The layers of one tag.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    backend: String,
    shared: Option<String>,
    layers: Vec<Vec<String>>,
    #[serde(default)]
    claims: BTreeSet<String>,
}

/// Where a value may live.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Id of a granted backend.
    pub backend: String,
    /// Whether all tenants read it.
    pub shared: bool,
    /// `env-prod/region-eu`; empty for the base.
    pub namespace: String,
}

/// A dimension with which no place can be made. Says which, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl Layers {
    /// Reads the settings. `backends` are the granted ids.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn configure(settings: &str, backends: &[&str]) -> Result<Self, Vec<Problem>> {
        let problem = |path: String, message: String| Problem { path, message };
        let tags: BTreeMap<String, Tag> = serde_json::from_str(settings).map_err(|error| {
            let message = format!("an object from tags to {{ backend, shared, layers, claims }}: {error}");
            vec![problem(String::new(), message)]
        })?;
        let mut problems = Vec::new();
        for (name, tag) in &tags {
            let path = |key: &str| format!("/{}/{key}", name.replace('~', "~0").replace('/', "~1"));
            for (key, backend) in [("backend", Some(&tag.backend)), ("shared", tag.shared.as_ref())] {
                if let Some(backend) = backend.filter(|backend| !backends.contains(&backend.as_str())) {
                    let message = format!("`{backend}` is not granted; granted are: {}", backends.join(", "));
                    problems.push(problem(path(key), message));
                }
            }
            for (index, layer) in tag.layers.iter().enumerate() {
                let names = layer.iter().collect::<BTreeSet<_>>();
                let seen = |earlier: &Vec<String>| earlier.iter().collect::<BTreeSet<_>>() == names;
                if !(1..=DIMENSIONS).contains(&layer.len())
                    || names.len() < layer.len()
                    || !layer.iter().all(|name| is_name(name))
                {
                    let message = "1 to 4 different dimensions, each [a-z0-9]+".to_owned();
                    problems.push(problem(path(&format!("layers/{index}")), message));
                } else if tag.layers[..index].iter().any(seen) {
                    let message = "the same dimensions as a layer before it".to_owned();
                    problems.push(problem(path(&format!("layers/{index}")), message));
                }
            }
            if tag.most() > PLACEMENTS {
                let message = format!(
                    "{} places with the base and what is shared; at most {PLACEMENTS}",
                    tag.most()
                );
                problems.push(problem(path("layers"), message));
            }
        }
        if tags.is_empty() {
            let message = "no tag: name at least one".to_owned();
            problems.push(problem(String::new(), message));
        }
        if problems.is_empty() {
            Ok(Self(tags))
        } else {
            Err(problems)
        }
    }

    /// The tags, ascending.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// One tag's layers.
    #[must_use]
    pub fn tag(&self, tag: &str) -> Option<&Tag> {
        self.0.get(tag)
    }

    /// The dimensions that are taken from the token, and those that the caller gives.
    #[must_use]
    pub fn dimensions(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let dimensions = self.0.values().flat_map(|tag| {
            let names = tag.layers.iter().flatten();
            names.map(|name| (tag.claims.contains(name), name.as_str()))
        });
        let (mut claims, mut context) = (BTreeSet::new(), BTreeSet::new());
        for (claimed, name) in dimensions {
            if claimed { &mut claims } else { &mut context }.insert(name);
        }
        (claims, context)
    }
}

impl Tag {
    /// Most places of one request.
    fn most(&self) -> usize {
        (self.layers.len() + 1) * (1 + usize::from(self.shared.is_some()))
    }

    /// Where a value may live, in reading order: the tenant's layers for which the request says everything, the most
    /// specific first, its base, and the same of what all tenants share.
    ///
    /// # Errors
    /// When a dimension cannot be a part of a name, or the token has several values for it.
    pub fn places(&self, claims: &[(&str, &str)], context: &[(&str, &str)]) -> Result<Vec<Place>, Refused> {
        let value = |name: &str| {
            let given = if self.claims.contains(name) { claims } else { context };
            let mut values = given.iter().filter(|(given, _)| *given == name);
            let value = values.next().map(|(_, value)| *value).filter(|value| !value.is_empty());
            if values.next().is_some() {
                return Err(Refused(format!("the token has several values for `{name}`")));
            }
            match value {
                Some(value) if !is_value(value) => Err(Refused(format!(
                    "`{name}` is not [A-Za-z0-9_-]* that ends in a letter or digit, of at most 48 bytes"
                ))),
                value => Ok(value),
            }
        };
        let mut namespaces = Vec::new();
        for layer in &self.layers {
            let mut segments = Vec::new();
            for name in layer {
                segments.extend(value(name)?.map(|value| format!("{name}-{value}")));
            }
            if segments.len() == layer.len() {
                namespaces.push(segments.join("/"));
            }
        }
        namespaces.push(String::new());
        let scopes = [
            Some((&self.backend, false)),
            self.shared.as_ref().map(|backend| (backend, true)),
        ];
        let places = scopes.into_iter().flatten().flat_map(|(backend, shared)| {
            namespaces.iter().map(move |namespace| Place {
                backend: backend.clone(),
                shared,
                namespace: namespace.clone(),
            })
        });
        Ok(places.collect())
    }
}

/// Without a dash, so that `env-prod` is one dimension and its value, whatever the value.
fn is_name(name: &str) -> bool {
    (1..=12).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// As `strategy.wit` says of a namespace's segment; and four of them fit a namespace.
fn is_value(value: &str) -> bool {
    value.len() <= 48
        && value.ends_with(|last: char| last.is_ascii_alphanumeric())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use super::{Layers, Problem, Refused};

    const SETTINGS: &str = r#"{"t_": {"backend": "hot", "shared": "all",
        "layers": [["env", "region", "tier"], ["env"]], "claims": ["tier"]}}"#;

    /// `backend:namespace` of each place, in order.
    fn places(claims: &[(&str, &str)], context: &[(&str, &str)]) -> Result<Vec<String>, Refused> {
        let layers = Layers::configure(SETTINGS, &["hot", "all"]).unwrap();
        let places = layers.tag("t_").unwrap().places(claims, context)?;
        Ok(places
            .into_iter()
            .map(|place| {
                assert_eq!(place.shared, place.backend == "all");
                format!("{}:{}", place.backend, place.namespace)
            })
            .collect())
    }

    #[test]
    fn the_most_specific_comes_first_and_what_is_shared_last() {
        assert_eq!(places(&[], &[]).unwrap(), ["hot:", "all:"]);
        assert_eq!(
            places(&[], &[("env", "prod")]).unwrap(),
            ["hot:env-prod", "hot:", "all:env-prod", "all:"]
        );
        let context = [("env", "prod"), ("region", "eu-1")];
        assert_eq!(
            places(&[("tier", "gold")], &context).unwrap(),
            [
                "hot:env-prod/region-eu-1/tier-gold",
                "hot:env-prod",
                "hot:",
                "all:env-prod/region-eu-1/tier-gold",
                "all:env-prod",
                "all:"
            ]
        );
    }

    #[test]
    fn what_the_token_says_is_taken_from_the_token() {
        let context = [("env", "prod"), ("region", "eu"), ("tier", "gold")];
        assert_eq!(places(&[], &context).unwrap()[0], "hot:env-prod");
        assert_eq!(
            places(&[("tier", "free")], &context).unwrap()[0],
            "hot:env-prod/region-eu/tier-free"
        );
        let twice = places(&[("tier", "free"), ("tier", "gold")], &context);
        assert!(twice.unwrap_err().0.contains("several"));
    }

    #[test]
    fn a_value_that_is_no_segment_is_refused() {
        for value in ["../x", "a/b", "a_", "ä", &"x".repeat(49)] {
            assert!(places(&[], &[("env", value)]).is_err(), "{value}");
        }
        assert_eq!(
            places(&[], &[("env", "")]).unwrap(),
            ["hot:", "all:"],
            "as if it were not there"
        );
    }

    #[test]
    fn each_dimension_is_asked_for_where_it_comes_from() {
        let layers = Layers::configure(SETTINGS, &["hot", "all"]).unwrap();
        let (claims, context) = layers.dimensions();
        assert_eq!(claims.into_iter().collect::<Vec<_>>(), ["tier"]);
        assert_eq!(context.into_iter().collect::<Vec<_>>(), ["env", "region"]);
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        let problems = |settings: &str| -> Vec<String> {
            let problems = Layers::configure(settings, &["hot"]).unwrap_err();
            problems.into_iter().map(|Problem { path, .. }| path).collect()
        };
        assert_eq!(problems("[]"), [""]);
        assert_eq!(problems("{}"), [""]);
        assert_eq!(problems(r#"{"t_": {"backend": "hot"}}"#), [""]);
        assert_eq!(
            problems(r#"{"t_": {"backend": "cold", "shared": "ice", "layers": [[], ["Env"], ["a", "a"]]}}"#),
            [
                "/t_/backend",
                "/t_/shared",
                "/t_/layers/0",
                "/t_/layers/1",
                "/t_/layers/2"
            ]
        );
        assert_eq!(
            problems(r#"{"t_": {"backend": "hot", "layers": [["a", "b"], ["b", "a"]]}}"#),
            ["/t_/layers/1"]
        );
        assert_eq!(
            problems(r#"{"t_": {"backend": "hot", "shared": "hot", "layers": [["a"], ["b"], ["c"], ["d"]]}}"#),
            ["/t_/layers"]
        );
    }
}
