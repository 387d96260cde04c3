//! The logic: settings in, one route a tag out.

use std::collections::BTreeMap;

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
    "required": ["backend"],
    "additionalProperties": false,
    "properties": {
      "backend": { "type": "string", "description": "id of a backend that the operator granted" },
      "namespace": { "type": "string", "pattern": "^([A-Za-z0-9_-]*[A-Za-z0-9](/[A-Za-z0-9_-]*[A-Za-z0-9]){0,3})?$" },
      "ttl": { "type": "string", "description": "served without asking the backend: \"60s\"" },
      "stale": { "type": "string", "description": "then served while it is refreshed, or while the backend is down" },
      "negative": { "type": "string", "description": "how long \"there is no such key\" is believed" }
    }
  }
}"#;

/// Where the keys of one tag live. Durations are in milliseconds; what is not set is the gateway's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Id of a granted backend.
    pub backend: String,
    /// Path segments joined by `/`, possibly none.
    pub namespace: String,
    /// Served without asking the backend, then stale, and how long an absence is believed.
    pub cache: Option<[u32; 3]>,
}

/// What is wrong with the settings, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON Pointer into the settings.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every tag's route.
#[derive(Debug, PartialEq, Eq)]
pub struct Routes(BTreeMap<String, Route>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteSettings {
    backend: String,
    #[serde(default)]
    namespace: String,
    ttl: Option<String>,
    stale: Option<String>,
    negative: Option<String>,
}

/// What a placement with any duration in it takes for the others; as the gateway's own defaults.
const TTL_MS: u32 = 60_000;
const STALE_MS: u32 = 600_000;
const NEGATIVE_MS: u32 = 5_000;

impl Routes {
    /// Reads the settings. `backends` are the granted ids.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn configure(settings: &str, backends: &[&str]) -> Result<Self, Vec<Problem>> {
        let tags: BTreeMap<String, serde_json::Value> = serde_json::from_str(settings).map_err(|error| {
            vec![Problem {
                path: String::new(),
                message: format!("an object from tags to {{ backend, ttl, stale, negative }}: {error}"),
            }]
        })?;
        let mut problems = Vec::new();
        if tags.is_empty() {
            problems.push(Problem {
                path: String::new(),
                message: "no tag: name at least one, as in tenant_config_ = { backend = \"hot\" }".to_owned(),
            });
        }
        let mut routes = BTreeMap::new();
        for (tag, value) in tags {
            let path = format!("/{}", tag.replace('~', "~0").replace('/', "~1"));
            if !is_tag(&tag) {
                problems.push(Problem {
                    path: path.clone(),
                    message: "a tag is [a-z][a-z0-9_]*_ of at most 64 bytes".to_owned(),
                });
            }
            match Route::from_settings(&path, value, backends) {
                Ok(route) => {
                    routes.insert(tag, route);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(Self(routes))
        } else {
            Err(problems)
        }
    }

    /// The tags that have a route, ascending.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The route of one tag.
    #[must_use]
    pub fn route(&self, tag: &str) -> Option<&Route> {
        self.0.get(tag)
    }
}

impl Route {
    fn from_settings(path: &str, value: serde_json::Value, backends: &[&str]) -> Result<Self, Problem> {
        let settings: RouteSettings = serde_json::from_value(value).map_err(|error| Problem {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        if !backends.contains(&settings.backend.as_str()) {
            return Err(Problem {
                path: format!("{path}/backend"),
                message: format!(
                    "`{}` is not granted; granted are: {}",
                    settings.backend,
                    backends.join(", ")
                ),
            });
        }
        if !is_namespace(&settings.namespace) {
            return Err(Problem {
                path: format!("{path}/namespace"),
                message: format!(
                    "`{}` is not 0 to 4 segments [A-Za-z0-9_-]* joined by \"/\", each ending in a letter or digit",
                    settings.namespace
                ),
            });
        }
        let cache = if settings.ttl.is_none() && settings.stale.is_none() && settings.negative.is_none() {
            None
        } else {
            Some([
                milliseconds(path, "ttl", settings.ttl.as_deref(), TTL_MS)?,
                milliseconds(path, "stale", settings.stale.as_deref(), STALE_MS)?,
                milliseconds(path, "negative", settings.negative.as_deref(), NEGATIVE_MS)?,
            ])
        };
        Ok(Self {
            backend: settings.backend,
            namespace: settings.namespace,
            cache,
        })
    }
}

fn milliseconds(path: &str, key: &str, text: Option<&str>, otherwise: u32) -> Result<u32, Problem> {
    let Some(text) = text else {
        return Ok(otherwise);
    };
    humantime::parse_duration(text)
        .ok()
        .and_then(|duration| u32::try_from(duration.as_millis()).ok())
        .ok_or_else(|| Problem {
            path: format!("{path}/{key}"),
            message: format!("`{text}` is not a duration such as \"60s\" or \"5m\" of at most 49 days"),
        })
}

/// As `strategy.wit` says of a placement's namespace: better told here than with every request.
fn is_namespace(text: &str) -> bool {
    let segment = |segment: &str| {
        segment.ends_with(|last: char| last.is_ascii_alphanumeric())
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    text.is_empty() || (text.len() <= 256 && text.split('/').count() <= 4 && text.split('/').all(segment))
}

fn is_tag(text: &str) -> bool {
    text.len() <= 64
        && text.ends_with('_')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use super::{Problem, Routes};

    fn problems(settings: &str) -> Vec<String> {
        let problems = Routes::configure(settings, &["hot", "params"]).unwrap_err();
        problems.into_iter().map(|Problem { path, .. }| path).collect()
    }

    #[test]
    fn each_tag_has_its_route() {
        let routes = Routes::configure(
            r#"{"tenant_config_": {"backend": "hot", "ttl": "90s"}, "param_config_": {"backend": "params", "namespace": "a/b"}}"#,
            &["hot", "params"],
        )
        .unwrap();
        assert_eq!(routes.tags().collect::<Vec<_>>(), ["param_config_", "tenant_config_"]);
        let hot = routes.route("tenant_config_").unwrap();
        assert_eq!(
            (hot.backend.as_str(), hot.cache),
            ("hot", Some([90_000, 600_000, 5_000]))
        );
        let params = routes.route("param_config_").unwrap();
        assert_eq!((params.namespace.as_str(), params.cache), ("a/b", None));
        assert_eq!(routes.route("other_"), None);
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        assert_eq!(problems("[]"), [""]);
        assert_eq!(problems("{}"), [""]);
        assert_eq!(
            problems(r#"{"tenant_config_": {"backend": "cold"}}"#),
            ["/tenant_config_/backend"]
        );
        assert_eq!(
            problems(r#"{"tenant_config_": {"backend": "hot", "tll": "1s"}}"#),
            ["/tenant_config_"]
        );
        assert_eq!(problems(r#"{"t_": {"backend": "hot", "ttl": "soon"}}"#), ["/t_/ttl"]);
        assert_eq!(
            problems(r#"{"t_": {"backend": "hot", "namespace": "live/"}}"#),
            ["/t_/namespace"]
        );
        assert_eq!(
            problems(r#"{"t_": {"backend": "hot", "namespace": ".."}}"#),
            ["/t_/namespace"]
        );
        assert_eq!(problems(r#"{"t_": {"backend": "hot", "ttl": "60days"}}"#), ["/t_/ttl"]);
        assert_eq!(
            problems(r#"{"Tag_": {"backend": "hot"}, "a/b": {"backend": "hot"}, "u_": {}}"#),
            ["/Tag_", "/a~1b", "/u_"]
        );
    }
}
