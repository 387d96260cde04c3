//! A strategy's decision, checked and turned into physical names. The second wall: a decision is hostile input, and
//! only this module makes a [`PhysicalName`], always with the tenant of the verified token in it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::key::{ConfigKey, Name, Tag, TenantId};
use crate::wit;

/// Most placements of one decision.
const PLACEMENTS: usize = 8;
/// Most placements that `enumerate` may name.
const RANGES: usize = 32;
/// Most segments of a namespace.
const NAMESPACE_SEGMENTS: usize = 4;
/// Longest namespace, in bytes: with tenant, tag and name it stays within what every store takes as a name.
const NAMESPACE_BYTES: usize = 256;
/// Longest reason, in bytes.
const REASON_BYTES: usize = 256;

/// The scope root of what all tenants read. No tenant's id begins with `_`.
pub(crate) const SHARED: &str = "_shared";

/// What the operator lets a strategy use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Backends by id.
    pub backends: BTreeSet<Arc<str>>,
    /// Whether it may place defaults in the shared scope.
    pub shared: bool,
}

/// How a decision breaks the contract. For operators: it may name backends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenDecision {
    /// Not granted, or not there.
    #[error("it names the backend `{0}`, which it is not granted")]
    Backend(String),
    /// Could leave the tenant's space, or collide within it.
    #[error("its namespace {0:?} is not 0 to 4 segments [A-Za-z0-9_-]* that end in a letter or digit")]
    Namespace(String),
    /// A home, or a former one, that is everybody's.
    #[error("it places a home in the shared scope")]
    SharedHome,
    /// The operator did not grant that.
    #[error("it places a default in the shared scope, which it is not granted")]
    SharedUngranted,
    /// A write would clear what it has just written, or hide a default behind itself.
    #[error("it names the same placement twice")]
    Twice,
    /// Options that this gateway does not know.
    #[error("it sets the option `{0}`, which no backend here knows")]
    Option(String),
    /// More than the contract allows.
    #[error("it names {0} placements")]
    TooMany(usize),
    /// Too long.
    #[error("its reason has {0} bytes; at most 256")]
    Reason(usize),
}

/// Whose space a name is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// One tenant's own.
    Tenant(TenantId),
    /// What all tenants read.
    Shared,
}

/// Where a key lives in a store: `<scope root>/<namespace>/<tag>/<name>`; the root is the tenant, or `_shared`. A tag ends
/// with `_` and a namespace segment does not, so two keys never share one, whatever a strategy answers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhysicalName {
    range: PhysicalRange,
    name: Name,
}

/// All names of one tag in one namespace of one space.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhysicalRange {
    space: Space,
    /// `<namespace>/<tag>`
    folder: Arc<str>,
}

/// How long what was read of a placement is believed. Each reader has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePolicy {
    /// Served without asking the store.
    pub ttl: Duration,
    /// Then served while it is asked, or cannot be.
    pub stale: Duration,
    /// That there is no such key.
    pub negative: Duration,
}

impl CachePolicy {
    /// No longer than that one.
    #[must_use]
    pub fn at_most(self, most: Self) -> Self {
        Self {
            ttl: self.ttl.min(most.ttl),
            stale: self.stale.min(most.stale),
            negative: self.negative.min(most.negative),
        }
    }
}

/// One name in one backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Id in the catalog.
    pub backend: Arc<str>,
    /// There.
    pub name: PhysicalName,
}

/// One range in one backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceRange {
    /// Id in the catalog.
    pub backend: Arc<str>,
    /// There.
    pub range: PhysicalRange,
}

/// What a placement is to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Where writes and deletes go.
    Home,
    /// Where it may still live from before: a write moves it home, a delete clears it.
    Former,
    /// Never changed through this key.
    Default,
}

/// One of the places of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer<'p> {
    /// What it is to the key.
    pub origin: Origin,
    /// Where.
    pub place: &'p Place,
    /// How long what is read there is believed, if the strategy says.
    pub policy: Option<CachePolicy>,
}

/// A decision that holds. No place is named twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Where writes and deletes go; in the tenant's own space, but for what [`Self::shared`] returns.
    pub home: Place,
    /// Where the key may still live from before; in the tenant's own space.
    pub former: Vec<Place>,
    /// What shows where none of these holds the key.
    pub defaults: Vec<Place>,
    /// The strategy's own words, without what a terminal would obey.
    pub reason: Option<String>,
    /// How long each is believed, where the strategy says, in reading order.
    policies: Vec<Option<CachePolicy>>,
}

impl Grants {
    /// Checks what `decide` answered for `key`, and makes the names of it in the space of `tenant`: who is, or was, out of a
    /// verified token. (A name by itself opens nothing: stores ask for who is verified.)
    pub(crate) fn place(
        &self,
        tenant: &TenantId,
        key: &ConfigKey,
        decision: &wit::Decision,
    ) -> Result<Placed, BrokenDecision> {
        let count = 1 + decision.former.len() + decision.defaults.len();
        if count > PLACEMENTS {
            return Err(BrokenDecision::TooMany(count));
        }
        if let Some(reason) = decision.reason.as_ref().filter(|reason| reason.len() > REASON_BYTES) {
            return Err(BrokenDecision::Reason(reason.len()));
        }
        let place = |placement: &wit::Placement| Ok(self.range(tenant, key.tag(), placement)?.place(key.name()));
        let own = |placement: &wit::Placement| match placement.scope {
            wit::Scope::Tenant => place(placement),
            wit::Scope::Shared => Err(BrokenDecision::SharedHome),
        };
        let home = own(&decision.home)?;
        let former = decision.former.iter().map(own).collect::<Result<Vec<_>, _>>()?;
        let defaults = decision.defaults.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let places: BTreeSet<&Place> = former.iter().chain(&defaults).chain([&home]).collect();
        if places.len() < count {
            return Err(BrokenDecision::Twice);
        }
        let all = std::iter::once(&decision.home).chain(&decision.former);
        let policies = all.chain(&decision.defaults).map(policy).collect();
        Ok(Placed {
            policies,
            home,
            former,
            defaults,
            reason: decision
                .reason
                .as_ref()
                .map(|reason| reason.chars().filter(|c| !c.is_control()).collect()),
        })
    }

    /// Checks what `enumerate` answered for a prefix within `tag`. Each range once.
    pub(crate) fn ranges(
        &self,
        tenant: &TenantId,
        tag: &Tag,
        placements: &[wit::Placement],
    ) -> Result<BTreeSet<PlaceRange>, BrokenDecision> {
        if placements.len() > RANGES {
            return Err(BrokenDecision::TooMany(placements.len()));
        }
        placements
            .iter()
            .map(|placement| self.range(tenant, tag, placement))
            .collect()
    }

    /// Whether places in these stores, each in the tenant's own space or the shared one, could still be had.
    pub(crate) fn cover(&self, places: Vec<(&Arc<str>, bool)>) -> bool {
        places
            .into_iter()
            .all(|(backend, is_shared)| self.backends.contains(backend) && (self.shared || !is_shared))
    }

    fn range(&self, tenant: &TenantId, tag: &Tag, placement: &wit::Placement) -> Result<PlaceRange, BrokenDecision> {
        let backend = self
            .backends
            .get(placement.backend.as_str())
            .ok_or_else(|| BrokenDecision::Backend(shortened(&placement.backend)))?;
        let space = match placement.scope {
            wit::Scope::Tenant => Space::Tenant(tenant.clone()),
            wit::Scope::Shared if self.shared => Space::Shared,
            wit::Scope::Shared => return Err(BrokenDecision::SharedUngranted),
        };
        if !is_namespace(&placement.namespace) {
            return Err(BrokenDecision::Namespace(shortened(&placement.namespace)));
        }
        if let Some(option) = placement.options.first() {
            return Err(BrokenDecision::Option(shortened(&option.name)));
        }
        let folder = if placement.namespace.is_empty() {
            tag.as_str().into()
        } else {
            format!("{}/{tag}", placement.namespace).into()
        };
        Ok(PlaceRange {
            backend: Arc::clone(backend),
            range: PhysicalRange { space, folder },
        })
    }
}

impl Placed {
    /// The home and the former homes, in reading order.
    pub fn own(&self) -> impl Iterator<Item = (Origin, &Place)> {
        let former = self.former.iter().map(|place| (Origin::Former, place));
        std::iter::once((Origin::Home, &self.home)).chain(former)
    }

    /// All of them, in reading order.
    pub fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        (0..).map_while(|depth| self.layer(depth))
    }

    /// The one that so many others are read before.
    #[must_use]
    pub fn layer(&self, depth: usize) -> Option<Layer<'_>> {
        let policy = *self.policies.get(depth)?;
        let (origin, place) = match depth.checked_sub(1) {
            None => (Origin::Home, &self.home),
            Some(at) if at < self.former.len() => (Origin::Former, &self.former[at]),
            Some(at) => (Origin::Default, self.defaults.get(at - self.former.len())?),
        };
        Some(Layer { origin, place, policy })
    }

    /// Whether the home is all there is.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.former.is_empty() && self.defaults.is_empty()
    }

    /// The first default in the shared scope, by itself: what who may share writes by asking for it.
    #[must_use]
    pub fn shared(&self) -> Option<Self> {
        let shared = self
            .layers()
            .find(|layer| layer.origin == Origin::Default && layer.place.is_shared())?;
        Some(Self {
            policies: vec![shared.policy],
            home: shared.place.clone(),
            former: Vec::new(),
            defaults: Vec::new(),
            reason: self.reason.clone(),
        })
    }
}

impl Place {
    /// What a gateway noted of a place that it had made, from its own notes; none if they are of no place. No tenant:
    /// everybody's.
    pub(crate) fn restored(backend: &str, tenant: Option<&str>, folder: &str, name: &str) -> Option<Self> {
        let space = match tenant {
            Some(tenant) => Space::Tenant(tenant.parse().ok()?),
            None => Space::Shared,
        };
        let folder = folder.into();
        let range = PhysicalRange { space, folder };
        Some(Self {
            backend: backend.into(),
            name: range.name(&name.parse().ok()?),
        })
    }

    /// The place of this physical name, which came from outside: `<scope root>/<namespace>/<tag>/<name>`. None if it is no
    /// name that this module would make.
    pub(crate) fn named(backend: &Arc<str>, physical: &str) -> Option<Self> {
        let (scope, rest) = physical.split_once('/')?;
        let space = match scope {
            SHARED => Space::Shared,
            tenant => Space::Tenant(tenant.parse().ok()?),
        };
        // A tag is the first to end so, for a namespace segment does not.
        let tag_ends = rest.find("_/")? + 1;
        let (folder, name) = (&rest[..tag_ends], rest[tag_ends..].strip_prefix('/')?);
        let (namespace, tag) = folder.rsplit_once('/').unwrap_or(("", folder));
        let is_folder = is_namespace(namespace) && tag.parse::<Tag>().is_ok() && !folder.starts_with('/');
        is_folder.then_some(())?;
        let range = PhysicalRange {
            space,
            folder: folder.into(),
        };
        Some(Self {
            backend: Arc::clone(backend),
            name: range.name(&name.parse().ok()?),
        })
    }

    /// The range that it is in.
    #[must_use]
    pub fn range(&self) -> PlaceRange {
        PlaceRange {
            backend: Arc::clone(&self.backend),
            range: self.name.range.clone(),
        }
    }

    /// Whether all tenants read it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        *self.name.range.space() == Space::Shared
    }
}

impl PlaceRange {
    /// What has that name there.
    #[must_use]
    pub fn place(&self, name: &Name) -> Place {
        Place {
            backend: Arc::clone(&self.backend),
            name: self.range.clone().name(name),
        }
    }
}

impl PhysicalName {
    /// The range that it is in.
    #[must_use]
    pub fn range(&self) -> &PhysicalRange {
        &self.range
    }

    /// The key that has this name: its tag is the last part of the folder.
    #[must_use]
    pub fn key(&self) -> String {
        [self.range.tag(), self.name.as_str()].concat()
    }

    /// The last part: the key's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

impl PhysicalRange {
    /// Whose space it is in.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// What [`Place::restored`] takes.
    pub(crate) fn parts(&self) -> (Option<&TenantId>, &str) {
        match &self.space {
            Space::Tenant(tenant) => (Some(tenant), &self.folder),
            Space::Shared => (None, &self.folder),
        }
    }

    /// `<namespace>/<tag>`; just the tag where there is no namespace.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// What the keys of all that is in it begin with.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.folder.rsplit_once('/').map_or(&self.folder, |(_, tag)| tag)
    }

    fn name(self, name: &Name) -> PhysicalName {
        PhysicalName {
            range: self,
            name: name.clone(),
        }
    }
}

impl fmt::Display for PhysicalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.space {
            Space::Tenant(tenant) => write!(f, "{tenant}/{}", self.folder),
            Space::Shared => write!(f, "{SHARED}/{}", self.folder),
        }
    }
}

impl fmt::Debug for PhysicalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PhysicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.range, self.name)
    }
}

impl fmt::Debug for PhysicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn policy(placement: &wit::Placement) -> Option<CachePolicy> {
    let wit::CachePolicy {
        ttl_ms,
        stale_ms,
        negative_ms,
    } = placement.cache.as_ref()?;
    let time = |millis: &u32| Duration::from_millis((*millis).into());
    Some(CachePolicy {
        ttl: time(ttl_ms),
        stale: time(stale_ms),
        negative: time(negative_ms),
    })
}

/// `strategy.wit`: 0 to 4 path segments joined by "/", each `[A-Za-z0-9_-]*` ending in a letter or digit.
fn is_namespace(text: &str) -> bool {
    let segment = |segment: &str| {
        segment.ends_with(|last: char| last.is_ascii_alphanumeric())
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    text.is_empty()
        || (text.len() <= NAMESPACE_BYTES
            && text.split('/').count() <= NAMESPACE_SEGMENTS
            && text.split('/').all(segment))
}

/// Enough of a hostile text to recognise it in a log.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use proptest::prelude::*;

    use super::*;
    use crate::key::Tags;

    fn placement(backend: &str, namespace: &str) -> wit::Placement {
        wit::Placement {
            backend: backend.to_owned(),
            scope: wit::Scope::Tenant,
            namespace: namespace.to_owned(),
            cache: None,
            options: Vec::new(),
        }
    }

    fn decision(home: wit::Placement) -> wit::Decision {
        wit::Decision {
            home,
            former: Vec::new(),
            defaults: Vec::new(),
            reason: None,
        }
    }

    fn place(decision: &wit::Decision) -> Result<String, BrokenDecision> {
        place_key(decision, "t_a/b")
    }

    fn place_key(decision: &wit::Decision, key: &str) -> Result<String, BrokenDecision> {
        let grants = Grants {
            backends: ["hot".into()].into(),
            shared: false,
        };
        let tags = Tags::new(["t_".parse().unwrap(), "u_".parse().unwrap()]);
        let placed = grants.place(&"acme".parse().unwrap(), &tags.parse(key).unwrap(), decision)?;
        Ok(placed.home.name.to_string())
    }

    #[test]
    fn the_tenant_comes_first_whatever_the_decision_says() {
        assert_eq!(place(&decision(placement("hot", ""))).unwrap(), "acme/t_/a/b");
        assert_eq!(
            place(&decision(placement("hot", "x/y-1"))).unwrap(),
            "acme/x/y-1/t_/a/b"
        );
    }

    #[test]
    fn what_breaks_the_contract_is_refused() {
        use BrokenDecision::{Backend, Namespace, Option, Reason, SharedHome, SharedUngranted, TooMany, Twice};

        for backend in ["cold", "", "hot "] {
            assert_eq!(
                place(&decision(placement(backend, ""))),
                Err(Backend(backend.to_owned()))
            );
        }
        for namespace in [
            "..",
            ".",
            "a/..",
            "/",
            "/a",
            "a/",
            "a//b",
            "a_",
            "a-",
            "_",
            "ä",
            "a b",
            "a\0",
            "a/b/c/d/e",
            "x/t_",
            "%2e",
        ] {
            assert_eq!(
                place(&decision(placement("hot", namespace))),
                Err(Namespace(namespace.to_owned()))
            );
        }
        let long = "n".repeat(257);
        assert!(matches!(place(&decision(placement("hot", &long))), Err(Namespace(_))));
        let mut shared = placement("hot", "");
        shared.scope = wit::Scope::Shared;
        assert_eq!(place(&decision(shared.clone())), Err(SharedHome));
        let mut once = decision(placement("hot", ""));
        once.former.push(shared.clone());
        assert_eq!(place(&once), Err(SharedHome));
        once.former.clear();
        once.defaults.push(shared);
        assert_eq!(place(&once), Err(SharedUngranted));
        let mut optional = placement("hot", "");
        optional.options.push(wit::Attribute {
            name: "tenant".to_owned(),
            value: "globex".to_owned(),
        });
        assert_eq!(place(&decision(optional)), Err(Option("tenant".to_owned())));
        let mut wordy = decision(placement("hot", ""));
        wordy.reason = Some("r".repeat(257));
        assert_eq!(place(&wordy), Err(Reason(257)));
        let mut layered = decision(placement("hot", ""));
        layered.former.push(placement("hot", ""));
        assert_eq!(place(&layered), Err(Twice));
        layered.former = vec![placement("hot", "old")];
        layered.defaults.push(placement("hot", "old"));
        assert_eq!(place(&layered), Err(Twice));
        layered.former = vec![placement("hot", ""); 1_000_000];
        assert_eq!(place(&layered), Err(TooMany(1_000_002)));
    }

    proptest! {
        /// Two different (namespace, key) never meet in one physical name, and no name leaves its tenant.
        #[test]
        fn two_keys_never_share_a_name(
            namespaces in ["[a-z_/]{0,6}", "[a-z_/]{0,6}"],
            keys in ["[tu]_[a-z_]{1,3}(/[a-z_]{1,2}){0,2}", "[tu]_[a-z_]{1,3}(/[a-z_]{1,2}){0,2}"],
        ) {
            let names = [0, 1].map(|i| place_key(&decision(placement("hot", &namespaces[i])), &keys[i]));
            if let [Ok(a), Ok(b)] = names {
                prop_assert!(a.starts_with("acme/") && !a.contains(".."));
                let same = namespaces[0] == namespaces[1] && keys[0] == keys[1];
                prop_assert_eq!(a == b, same);
            }
        }
    }
}
