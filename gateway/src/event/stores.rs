//! Which places a store's own name may mean. Names come from outside, so each is taken apart and checked as if a tenant had
//! sent it; what is no name of ours means nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::dynamodb;
use crate::placement::Place;
use crate::settings::{BackendKind, BackendSettings};

/// The stores that others write to as well, and how each names what it holds.
#[derive(Debug, Clone, Default)]
pub struct Stores(Vec<Store>);

#[derive(Debug, Clone)]
struct Store {
    id: Arc<str>,
    /// None: it is not known, and any may be.
    region: Option<String>,
    names: Names,
}

#[derive(Debug, Clone)]
enum Names {
    /// `<root>/<physical name>`
    Parameters(String),
    /// Items of this table.
    Items(String),
}

impl Stores {
    /// Those of these backends.
    #[must_use]
    pub fn new(backends: &BTreeMap<String, BackendSettings>) -> Self {
        let stores = backends.iter().filter_map(|(id, backend)| {
            let names = match (backend.kind, &backend.table) {
                (BackendKind::Ssm, _) => Names::Parameters(format!("{}/", backend.root())),
                (BackendKind::DynamoDb, Some(table)) => Names::Items(table.clone()),
                // Nobody else writes to it.
                (BackendKind::DynamoDb | BackendKind::Embedded, _) => return None,
            };
            Some(Store {
                id: id.as_str().into(),
                region: backend.region.clone(),
                names,
            })
        });
        Self(stores.collect())
    }

    /// What the names of parameters begin with that are of one of these.
    pub fn roots(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|store| match &store.names {
            Names::Parameters(root) => Some(root.as_str()),
            Names::Items(_) => None,
        })
    }

    /// The place of that physical name, if there is such a store.
    pub(super) fn place(&self, backend: &str, physical: &str) -> Option<Place> {
        let store = self.0.iter().find(|store| *store.id == *backend)?;
        Place::named(&store.id, physical)
    }

    /// Where a parameter of that name is.
    pub(super) fn parameter(&self, region: &str, name: &str) -> Vec<Place> {
        self.places(region, |names| match names {
            Names::Parameters(root) => name.strip_prefix(root.as_str()).map(str::to_owned),
            Names::Items(_) => None,
        })
    }

    /// Where an item with that key is, if it holds what stands.
    pub(super) fn item(&self, region: &str, table: &str, pk: &str, sk: &str) -> Vec<Place> {
        self.places(region, |names| match names {
            Names::Items(own) if own == table => dynamodb::physical(pk, sk),
            Names::Items(_) | Names::Parameters(_) => None,
        })
    }

    fn places(&self, region: &str, physical: impl Fn(&Names) -> Option<String>) -> Vec<Place> {
        let there = |store: &&Store| store.region.as_deref().is_none_or(|own| own == region);
        let place = |store: &Store| Place::named(&store.id, &physical(&store.names)?);
        self.0.iter().filter(there).filter_map(place).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::event) fn stores() -> Stores {
        let store = |id: &str, region: Option<&str>, names| Store {
            id: id.into(),
            region: region.map(str::to_owned),
            names,
        };
        Stores(vec![
            store("params", Some("eu-west-1"), Names::Parameters("/tagway/".to_owned())),
            store("any", None, Names::Parameters("/tagway/".to_owned())),
            store("hot", Some("eu-west-1"), Names::Items("tagway".to_owned())),
        ])
    }

    fn told(places: &[Place]) -> Vec<String> {
        let told = |place: &Place| format!("{}:{}", place.backend, place.name);
        places.iter().map(told).collect()
    }

    #[test]
    fn names_of_stores_mean_places() {
        let stores = stores();
        let name = "/tagway/acme/live/eu-1/param_config_/api/rate_";
        let both = ["params", "any"].map(|id| format!("{id}:acme/live/eu-1/param_config_/api/rate_"));
        assert_eq!(told(&stores.parameter("eu-west-1", name)), both);
        assert_eq!(told(&stores.parameter("us-east-1", name)), both[1..]);
        assert_eq!(
            told(&stores.parameter("us-east-1", "/tagway/_shared/t_/a")),
            ["any:_shared/t_/a"]
        );
        let item = |pk, sk| told(&stores.item("eu-west-1", "tagway", pk, sk));
        assert_eq!(item("TENANT#acme", "CONFIG#ns/t_/a/b"), ["hot:acme/ns/t_/a/b"]);
        assert_eq!(item("SHARED", "CONFIG#t_/a"), ["hot:_shared/t_/a"]);
        assert_eq!(
            told(&stores.item("eu-west-1", "other", "TENANT#acme", "CONFIG#t_/a")),
            [""; 0]
        );
        assert_eq!(told(stores.place("hot", "acme/t_/a").as_slice()), ["hot:acme/t_/a"]);
    }

    #[test]
    fn what_is_no_name_of_ours_means_nothing() {
        let stores = stores();
        for name in [
            "",
            "/",
            "/tagway",
            "/tagway/",
            "/tagway/acme",
            "/tagway/acme/t_",
            "/tagway/acme/t_/",
            "/tagway//t_/a",
            "/tagway/acme/../globex/t_/a",
            "/tagway/acme/t_/../a",
            "/tagway/acme/t_/a//b",
            "/tagway/acme/no-tag/a",
            "/tagway/acme/T_/a",
            "/tagway/acme/ns_x/./t_/a",
            "/tagway/acme/a/b/c/d/e/t_/a",
            "/tagway/_other/t_/a",
            "/tagway/..acme/t_/a",
            "/other/acme/t_/a",
            "tagway/acme/t_/a",
            "/tagway/acme/t_/a\u{0}",
        ] {
            assert_eq!(told(&stores.parameter("eu-west-1", name)), [""; 0], "{name}");
        }
        for (pk, sk) in [
            ("TENANT#", "CONFIG#t_/a"),
            ("TENANT#_shared", "CONFIG#t_/a"),
            ("TENANT#acme/t_", "CONFIG#t_/a"),
            ("TENANT#acme", "VERSION#t_/a#01ARZ3NDEKTSV4RRFFQ69G5FAV#1"),
            ("TENANT#acme", "REQUEST#acme/1"),
            ("acme", "CONFIG#t_/a"),
            ("SHARED", "CONFIG#"),
        ] {
            assert_eq!(told(&stores.item("eu-west-1", "tagway", pk, sk)), [""; 0], "{pk} {sk}");
        }
    }
}
