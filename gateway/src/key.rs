//! What a request names: tenant, tag, name, key, etag. Each is parsed once, at the door, and never checked again:
//! who holds one of these types holds a valid one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ulid::Ulid;

/// Longest tenant id, in bytes.
pub const TENANT_BYTES: usize = 128;
/// Longest tag, in bytes.
pub const TAG_BYTES: usize = 64;
/// Longest name, in bytes.
pub const NAME_BYTES: usize = 256;
/// Longest key, in bytes.
pub const KEY_BYTES: usize = TAG_BYTES + NAME_BYTES;
/// Most segments of a name.
pub const NAME_SEGMENTS: usize = 8;

/// Why a text is not what it should be. It says what the shape is, so that it can go to the caller as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    /// `problem` says what the shape is.
    pub fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// A tenant: `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}` without `..`. So it is one path segment everywhere, and never one that
/// begins with `_`, which is kept for the shared scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// A declared tag: `[a-z][a-z0-9_]*_`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// What follows the tag in a key: 1 to 8 segments `[A-Za-z0-9_.-]+` joined by `/`, none of them `.` or `..`, at most
/// 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// A tag and a name. Its text is one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigKey {
    tag: Tag,
    name: Name,
}

/// The beginning of keys: what a list asks for. Possibly empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(Arc<str>);

/// What a key prefix means within one tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TagPrefix {
    /// The tag.
    pub tag: Tag,
    /// The beginning of names; a whole tag's names if empty.
    pub name_prefix: Arc<str>,
    /// Whether the prefix named this tag to its end, rather than swept over it.
    pub named: bool,
}

/// The time between a key's creation and its deletion. Its id is made of time and chance, so that it is never given
/// twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Life(pub Ulid);

/// A key's state: a life and the version within it. Never equal for two states. Callers compare it and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Etag {
    /// The life that the state belongs to.
    pub life: Life,
    /// 1, 2, 3 within a life.
    pub version: u64,
}

impl Etag {
    /// That of the state before it in its life, if it is not the first.
    #[must_use]
    pub fn before(self) -> Option<Self> {
        let version = self.version.checked_sub(1).filter(|version| *version > 0)?;
        Some(Self { version, ..self })
    }
}

/// The tags that are served, each by one strategy.
#[derive(Debug, Clone, Default)]
pub struct Tags(Vec<Tag>);

/// Whether this could be a key, as far as its length and its characters go: what cannot is in no line.
#[must_use]
pub fn is_shaped_as_key(text: &str) -> bool {
    text.len() <= KEY_BYTES && text.bytes().all(|byte| is_key_byte(byte) || byte == b'/')
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

impl FromStr for TenantId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= TENANT_BYTES && text.bytes().all(is_key_byte) && !text.contains("..") {
            Ok(Self(text.into()))
        } else {
            Err(Malformed::new(
                "a tenant is 1 to 128 of [A-Za-z0-9_.-], begins with a letter or digit and holds no \"..\"",
            ))
        }
    }
}

impl FromStr for Tag {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let shape = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if first && text.len() <= TAG_BYTES && text.ends_with('_') && text.bytes().all(shape) {
            Ok(Self(text.into()))
        } else {
            Err(Malformed::new("a tag is [a-z][a-z0-9_]*_ of at most 64 bytes"))
        }
    }
}

impl FromStr for Name {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Err(Malformed::new("the name after the tag is missing"));
        }
        if text.len() > NAME_BYTES {
            return Err(Malformed::new("the name after the tag has more than 256 bytes"));
        }
        for (index, segment) in text.split('/').enumerate() {
            if index == NAME_SEGMENTS {
                return Err(Malformed::new("the name after the tag has more than 8 segments"));
            }
            if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(is_key_byte) {
                return Err(Malformed::new(
                    "each segment of the name after the tag is [A-Za-z0-9_.-]+ and neither \".\" nor \"..\"",
                ));
            }
        }
        Ok(Self(text.into()))
    }
}

/// The shape that keys and prefixes share, told before any tag is looked up.
fn check_text(text: &str) -> Result<(), Malformed> {
    if text.len() > KEY_BYTES {
        return Err(Malformed::new("longer than 320 bytes, the longest tag and name"));
    }
    if !text.bytes().all(|byte| is_key_byte(byte) || byte == b'/') {
        return Err(Malformed::new("a key is made of [A-Za-z0-9_.-] and \"/\" alone"));
    }
    Ok(())
}

impl FromStr for KeyPrefix {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        check_text(text)?;
        if text.split('/').any(|segment| segment == "..") {
            return Err(Malformed::new("no segment of a key is \"..\""));
        }
        Ok(Self(text.into()))
    }
}

/// Why a key cannot be looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a key.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No strategy serves a tag that fits.
    #[error("no strategy serves a tag that this key begins with")]
    TagUnknown,
}

impl Tags {
    /// Collects tags; each once.
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Self {
        let mut tags: Vec<Tag> = tags.into_iter().collect();
        // Longest first, so that the first that fits wins.
        tags.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        tags.dedup();
        Self(tags)
    }

    /// Splits a key after the longest declared tag that it begins with.
    pub fn parse(&self, text: &str) -> Result<ConfigKey, KeyError> {
        if text.is_empty() {
            return Err(Malformed::new("a key is a tag and a name, as in tenant_config_payment-gateway").into());
        }
        check_text(text)?;
        let tag = self.longest(text).ok_or(KeyError::TagUnknown)?;
        let name = text[tag.0.len()..].parse()?;
        Ok(ConfigKey { tag: tag.clone(), name })
    }

    /// What `prefix` means within each tag that it touches: the longest that it holds, for to that one belong all keys
    /// that begin so, and those that it is the beginning of.
    #[must_use]
    pub fn touched(&self, prefix: &KeyPrefix) -> Vec<TagPrefix> {
        let text = &prefix.0;
        let held = self.longest(text).map(|tag| TagPrefix {
            tag: tag.clone(),
            name_prefix: text[tag.0.len()..].into(),
            named: true,
        });
        let longer = self
            .0
            .iter()
            .filter(|tag| tag.0.len() > text.len() && tag.0.starts_with(&**text));
        let begun = longer.map(|tag| TagPrefix {
            tag: tag.clone(),
            name_prefix: "".into(),
            named: false,
        });
        held.into_iter().chain(begun).collect()
    }

    fn longest(&self, text: &str) -> Option<&Tag> {
        self.0.iter().find(|tag| text.starts_with(&*tag.0))
    }
}

impl ConfigKey {
    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// What follows the tag.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// One after the other.
    #[must_use]
    pub fn text(&self) -> String {
        [self.tag.as_str(), self.name.as_str()].concat()
    }
}

impl KeyPrefix {
    /// As the caller wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TenantId {
    /// As the token says it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// As declared.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Name {
    /// Segments joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Life {
    /// The life of a key that is created now. It is later than the one before, also where a clock was set back.
    #[must_use]
    pub fn begin(now: std::time::SystemTime, before: Option<Self>) -> Self {
        let life = Self(Ulid::from_datetime(now));
        match before {
            // By chance still, so that a key which is created twice after the same life, as before a restore and after it, begins two.
            Some(before) if life <= before => Self(Ulid(before.0.0.saturating_add(1 + u128::from(fastrand::u64(..))))),
            _ => life,
        }
    }
}

impl FromStr for Etag {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parsed = text
            .split_once('-')
            .and_then(|(life, version)| Some((Ulid::from_string(life).ok()?, version.parse().ok()?)))
            .map(|(life, version)| Self {
                life: Life(life),
                version,
            });
        // One text a state: an etag that reads like another but is written differently is none.
        parsed
            .filter(|etag| etag.to_string() == text)
            .ok_or_else(|| Malformed::new("not an etag that this gateway gave"))
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.life.0, self.version)
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl<'de> serde::Deserialize<'de> for Tag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|problem| serde::de::Error::custom(format!("`{text}`: {problem}")))
    }
}

macro_rules! display_as_text {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
display_as_text!(TenantId, Tag, Name, KeyPrefix);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use proptest::prelude::*;

    use super::*;

    fn tags(texts: &[&str]) -> Tags {
        Tags::new(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn tenants_are_one_path_segment_and_never_the_shared_scope() {
        for good in ["a", "acme", "7", "A.b-c_d", &"x".repeat(128)] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "_shared",
            ".a",
            "-a",
            "a..b",
            "a/b",
            "a b",
            "a\0",
            "ä",
            "*",
            "a#b",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_tag_wins_and_leaves_a_name() {
        let tags = tags(&["a_", "a_b_", "tenant_config_"]);
        let key = tags.parse("a_b_c").unwrap();
        assert_eq!((key.tag().as_str(), key.name().as_str()), ("a_b_", "c"));
        let key = tags.parse("a_bc").unwrap();
        assert_eq!((key.tag().as_str(), key.name().as_str()), ("a_", "bc"));
        assert!(matches!(tags.parse("a_b_"), Err(KeyError::Malformed(_))));
        assert_eq!(tags.parse("b_x"), Err(KeyError::TagUnknown));
    }

    #[test]
    fn names_have_bounds() {
        let tags = tags(&["t_"]);
        let eight = ["s"; 8].join("/");
        for good in ["x", "a/b", "...", "a.b", &eight, &"n".repeat(256)] {
            assert!(tags.parse(&format!("t_{good}")).is_ok(), "{good}");
        }
        let nine = ["s"; 9].join("/");
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a b",
            "a\u{0}",
            "é",
            &nine,
            &"n".repeat(257),
        ] {
            assert!(
                matches!(tags.parse(&format!("t_{bad}")), Err(KeyError::Malformed(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_prefix_touches_the_tags_it_begins_or_holds() {
        let tags = tags(&["a_", "a_b_", "c_"]);
        let touched = |text: &str| {
            let mut touched: Vec<(String, String, bool)> = tags
                .touched(&text.parse().unwrap())
                .into_iter()
                .map(|t| (t.tag.to_string(), t.name_prefix.to_string(), t.named))
                .collect();
            touched.sort();
            touched
        };
        let row = |tag: &str, prefix: &str, named| (tag.to_owned(), prefix.to_owned(), named);
        assert_eq!(
            touched(""),
            [row("a_", "", false), row("a_b_", "", false), row("c_", "", false)]
        );
        assert_eq!(touched("a"), [row("a_", "", false), row("a_b_", "", false)]);
        assert_eq!(touched("a_b"), [row("a_", "b", true), row("a_b_", "", false)]);
        assert_eq!(touched("a_"), [row("a_", "", true), row("a_b_", "", false)]);
        assert_eq!(touched("a_b_"), [row("a_b_", "", true)]);
        assert_eq!(touched("a_b_x/"), [row("a_b_", "x/", true)]);
        assert_eq!(touched("d"), []);
    }

    proptest! {
        #[test]
        fn a_key_prints_as_it_was_read(text in "[a-z_./A-Z0-9-]{0,40}") {
            if let Ok(key) = tags(&["a_", "a_b_", "t_"]).parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn an_etag_prints_as_it_was_read(text in ".{0,40}", life: u128, version: u64) {
            if let Ok(etag) = text.parse::<Etag>() {
                prop_assert_eq!(etag.to_string(), text);
            }
            let etag = Etag { life: Life(Ulid(life)), version };
            prop_assert_eq!(etag.to_string().parse::<Etag>(), Ok(etag));
        }
    }
}
