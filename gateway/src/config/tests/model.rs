//! Random decisions, operations and cuts against the simplest thing that could be right: what each tenant should see. After
//! every step the list is what the model shows. A failure prints its seed; each that is found becomes a test of its own
//! name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use serde_json::{Value, json};
use tagway_servers::{Ministack, Roto};
use tempfile::TempDir;

use super::fuse::Cut;
use super::scripted::{Stores, layer};
use super::{entry, reader, writer};
use crate::backend::embedded::Embedded;
use crate::backend::stand_in::{dynamodb, parameter_store};
use crate::backend::{Backend, Precondition};
use crate::cache::{Consistency, Read};
use crate::clock::Clock;
use crate::config::{Capability, ConfigError, Configs, ListRequest, PAGE_BYTES, Scope, WriteOptions};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const NAMES: [&str; 5] = ["a", "a/b", "b", "c", "z"];
/// Where keys move from and to. `base` is the tenant's default, `shared` is everybody's.
const HOMES: [(&str, &str); 4] = [("a", ""), ("b", "x"), ("c", ""), ("a", "y/z")];

/// What is addressed: the tenant's own value, its base, or everybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Own,
    Base,
    Shared,
}

/// Level, tenant (none for the shared one) and name.
type Place = (Level, &'static str, &'static str);

/// What stands.
#[derive(Default)]
struct Model(BTreeMap<Place, String>);

impl Model {
    fn place(level: Level, tenant: &'static str, name: &'static str) -> Place {
        (level, if level == Level::Shared { "" } else { tenant }, name)
    }

    /// What a read from this level shows.
    fn shown(&self, level: Level, tenant: &'static str, name: &'static str) -> Option<&String> {
        let levels = [Level::Own, Level::Base, Level::Shared];
        let mut beneath = levels.into_iter().filter(|beneath| *beneath >= level);
        beneath.find_map(|level| self.0.get(&Self::place(level, tenant, name)))
    }
}

/// One tenant's migration: where its keys may be, and where they are written.
#[derive(Clone)]
struct Homes {
    home: (&'static str, &'static str),
    former: Vec<(&'static str, &'static str)>,
}

impl Homes {
    /// The next decision reads everything that the last one did, what was home last first.
    fn moved(&self, random: &mut Rng) -> Self {
        let home = random.choice(HOMES).unwrap();
        let places = std::iter::once(&self.home).chain(&self.former);
        let former = places.copied().filter(|place| *place != home).collect();
        Self { home, former }
    }

    fn script(&self) -> Value {
        let place = |(backend, namespace): &(&str, &str)| json!([backend, namespace]);
        let former: Vec<_> = self.former.iter().map(place).collect();
        let shared = json!(["b", "", "shared"]);
        json!({
            "": { "home": place(&self.home), "former": former, "defaults": [["c", "base"], shared] },
            "base": { "home": ["c", "base"], "defaults": [shared] },
        })
    }
}

struct Run {
    random: Rng,
    stores: Stores,
    homes: BTreeMap<&'static str, Homes>,
    configs: Configs,
    model: Model,
    /// What a key may have been since the last change of it that was acknowledged, where one was cut off: until it is
    /// done again, a move of homes may show either.
    torn: BTreeMap<Place, BTreeSet<Option<String>>>,
    cuts: usize,
    incapable: usize,
}

impl Run {
    async fn new(seed: u64, stores: Stores) -> Self {
        let homes: BTreeMap<_, _> = TENANTS
            .into_iter()
            .map(|tenant| {
                let (home, former) = (HOMES[0], Vec::new());
                (tenant, Homes { home, former })
            })
            .collect();
        Self {
            random: Rng::with_seed(seed),
            configs: gateway(&stores, &homes).await,
            stores,
            homes,
            model: Model::default(),
            torn: BTreeMap::new(),
            cuts: 0,
            incapable: 0,
        }
    }

    /// Some tenants move on, as when a percentage goes up or down.
    async fn migrate(&mut self) {
        for homes in self.homes.values_mut() {
            if self.random.bool() {
                *homes = homes.moved(&mut self.random);
            }
        }
        self.configs = gateway(&self.stores, &self.homes).await;
        for (place, candidates) in self.torn.clone() {
            let (level, tenant, name) = place;
            if level != Level::Own {
                continue;
            }
            let now = self.read(level, tenant, name).await.map(|(value, _)| value);
            let fits = candidates.into_iter().any(|candidate| {
                self.set(place, candidate);
                self.model.shown(level, tenant, name) == now.as_ref()
            });
            assert!(fits, "{place:?} shows {now:?}, which it never was");
        }
    }

    async fn read(&self, level: Level, tenant: &'static str, name: &'static str) -> Option<(String, Precondition)> {
        let scope = if level == Level::Shared {
            Scope::Shared
        } else {
            Scope::Own
        };
        let found = self
            .configs
            .get(
                &reader(tenant),
                &format!("t_{name}"),
                0,
                &context(level),
                scope,
                Consistency::Cached,
            )
            .await;
        match found {
            Ok(Read { found, .. }) => {
                let value = String::from_utf8(found.entry.value.to_vec()).unwrap();
                Some((value, Precondition::Match(found.entry.etag)))
            }
            Err(ConfigError::NotFound) => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn step(&mut self) {
        let tenant = self.random.choice(TENANTS).unwrap();
        let name = self.random.choice(NAMES).unwrap();
        let level = [Level::Own, Level::Own, Level::Base, Level::Shared][self.random.usize(0..4)];
        let standing = self.read(level, tenant, name).await;
        let shown = self.model.shown(level, tenant, name).cloned();
        assert_eq!(
            standing.as_ref().map(|(value, _)| value),
            shown.as_ref(),
            "{level:?} {tenant} {name}"
        );
        // A precondition that holds, or one that does not, or none.
        let (precondition, holds) = match (self.random.u8(0..4), &standing) {
            (0, Some((_, etag))) => (*etag, true),
            (0, None) => (Precondition::Absent, true),
            (1, Some(_)) => (Precondition::Absent, false),
            _ => (Precondition::None, true),
        };
        let options = WriteOptions {
            precondition,
            context: context(level),
            scope: if level == Level::Shared {
                Scope::Shared
            } else {
                Scope::Own
            },
            ..WriteOptions::default()
        };
        let key = format!("t_{name}");
        let value = (self.random.u8(0..5) < 3).then(|| self.random.u32(..).to_string());
        let cut = self.random.u8(0..4) == 0;
        if cut {
            let how = if self.random.bool() { Cut::Before } else { Cut::After };
            self.stores.fuse.arm(self.random.usize(0..8), how);
        }
        let done = match &value {
            Some(value) => self
                .configs
                .put(&writer(tenant), &key, entry(value), &options)
                .await
                .map(drop),
            None => self.configs.delete(&writer(tenant), &key, &options).await.map(drop),
        };
        let cut = self.stores.fuse.disarm();
        let place = Model::place(level, tenant, name);
        let before = self.model.0.get(&place).cloned();
        match done {
            Ok(()) => {
                assert!(holds && !cut);
                self.set(place, value);
                self.torn.remove(&place);
            }
            Err(ConfigError::Changed | ConfigError::AlreadyExists) => assert!(!holds),
            // Nothing is done, as the look at the list after this step shows.
            Err(ConfigError::CapabilityMissing(Capability::IfMatch)) => {
                assert!(matches!(precondition, Precondition::Match(_)) && !cut);
                self.incapable += 1;
            }
            Err(ConfigError::Backend(_)) => {
                assert!(cut);
                self.cuts += 1;
                let torn = self.torn.entry(place).or_default();
                torn.extend([before.clone(), value.clone()]);
                // As before, or as after.
                let now = self.read(level, tenant, name).await.map(|(value, _)| value);
                self.set(place, value);
                if self.model.shown(level, tenant, name) != now.as_ref() || !holds {
                    self.set(place, before);
                }
                assert_eq!(
                    self.model.shown(level, tenant, name),
                    now.as_ref(),
                    "{level:?} {tenant} {name}: torn"
                );
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn set(&mut self, place: Place, value: Option<String>) {
        match value {
            Some(value) => _ = self.model.0.insert(place, value),
            None => _ = self.model.0.remove(&place),
        }
    }

    /// The list is what the model shows.
    async fn agree(&mut self) {
        for tenant in TENANTS {
            for level in [Level::Own, Level::Base] {
                let (prefix, context) = ("t_".parse().unwrap(), context(level));
                let mut page_token = String::new();
                let mut listed = Vec::new();
                loop {
                    let request = ListRequest {
                        prefix: &prefix,
                        page_size: self.random.usize(1..6),
                        page_token: &page_token,
                        keys_only: false,
                        bytes: PAGE_BYTES,
                        context: &context,
                        under_way: None,
                    };
                    let page = self.configs.list(&reader(tenant), request).await.unwrap();
                    listed.extend(page.configs.into_iter().map(|config| {
                        let value = String::from_utf8(config.entry.value.to_vec()).unwrap();
                        (config.key, value)
                    }));
                    if page.next_page_token.is_empty() {
                        break;
                    }
                    page_token = page.next_page_token;
                }
                let shown = |name: &&'static str| {
                    let value = self.model.shown(level, tenant, name)?;
                    Some((format!("t_{name}"), value.clone()))
                };
                let expected: Vec<_> = NAMES.iter().filter_map(shown).collect();
                assert_eq!(listed, expected, "{tenant} {level:?}");
            }
        }
    }
}

async fn gateway(stores: &Stores, homes: &BTreeMap<&'static str, Homes>) -> Configs {
    let script = homes
        .iter()
        .map(|(tenant, homes)| ((*tenant).to_owned(), homes.script()));
    stores.gateway(&Value::Object(script.collect())).await
}

fn context(level: Level) -> crate::strategy::Context {
    layer(if level == Level::Base { "base" } else { "" })
}

async fn run(seed: u64, stores: Stores, migrations: usize, steps: usize) {
    println!("TAGWAY_TEST_SEED={seed}");
    let mut run = Run::new(seed, stores).await;
    for _ in 0..migrations {
        for _ in 0..steps {
            run.step().await;
            run.agree().await;
        }
        run.migrate().await;
        run.agree().await;
    }
    println!(
        "{} steps, {} of them cut off, {} refused for what a store cannot do",
        migrations * steps,
        run.cuts,
        run.incapable
    );
}

#[tokio::test]
async fn random_decisions_and_operations_agree_with_a_map() {
    run(seed(), Stores::new(), 20, 60).await;
}

#[tokio::test]
async fn a_seed_of_decisions_that_is_always_tried() {
    run(1, Stores::new(), 10, 60).await;
}

/// Homes, former homes and defaults in three kinds of store, of which one cannot judge an etag.
#[tokio::test]
async fn decisions_over_all_kinds_of_store_agree_with_a_map() {
    let (roto, ministack) = (Roto::start(), Ministack::start());
    let folder = TempDir::new().unwrap();
    let embedded = Embedded::open(&folder.path().join("store"), 10, Clock::system()).unwrap();
    let stores: [Arc<dyn Backend>; 3] = [
        dynamodb(roto.endpoint()).await,
        // The other one tells whole seconds, and a key that is deleted and made again within one would be older than before.
        parameter_store(ministack.endpoint()).await,
        Arc::new(embedded),
    ];
    run(seed(), Stores::over(stores, folder), 8, 40).await;
}

fn seed() -> u64 {
    let seed = std::env::var("TAGWAY_TEST_SEED").ok();
    seed.and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..))
}
