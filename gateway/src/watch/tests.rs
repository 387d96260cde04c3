#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by failing"
)]

mod mutant;
mod promises;
mod sweeps;

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::backend::Backend;
use crate::cache::tests::store::{Fake, entry};
use crate::cache::{Cache, Consistency};
use crate::config::tests::scripted::{Stores, layer};
use crate::config::{ConfigError, Configs, ListRequest, PAGE_BYTES, Scope, WriteOptions};
use crate::identity::{Reader, VerifiedTenant};
use crate::key::Etag;
use crate::placement::{CachePolicy, Place, Space};
use crate::quota::Quotas;
use crate::settings::QuotaSettings;
use crate::strategy::Context;

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_secs(10),
    stale: Duration::from_mins(10),
    negative: Duration::from_secs(10),
};
/// Longer than anything is tried again after.
const SETTLED: Duration = Duration::from_mins(2);

/// A gateway over three stores of which tests know everything.
struct World {
    fakes: [Arc<Fake>; 3],
    stores: Stores,
    configs: Arc<Configs>,
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    telling: AbortHandle,
}

impl Drop for World {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

/// Where everything of a tenant is: at home in `a`, with a default for all in `c`.
fn at_home() -> Value {
    json!({ "home": ["a", "ns"], "defaults": [["c", "all", "shared"]] })
}

impl World {
    async fn new() -> Self {
        Self::deciding(
            &json!({ "acme": { "": at_home() }, "globex": { "": at_home() } }),
            POLICY,
        )
        .await
    }

    async fn deciding(script: &Value, policy: CachePolicy) -> Self {
        Self::keeping(script, policy, 1 << 20).await
    }

    /// The same, with so much room for what is near.
    async fn keeping(script: &Value, policy: CachePolicy, bytes: u64) -> Self {
        let fakes: [Arc<Fake>; 3] = Default::default();
        let opened = fakes.clone().map(|fake| fake as Arc<dyn Backend>);
        let stores = Stores::over(opened, TempDir::new().unwrap());
        let cache = Cache::new(bytes, policy, policy);
        let configs = Arc::new(stores.gateway_with(script, Arc::clone(&cache)).await);
        let hub = Hub::new(Arc::clone(&cache));
        let telling = {
            let hub = Arc::clone(&hub);
            tokio::spawn(async move { hub.run().await }).abort_handle()
        };
        Self {
            fakes,
            stores,
            configs,
            cache,
            hub,
            telling,
        }
    }

    fn watch(&self, tenant: &str, asked: Asked) -> Client {
        let (outbox, outgoing) = outbox();
        let readers = watch::Sender::new(reader(tenant));
        let subscription = Subscription::new(
            asked,
            Arc::clone(&self.configs),
            Arc::clone(&self.hub),
            outbox,
            readers.subscribe(),
            Quotas::new(&QuotaSettings::default())
                .of(&tenant.parse().unwrap())
                .watched(),
        );
        Client {
            marks: Arc::clone(subscription.marks()),
            task: tokio::spawn(subscription.run()),
            outgoing,
            readers,
            held: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    async fn put(&self, tenant: &str, key: &str, value: &str) {
        let writer = VerifiedTenant::for_tests(tenant).writer().unwrap();
        let options = WriteOptions::default();
        self.configs.put(&writer, key, entry(value), &options).await.unwrap();
    }

    async fn share(&self, key: &str, value: &str) {
        let writer = VerifiedTenant::for_tests("acme").writer().unwrap();
        let options = WriteOptions {
            scope: Scope::Shared,
            ..WriteOptions::default()
        };
        self.configs.put(&writer, key, entry(value), &options).await.unwrap();
    }

    async fn delete(&self, tenant: &str, key: &str) {
        let writer = VerifiedTenant::for_tests(tenant).writer().unwrap();
        self.configs
            .delete(&writer, key, &WriteOptions::default())
            .await
            .unwrap();
    }

    /// What a list says that stands, from the stores.
    async fn list(&self, tenant: &str, prefix: &str, context: &Context) -> BTreeMap<String, String> {
        let reader = reader(tenant);
        let request = ListRequest {
            prefix: &prefix.parse().unwrap(),
            page_size: 1000,
            page_token: "",
            keys_only: false,
            bytes: PAGE_BYTES,
            context,
            under_way: None,
        };
        let listed = self.configs.list(&reader, request).await.unwrap();
        listed.configs.into_iter().map(shown).collect()
    }

    /// Another gateway writes whatever stands at home anew, and this one hears of it.
    fn change_elsewhere(&self) {
        for name in self.fakes[0].state().into_keys() {
            let Space::Tenant(tenant) = name.range().space().clone() else {
                continue;
            };
            let place = Place {
                backend: "a".into(),
                name,
            };
            self.fakes[0].put(&place, &format!("{tenant} elsewhere"));
            self.hub.doubt(&place);
        }
    }

    fn fail(&self, fails: bool) {
        for fake in &self.fakes {
            fake.fail(fails);
        }
    }

    fn reads(&self) -> usize {
        self.fakes.iter().map(|fake| fake.calls()).sum()
    }
}

fn shown(config: Config) -> (String, String) {
    (config.key, String::from_utf8(config.entry.value.to_vec()).unwrap())
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Put(String, String, Etag),
    Removed(String),
    Synced(bool),
    Resync,
}

struct Client {
    marks: Arc<Marks>,
    task: tokio::task::JoinHandle<ConfigError>,
    outgoing: Outgoing<News>,
    readers: watch::Sender<Reader>,
    held: BTreeMap<String, (String, Etag)>,
    told: Vec<Told>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    async fn next(&mut self) -> Told {
        let told = timeout(SETTLED, self.hear()).await;
        told.unwrap_or_else(|_| panic!("nothing more is told after {:?}", self.told))
    }

    async fn hear(&mut self) -> Told {
        let next = poll_fn(|context| self.outgoing.poll_next(context)).await;
        let told = match next.expect("it goes on").update {
            Update::Put(config) => {
                let etag = config.entry.etag;
                let (key, value) = shown(config);
                self.held.insert(key.clone(), (value.clone(), etag));
                Told::Put(key, value, etag)
            }
            Update::Removed { key, .. } => {
                self.held.remove(&key);
                Told::Removed(key)
            }
            Update::Synced { is_stale } => Told::Synced(is_stale),
            Update::Resync => Told::Resync,
        };
        self.told.push(told.clone());
        told
    }

    async fn until(&mut self, expected: &Told) {
        while self.next().await != *expected {}
    }

    async fn shows(&mut self, key: &str, value: Option<&str>) {
        while self.value(key) != value {
            self.next().await;
        }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.held.get(key).map(|(value, _)| value.as_str())
    }

    /// Reads all there is to read, for as long as anything is tried again.
    async fn settle(&mut self) {
        while timeout(SETTLED, self.hear()).await.is_ok() {}
    }

    fn values(&self) -> BTreeMap<String, String> {
        let values = self.held.iter();
        values.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    fn known(&self) -> HashMap<String, Option<Etag>> {
        self.held
            .iter()
            .map(|(key, (_, etag))| (key.clone(), Some(*etag)))
            .collect()
    }
}

fn reader(tenant: &str) -> Reader {
    VerifiedTenant::for_tests(tenant).reader().unwrap()
}

fn to_keys(keys: &[&str]) -> Asked {
    Asked {
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        ..Asked::default()
    }
}

fn to_prefix(prefix: &str) -> Asked {
    Asked {
        prefixes: vec![prefix.parse().unwrap()],
        ..Asked::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_one_look_whoever_watches() {
    let world = World::new().await;
    world.put("acme", "t_a", "1").await;
    let mut clients: Vec<Client> = (0..50).map(|_| world.watch("acme", to_keys(&["t_a"]))).collect();
    clients.extend((0..50).map(|_| world.watch("acme", to_prefix("t_"))));
    for client in &mut clients {
        client.until(&Told::Synced(false)).await;
    }
    world.reads();
    for value in ["2", "3", "4"] {
        world.put("acme", "t_a", value).await;
        for client in &mut clients {
            client.shows("t_a", Some(value)).await;
        }
    }
    // Each write reads what it follows; who watches reads what the write left in the cache.
    let of_writes = 3;
    assert!(world.reads() <= of_writes, "watchers asked stores");
}

#[tokio::test(start_paused = true)]
async fn what_is_shared_reaches_every_tenant_that_sees_it() {
    let world = World::new().await;
    world.share("t_a", "everybody's").await;
    world.put("globex", "t_a", "globex's own").await;
    let mut acme = world.watch("acme", to_keys(&["t_a"]));
    let mut globex = world.watch("globex", to_prefix("t_"));
    acme.shows("t_a", Some("everybody's")).await;
    globex.shows("t_a", Some("globex's own")).await;
    acme.until(&Told::Synced(false)).await;
    globex.until(&Told::Synced(false)).await;
    world.share("t_a", "everybody's, anew").await;
    acme.shows("t_a", Some("everybody's, anew")).await;
    globex.settle().await;
    assert_eq!(globex.told.len(), 2, "its own hides it: {:?}", globex.told);
    world.delete("globex", "t_a").await;
    globex.shows("t_a", Some("everybody's, anew")).await;
    world.put("acme", "t_a", "acme's own").await;
    acme.shows("t_a", Some("acme's own")).await;
    assert!(!format!("{:?}", globex.told).contains("acme"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_takes_nothing_away_and_its_end_is_noticed() {
    let world = World::new().await;
    for key in ["t_a", "t_b"] {
        world.put("acme", key, "1").await;
    }
    let mut client = world.watch("acme", to_prefix("t_"));
    client.until(&Told::Synced(false)).await;
    world.fail(true);
    // Another replica changes and deletes, and what is kept here is over.
    sleep(Duration::from_mins(20)).await;
    world.change_elsewhere();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(
        client.values(),
        BTreeMap::from([("t_a".into(), "1".into()), ("t_b".into(), "1".into())])
    );
    assert_eq!(client.told.len(), 3, "{:?}", client.told);
    assert!(client.marks.progress().is_stale && client.marks.progress().behind_since.is_some());
    // Who comes now and holds something keeps it, and is not told that it has everything.
    let mut knows = to_prefix("t_");
    knows.known = client.known();
    let mut late = world.watch("acme", knows);
    sleep(Duration::from_mins(1)).await;
    assert!(timeout(Duration::from_mins(1), late.hear()).await.is_err());
    assert!(!late.marks.progress().is_synced && late.marks.progress().is_stale);
    world.fail(false);
    for client in [&mut client, &mut late] {
        client.shows("t_a", Some("acme elsewhere")).await;
        client.shows("t_b", Some("acme elsewhere")).await;
        client.settle().await;
        assert_eq!(
            client.marks.progress(),
            Progress {
                is_synced: true,
                ..Progress::default()
            }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_cut_off_is_seen_whenever_it_arrives() {
    let world = World::new().await;
    let mut client = world.watch("acme", to_keys(&["t_a"]));
    client.until(&Told::Synced(false)).await;
    *world.fakes[0].pause.lock().unwrap() = Duration::from_millis(500);
    for value in 0..20 {
        let value = value.to_string();
        let put = world.put("acme", "t_a", &value);
        _ = timeout(Duration::from_millis(fastrand::u64(..1000)), put).await;
        client.settle().await;
        assert_eq!(client.values(), world.list("acme", "t_", &Context::default()).await);
    }
    assert!(client.told.len() > 5, "some of them arrived");
}

#[tokio::test(start_paused = true)]
async fn other_strategies_are_followed() {
    let world = World::new().await;
    world.put("acme", "t_a", "in a").await;
    world.put("acme", "t_b", "in a").await;
    let mut by_name = world.watch("acme", to_keys(&["t_a"]));
    let mut by_prefix = world.watch("acme", to_prefix("t_"));
    for client in [&mut by_name, &mut by_prefix] {
        client.until(&Told::Synced(false)).await;
    }
    let moved = json!({ "acme": { "": { "home": ["b", "ns"] } } });
    world.configs.take_up(&world.stores.registry(&moved).await);
    for client in [&mut by_name, &mut by_prefix] {
        client.until(&Told::Resync).await;
        client.until(&Told::Synced(false)).await;
        assert!(client.held.is_empty(), "nothing is there in b");
    }
    world.put("acme", "t_a", "in b").await;
    for client in [&mut by_name, &mut by_prefix] {
        client.shows("t_a", Some("in b")).await;
    }
    // Back, where everything still is; what stood all the time and was held is not sent again.
    let back = json!({ "acme": { "": { "home": ["a", "ns"], "former": [["b", "ns"]] } } });
    world.configs.take_up(&world.stores.registry(&back).await);
    by_prefix.until(&Told::Synced(false)).await;
    assert_eq!(by_prefix.value("t_b"), Some("in a"));
    assert_eq!(by_prefix.values(), world.list("acme", "t_", &Context::default()).await);
}

#[tokio::test(start_paused = true)]
async fn a_context_sees_its_own_layer() {
    let script = json!({ "acme": { "": at_home(), "eu": { "home": ["b", "eu"], "defaults": [["a", "ns"]] } } });
    let world = World::deciding(&script, POLICY).await;
    world.put("acme", "t_a", "everywhere").await;
    let mut eu = to_prefix("t_");
    eu.context = layer("eu");
    let mut client = world.watch("acme", eu);
    client.shows("t_a", Some("everywhere")).await;
    let writer = VerifiedTenant::for_tests("acme").writer().unwrap();
    let options = WriteOptions {
        context: layer("eu"),
        ..WriteOptions::default()
    };
    world
        .configs
        .put(&writer, "t_a", entry("in the EU"), &options)
        .await
        .unwrap();
    client.shows("t_a", Some("in the EU")).await;
    world.configs.delete(&writer, "t_a", &options).await.unwrap();
    client.shows("t_a", Some("everywhere")).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_tells_of_yesterday_takes_nothing_back() {
    let nothing = CachePolicy {
        ttl: Duration::ZERO,
        stale: Duration::ZERO,
        negative: Duration::ZERO,
    };
    let world = World::deciding(&json!({ "acme": { "": { "home": ["a", "ns"] } } }), nothing).await;
    world.fakes[0].lag();
    world.put("acme", "t_a", "1").await;
    let yesterday = world.fakes[0].state();
    world.put("acme", "t_a", "2").await;
    let mut first = world.watch("acme", to_keys(&["t_a"]));
    first.until(&Told::Synced(false)).await;
    world.fakes[0].answer_with(Some(yesterday));
    let mut knows = to_keys(&["t_a"]);
    knows.known = first.known();
    let mut late = world.watch("acme", knows);
    sleep(Duration::from_secs(10)).await;
    world.fakes[0].answer_with(None);
    late.until(&Told::Synced(false)).await;
    assert_eq!(late.told, [Told::Synced(false)], "it has it already");
}

#[tokio::test(start_paused = true)]
async fn who_falls_too_far_behind_compares_anew() {
    let world = World::new().await;
    let mut client = world.watch("acme", to_prefix("t_"));
    client.until(&Told::Synced(false)).await;
    let value = "x".repeat(40_000);
    // It does not read: two of them fill what is on its way.
    for i in 0..12_000 {
        let now = tokio::time::Instant::now();
        client.marks.mark(&format!("t_{i}").into(), now, now);
    }
    for i in 0..5 {
        world.put("acme", &format!("t_{i}"), &value).await;
    }
    client.until(&Told::Resync).await;
    client.until(&Told::Synced(false)).await;
    client.settle().await;
    assert_eq!(client.values(), world.list("acme", "t_", &Context::default()).await);
}

/// Pages that are read for watchers take room; who does not take what it is sent has none of it.
#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_who_does_not_read() {
    let world = World::new().await;
    for i in 0..20 {
        world.put("acme", &format!("t_{i}"), &"x".repeat(20_000)).await;
    }
    let mut client = world.watch("acme", to_prefix("t_"));
    let stuck: Vec<_> = (0..2 * hub::PAGES)
        .map(|_| world.watch("acme", to_prefix("t_")))
        .collect();
    tokio::task::yield_now().await;
    // Nor does it keep others waiting.
    world.put("globex", "t_0", "theirs").await;
    let mut other = world.watch("globex", to_prefix("t_"));
    other.shows("t_0", Some("theirs")).await;
    sleep(Duration::from_mins(5)).await;
    assert!(world.hub.pages.is_free());
    // What it missed it is sent when it reads, whatever became of that.
    world.put("acme", "t_0", "changed").await;
    world.delete("acme", "t_19").await;
    client.until(&Told::Synced(false)).await;
    client.settle().await;
    assert_eq!(client.values(), world.list("acme", "t_", &Context::default()).await);
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn what_was_stale_when_there_was_no_room_for_it_is_stale_when_there_is() {
    let world = World::new().await;
    for key in ["t_a", "t_b"] {
        world.put("acme", key, &"x".repeat(60_000)).await;
    }
    sleep(2 * POLICY.ttl).await;
    world.fail(true);
    let mut client = world.watch("acme", to_keys(&["t_a", "t_b"]));
    sleep(Duration::from_secs(10)).await;
    client.until(&Told::Synced(true)).await;
    assert_eq!(client.held.len(), 2);
    world.change_elsewhere();
    world.fail(false);
    for key in ["t_a", "t_b"] {
        client.shows(key, Some("acme elsewhere")).await;
    }
}

/// Whoever is told that it has all holds nothing more that it may not have, however late there was room to say so.
#[tokio::test(start_paused = true)]
async fn what_is_refused_is_taken_back_before_all_is_said_to_be_told() {
    let names: Vec<String> = (0..10).map(|number| format!("gone-{number}")).collect();
    let script = json!({ "acme": { "": { "home": ["a", "ns"], "refuses": names } } });
    let world = World::deciding(&script, POLICY).await;
    world.put("acme", "t_a", &"x".repeat(70_000)).await;
    let mut asked = to_prefix("t_");
    asked.known = names.iter().map(|name| (format!("t_{name}"), None)).collect();
    let mut client = world.watch("acme", asked);
    sleep(Duration::from_secs(10)).await;
    client.until(&Told::Synced(false)).await;
    let removed = client.told.iter().filter(|told| matches!(told, Told::Removed(_)));
    assert_eq!(removed.count(), names.len(), "{:?}", client.told);
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_has_all_in_the_end_whatever_changes_meanwhile() {
    let world = Arc::new(World::new().await);
    let value = "x".repeat(30_000);
    for i in 0..10 {
        world.put("acme", &format!("t_{i}"), &value).await;
    }
    let mut client = world.watch("acme", to_prefix("t_"));
    let changing = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for i in 0.. {
                world.put("acme", &format!("t_{}", i % 3), &format!("{i}{value}")).await;
                sleep(Duration::from_millis(500)).await;
            }
        })
    };
    // Less than changes.
    for messages in 0.. {
        sleep(Duration::from_secs(2)).await;
        if client.next().await == Told::Synced(false) {
            break;
        }
        assert!(messages < 500, "{}", client.told.len());
    }
    changing.abort();
    client.settle().await;
    assert_eq!(client.values(), world.list("acme", "t_", &Context::default()).await);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_good_ends_it_and_says_why() {
    let world = World::new().await;
    for (asked, expected) in [
        (to_keys(&["u_a"]), "tag"),
        (to_prefix("u_"), "tag"),
        (to_keys(&["t_/"]), "segment"),
    ] {
        let mut client = world.watch("acme", asked);
        let error = (&mut client.task).await.unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    // A strategy that has no answer for that tenant.
    let mut client = world.watch("initech", to_keys(&["t_a"]));
    let error = (&mut client.task).await.unwrap();
    assert!(matches!(error, ConfigError::Decide(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn newer_claims_compare_anew_and_newer_tokens_do_not() {
    let world = World::new().await;
    let mut client = world.watch("acme", to_keys(&["t_a"]));
    client.until(&Told::Synced(false)).await;
    client.readers.send_replace(reader("acme"));
    client.settle().await;
    assert_eq!(client.told.len(), 2, "{:?}", client.told);
}

impl World {
    /// The home of a key.
    fn place(&self, key: &str) -> Place {
        let is_it = |name: &crate::placement::PhysicalName| name.key() == key;
        let name = self.fakes[0].state().into_keys().find(is_it).unwrap();
        Place {
            backend: "a".into(),
            name,
        }
    }

    /// Has what stands at a key near.
    async fn read(&self, key: &str) {
        let (reader, context) = (reader("acme"), Context::default());
        let read = self
            .configs
            .get(&reader, key, 0, &context, Scope::Own, Consistency::Cached);
        _ = read.await;
    }
}

/// What a client holds that came from another gateway, which wrote what this one does not know of.
fn from_elsewhere(world: &World) -> HashMap<String, Option<Etag>> {
    let mut elsewhere = HashMap::new();
    for key in ["t_changed", "t_gone", "t_made"] {
        let place = world.place(key);
        let etag = world.fakes[0].put(&place, "elsewhere").etag;
        if key == "t_gone" {
            world.fakes[0].remove(&place);
        }
        elsewhere.insert(key.to_owned(), Some(etag));
    }
    elsewhere
}

#[tokio::test(start_paused = true)]
async fn what_is_near_takes_nothing_back_that_a_client_has_from_elsewhere() {
    let by_name = to_keys(&["t_changed", "t_gone", "t_made"]);
    for asked in [by_name, to_prefix("t_")] {
        let world = World::new().await;
        for key in ["t_changed", "t_gone", "t_made"] {
            world.put("acme", key, "here").await;
        }
        let made = world.place("t_made");
        world.delete("acme", "t_made").await;
        for key in ["t_changed", "t_gone", "t_made"] {
            world.read(key).await;
        }
        world.fakes[0].put(&made, "elsewhere");
        let known = from_elsewhere(&world);
        let mut client = world.watch("acme", Asked { known, ..asked });
        client.until(&Told::Synced(false)).await;
        let told = [Told::Removed("t_gone".to_owned()), Told::Synced(false)];
        assert_eq!(client.told, told);
        client.settle().await;
        assert_eq!(client.told, told);
    }
}

#[tokio::test(start_paused = true)]
async fn that_there_was_nothing_once_removes_nothing() {
    let world = World::new().await;
    world.put("acme", "t_a", "1").await;
    let place = world.place("t_a");
    world.delete("acme", "t_a").await;
    world.read("t_a").await;
    world.fakes[0].put(&place, "elsewhere");
    world.fail(true);
    sleep(POLICY.negative * 2).await;
    // It holds the key from elsewhere, and did not say so.
    let mut client = world.watch("acme", to_keys(&["t_a"]));
    assert!(timeout(SETTLED, client.hear()).await.is_err(), "{:?}", client.told);
    world.fail(false);
    client.shows("t_a", Some("elsewhere")).await;
    client.until(&Told::Synced(false)).await;
}

#[tokio::test(start_paused = true)]
async fn what_changes_all_the_time_keeps_nobody_from_what_stands() {
    let world = Arc::new(World::new().await);
    for i in 0..500 {
        world.put("acme", &format!("t_{i}"), &"x".repeat(1000)).await;
    }
    let busy = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for value in 0.. {
                world
                    .put("acme", "t_busy", &format!("{value} {}", "x".repeat(30_000)))
                    .await;
            }
        })
    };
    let mut client = world.watch("acme", to_prefix("t_"));
    // Slower than the writer.
    let mut heard = 0;
    while client.next().await != Told::Synced(false) {
        heard += 1;
        assert!(heard < 2000, "it never has everything");
        sleep(Duration::from_millis(10)).await;
    }
    busy.abort();
    assert_eq!(client.held.len(), 501);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_cut_off_before_anybody_watched_is_seen_too() {
    let world = World::new().await;
    world.put("acme", "t_a", "1").await;
    for value in 0..20 {
        let value = format!("late {value}");
        // It arrives when its caller has gone: the store has it, and says nothing.
        *world.fakes[0].pause.lock().unwrap() = Duration::from_millis(400);
        let put = world.put("acme", "t_a", &value);
        _ = timeout(Duration::from_millis(fastrand::u64(..400)), put).await;
        *world.fakes[0].pause.lock().unwrap() = Duration::ZERO;
        let mut client = world.watch("acme", to_keys(&["t_a"]));
        client.until(&Told::Synced(false)).await;
        let place = world.place("t_a");
        sleep(Duration::from_millis(fastrand::u64(..20_000))).await;
        world.fakes[0].put(&place, &value);
        client.settle().await;
        assert_eq!(client.value("t_a"), Some(&*value));
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_writes_at_once_to_a_store_that_lags_the_last_is_seen() {
    let nothing = CachePolicy {
        ttl: Duration::from_mins(1),
        ..POLICY
    };
    let world = World::deciding(&json!({ "acme": { "": { "home": ["a", "ns"] } } }), nothing).await;
    world.fakes[0].lag();
    world.put("acme", "t_a", "0").await;
    let mut client = world.watch("acme", to_keys(&["t_a"]));
    client.until(&Told::Synced(false)).await;
    for round in 0..10 {
        let yesterday = world.fakes[0].state();
        *world.fakes[0].pause.lock().unwrap() = Duration::from_millis(50);
        world.fakes[0].answer_with(Some(yesterday));
        let values = ["one", "other"].map(|which| format!("{round} {which}"));
        tokio::join!(
            world.put("acme", "t_a", &values[0]),
            world.put("acme", "t_a", &values[1])
        );
        sleep(Duration::from_secs(2)).await;
        world.fakes[0].answer_with(None);
        client.settle().await;
        assert_eq!(client.values(), world.list("acme", "t_", &Context::default()).await);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_to_be_there_that_a_store_could_not_be_asked_for() {
    let world = World::new().await;
    world.put("acme", "t_a", "1").await;
    let mut client = world.watch("acme", to_keys(&["t_a"]));
    client.until(&Told::Synced(false)).await;
    sleep(Duration::from_secs(5)).await;
    let whole = tokio::time::Instant::now();
    // A write is under way and may have happened.
    *world.fakes[0].pause.lock().unwrap() = Duration::from_secs(5);
    let put = world.put("acme", "t_a", "2");
    assert!(timeout(Duration::from_millis(10), put).await.is_err());
    world.fail(true);
    sleep(Duration::from_mins(2)).await;
    let behind = client.marks.progress().behind_since.unwrap();
    assert!(behind <= whole + Duration::from_millis(20), "{:?}", behind - whole);
    *world.fakes[0].pause.lock().unwrap() = Duration::ZERO;
    world.fail(false);
    client.settle().await;
    assert_eq!(client.marks.progress().behind_since, None);
}

#[tokio::test]
async fn prefixes_that_others_cover_are_looked_at_once() {
    let world = World::new().await;
    let mut asked = to_prefix("t_a");
    asked.prefixes = ["t_b", "", "t_", "", "t_a"]
        .map(|prefix| prefix.parse().unwrap())
        .to_vec();
    world.put("acme", "t_a", "1").await;
    world.put("acme", "t_b", "1").await;
    let mut client = world.watch("acme", asked);
    client.until(&Told::Synced(false)).await;
    assert_eq!(client.told.len(), 3);
    let mut two = to_prefix("t_a");
    two.prefixes = ["t_b", "t_a/x", "t_a"].map(|prefix| prefix.parse().unwrap()).to_vec();
    let mut two = world.watch("acme", two);
    two.until(&Told::Synced(false)).await;
    for key in ["t_a", "t_a/x/y", "t_ab", "t_b", "t_bc"] {
        world.put("acme", key, "2").await;
        two.shows(key, Some("2")).await;
    }
    world.put("acme", "t_0", "2").await;
    world.put("acme", "t_c", "2").await;
    world.put("acme", "t_b", "3").await;
    two.shows("t_b", Some("3")).await;
    assert_eq!(two.held.len(), 5, "{:?}", two.held);
}
