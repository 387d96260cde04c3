//! What no single key can tell: whether the settings fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::document::Document;
use super::{BackendKind, BackendSettings, EventsKind, Permission, Problem, Settings, Source, StrategySettings};

/// Shortest and longest time between two comparisons of all that is watched.
const MIN_SWEEP: Duration = Duration::from_secs(1);
const MAX_SWEEP: Duration = Duration::from_hours(24);
/// Longest leeway: beyond it an expired token would live on.
const MAX_LEEWAY: Duration = Duration::from_mins(5);

impl Settings {
    pub(super) fn check(&self, document: &Document<'_>, problems: &mut Vec<Problem>) {
        let mut check = Check { document, problems };
        check.server(self);
        check.identity(self);
        check.require(!self.backends.is_empty(), "backends", "name at least one store");
        for (id, backend) in &self.backends {
            check.backend(id, backend);
        }
        check.stores_are_not_shared(&self.backends);
        check.require(!self.strategies.is_empty(), "strategies", "name at least one strategy");
        for (name, strategy) in &self.strategies {
            check.strategy(name, strategy, &self.backends);
        }
        check.tags_are_claimed_once(&self.strategies);
        check.require(
            self.limits.in_flight > 0,
            "limits.in_flight",
            "0 would refuse every request",
        );
        check.require(
            self.limits.request_bytes.0 >= 1024 && self.limits.request_bytes.0 <= 64 << 20,
            "limits.request_bytes",
            "between 1KiB and 64MiB",
        );
        check.require(self.cache.max_bytes.0 >= 1 << 20, "cache.max_bytes", "at least 1MiB");
        for (key, duration) in [
            ("cache.ttl", self.cache.ttl),
            ("cache.stale", self.cache.stale),
            ("cache.negative", self.cache.negative),
            ("cache.max_ttl", self.cache.max_ttl),
            ("cache.max_stale", self.cache.max_stale),
        ] {
            check.not_for_ever(key, duration);
        }
        check.events(self);
        check.longer_than_nothing("limits.request_timeout", self.limits.request_timeout);
        check.longer_than_nothing("limits.handshake", self.limits.handshake);
        check.require(
            self.limits.connections > 0,
            "limits.connections",
            "0 would refuse every connection",
        );
        check.require(self.limits.tenants > 0, "limits.tenants", "more than 0");
        check.require(self.limits.decisions.0 >= 4096, "limits.decisions", "at least 4KiB");
        check.require(
            self.identity.token_memory.0 >= 1 << 20,
            "identity.token_memory",
            "at least 1MiB",
        );
        let endpoint = self.telemetry.otlp_endpoint();
        check.require(
            endpoint
                .is_none_or(|url| url.starts_with("http") && reqwest::Url::parse(url).is_ok_and(|url| url.has_host())),
            "telemetry.otlp_endpoint",
            "a collector that takes OTLP over gRPC, such as \"http://127.0.0.1:4317\"",
        );
        check.require(
            (0.0..=1.0).contains(&self.telemetry.trace_share),
            "telemetry.trace_share",
            "between 0.0 and 1.0",
        );
        check.require(
            EnvFilter::try_new(&self.telemetry.log).is_ok(),
            "telemetry.log",
            "a level such as \"info\", or a filter such as \"warn,tagway=debug\"",
        );
    }
}

/// Longest duration of any setting: no clock panics when it is added.
const MAX_DURATION: Duration = Duration::from_hours(100 * 365 * 24);
/// Most versions of a key.
const MAX_HISTORY: u32 = 10_000;
/// Shortest time that a version is kept, where it is not kept for ever.
const MIN_KEPT: Duration = Duration::from_hours(1);
/// Shortest time for an operation of a store at AWS: below it no retry would have room.
const MIN_CALL: Duration = Duration::from_millis(100);
/// Most calls at once to one store.
const MAX_IN_FLIGHT: u32 = 10_000;
/// Most calls a second to Parameter Store: the most that an account can buy (AWS General Reference, "Systems Manager endpoints and quotas").
const MAX_RATE: u32 = 10_000;
/// Most names of a list.
const MAX_LIST: u32 = 100_000;
/// Longest root: with the longest physical name after it, and an ARN's beginning before it, it stays within 1011 bytes
/// (API reference, `PutParameter`).
const ROOT_BYTES: usize = 200;
/// Keys of `[backends.<id>]`, and the kinds that have them. All have the others.
const KEYS: &[(&str, &[BackendKind])] = &[
    ("path", &[BackendKind::Embedded]),
    ("history", &[BackendKind::Embedded]),
    ("backups", &[BackendKind::Embedded]),
    ("table", &[BackendKind::DynamoDb]),
    ("history_ttl", &[BackendKind::DynamoDb]),
    ("root", &[BackendKind::Ssm]),
    ("kms_key", &[BackendKind::Ssm]),
    ("requests_per_second", &[BackendKind::Ssm]),
    ("list_names", &[BackendKind::Ssm]),
    ("region", AT_AWS),
    ("endpoint_url", AT_AWS),
    ("sts_endpoint_url", AT_AWS),
    ("tenant_role", AT_AWS),
    ("timeout", AT_AWS),
    ("in_flight", AT_AWS),
];
const AT_AWS: &[BackendKind] = &[BackendKind::DynamoDb, BackendKind::Ssm];
/// Most fuel of a call, some seconds' worth.
const MAX_FUEL: u64 = 10_000_000_000;
/// Longest call.
const MAX_CALL: Duration = Duration::from_secs(10);

struct Check<'a, 't> {
    document: &'a Document<'t>,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_, '_> {
    fn require(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.problems.push(self.document.problem(key, message));
        }
    }

    fn longer_than_nothing(&mut self, key: &str, duration: Duration) {
        self.require(
            !duration.is_zero(),
            key,
            "a duration longer than nothing, such as \"10s\"",
        );
        self.not_for_ever(key, duration);
    }

    fn not_for_ever(&mut self, key: &str, duration: Duration) {
        self.require(duration <= MAX_DURATION, key, "at most 100 years");
    }

    fn server(&mut self, settings: &Settings) {
        let server = &settings.server;
        self.require(
            server.listen.ip().is_loopback() || server.tls.is_some() || server.plaintext,
            "server.listen",
            "beyond loopback tokens would cross the network in plaintext: listen on 127.0.0.1, or say plaintext = true \
             where TLS ends in front of the gateway",
        );
        let ops = server.ops_listen.address();
        let admin = server.admin_listen.address();
        self.require(
            server.listen.port() == 0 || ops != Some(server.listen),
            "server.ops_listen",
            "is `server.listen` too; each needs an address of its own",
        );
        self.require(
            ops.is_none_or(|ops| ops.port() == 0 || admin != Some(ops)),
            "server.ops_listen",
            "is `server.admin_listen` too; each needs an address of its own",
        );
        self.require(
            admin.is_none_or(|admin| admin.ip().is_loopback() || server.tls.is_some() || server.plaintext),
            "server.admin_listen",
            "beyond loopback tokens would cross the network in plaintext: listen on 127.0.0.1, or say plaintext = true \
             where TLS ends in front of the gateway",
        );
        self.require(
            settings
                .identity
                .admin_audiences
                .iter()
                .all(|audience| !audience.is_empty()),
            "identity.admin_audiences",
            "no audience is empty",
        );
        for (key, duration) in [
            ("server.drain", server.drain),
            ("server.max_connection_age", server.max_connection_age),
            ("server.max_connection_grace", server.max_connection_grace),
            ("server.keepalive.interval", server.keepalive.interval),
            ("server.keepalive.timeout", server.keepalive.timeout),
        ] {
            self.longer_than_nothing(key, duration);
        }
    }

    fn events(&mut self, settings: &Settings) {
        let events = &settings.events;
        self.require(
            (MIN_SWEEP..=MAX_SWEEP).contains(&events.sweep),
            "events.sweep",
            "between 1s and 24h",
        );
        if events.kind == EventsKind::None {
            for (key, is_said) in [
                ("bus", events.bus.is_some()),
                ("region", events.region.is_some()),
                ("endpoint_url", events.endpoint_url.is_some()),
                ("queue", events.queue.is_some()),
                ("publish", events.publish == Some(true)),
            ] {
                self.require(!is_said, &format!("events.{key}"), "needs events.kind = \"sqs\"");
            }
        }
        self.require(
            is_bus(events.bus()),
            "events.bus",
            "the name of an event bus: 1 to 256 of [A-Za-z0-9_./-]",
        );
        if let Some(url) = &events.endpoint_url {
            self.require(
                is_confidential(url),
                "events.endpoint_url",
                "https://, or http:// on loopback",
            );
        }
    }

    fn identity(&mut self, settings: &Settings) {
        let identity = &settings.identity;
        self.require(
            !identity.issuer.is_empty(),
            "identity.issuer",
            "name the issuer of your tokens, their `iss`",
        );
        self.require(
            !identity.audiences.is_empty() && identity.audiences.iter().all(|audience| !audience.is_empty()),
            "identity.audiences",
            "name at least one audience, so that tokens meant for other services do not pass",
        );
        self.require(
            !identity.algorithms.is_empty(),
            "identity.algorithms",
            "name at least one",
        );
        match &identity.jwks {
            Some(Source::File(_)) => {}
            Some(Source::Url(url)) => self.require(
                is_confidential(url),
                "identity.jwks",
                "keys over plaintext can be replaced on their way: https://, or http:// on loopback",
            ),
            _ => self.require(
                false,
                "identity.jwks",
                "where the issuer's public keys are: https://... or file:...",
            ),
        }
        self.longer_than_nothing("identity.jwks_refresh", identity.jwks_refresh);
        self.not_for_ever("identity.jwks_grace", identity.jwks_grace);
        self.require(identity.leeway <= MAX_LEEWAY, "identity.leeway", "at most 5m");
        for (key, claim) in [
            ("identity.tenant_claim", &identity.tenant_claim),
            ("identity.permission_claim", &identity.permission_claim),
        ] {
            self.require(!claim.is_empty(), key, "the name of a claim");
        }
        for permission in Permission::ALL {
            let names = identity.permissions.get(&permission);
            self.require(
                names.is_none_or(|names| names.iter().all(|name| !name.is_empty() && !name.contains(' '))),
                &format!("identity.permissions.{permission}"),
                "names without spaces, none of them empty",
            );
        }
    }

    fn backend(&mut self, id: &str, backend: &BackendSettings) {
        let key = |key: &str| format!("backends.{id}.{key}");
        self.require(
            is_id(id),
            &format!("backends.{id}"),
            "an id is 1 to 64 of [A-Za-z0-9_-]",
        );
        self.keys_are_of_the_kind(id, backend.kind);
        match backend.kind {
            BackendKind::Embedded => {
                self.require(
                    backend.path.as_ref().is_some_and(|path| !path.as_os_str().is_empty()),
                    &key("path"),
                    "an embedded store needs the path of its file",
                );
                self.require(
                    (1..=MAX_HISTORY).contains(&backend.history()),
                    &key("history"),
                    "between 1, the version that stands, and 10_000",
                );
                let backups = backend.backups.as_ref();
                self.require(
                    backups.is_none_or(|folder| !folder.as_os_str().is_empty()),
                    &key("backups"),
                    "a folder; without it no backups are made",
                );
            }
            BackendKind::DynamoDb => {
                self.require(
                    backend.table.as_deref().is_some_and(is_table),
                    &key("table"),
                    "a DynamoDB store needs the name of its table: 3 to 255 of [A-Za-z0-9_.-]",
                );
                let kept = backend.history_ttl;
                self.require(
                    kept.is_none_or(|kept| (MIN_KEPT..=MAX_DURATION).contains(&kept)),
                    &key("history_ttl"),
                    "between 1h and 100 years; without it versions are kept for ever",
                );
                self.at_aws(id, backend);
            }
            BackendKind::Ssm => {
                self.require(
                    is_root(backend.root()),
                    &key("root"),
                    "a path such as /tagway, of segments [A-Za-z0-9_.-]+, with no / at its end, of at most 200 bytes; \
                     Parameter Store keeps names that begin with aws or ssm for itself",
                );
                self.require(
                    backend.kms_key.as_deref().is_none_or(is_kms_key),
                    &key("kms_key"),
                    "the id, alias or ARN of a key, as in alias/tagway",
                );
                self.require(
                    (1..=MAX_RATE).contains(&backend.requests_per_second()),
                    &key("requests_per_second"),
                    "between 1 and 10_000",
                );
                self.require(
                    (1..=MAX_LIST).contains(&backend.list_names()),
                    &key("list_names"),
                    "between 1 and 100_000",
                );
                self.at_aws(id, backend);
            }
        }
    }

    fn at_aws(&mut self, id: &str, backend: &BackendSettings) {
        let key = |key: &str| format!("backends.{id}.{key}");
        self.require(
            backend.region.as_ref().is_none_or(|region| is_id(region)),
            &key("region"),
            "a region such as eu-west-1",
        );
        self.require(
            backend.endpoint_url.as_deref().is_none_or(is_confidential),
            &key("endpoint_url"),
            "https://, or http:// on loopback",
        );
        self.require(
            backend.sts_endpoint_url.as_deref().is_none_or(is_confidential),
            &key("sts_endpoint_url"),
            "https://, or http:// on loopback",
        );
        self.require(
            backend.tenant_role.as_deref().is_none_or(is_role),
            &key("tenant_role"),
            "the ARN of a role, as in arn:aws:iam::111122223333:role/tagway-tenant",
        );
        self.require(
            (MIN_CALL..=MAX_DURATION).contains(&backend.timeout()),
            &key("timeout"),
            "at least 100ms",
        );
        self.require(
            (1..=MAX_IN_FLIGHT).contains(&backend.in_flight()),
            &key("in_flight"),
            "between 1 and 10_000",
        );
    }

    fn keys_are_of_the_kind(&mut self, id: &str, kind: BackendKind) {
        let mut foreign = Vec::new();
        self.document.each(|path, _, _| {
            let key = path
                .strip_prefix("backends.")
                .and_then(|rest| rest.strip_prefix(id)?.strip_prefix('.'));
            let kinds = KEYS.iter().find(|(name, _)| Some(*name) == key);
            if kinds.is_some_and(|(_, kinds)| !kinds.contains(&kind)) {
                foreign.push(path.to_owned());
            }
        });
        for path in foreign {
            self.require(
                false,
                &path,
                &format!("a store of the kind {kind} has no such key: leave it out"),
            );
        }
    }

    fn stores_are_not_shared(&mut self, backends: &BTreeMap<String, BackendSettings>) {
        let mut owners = BTreeMap::new();
        for (id, backend) in backends {
            let BackendSettings {
                path,
                table,
                region,
                endpoint_url,
                ..
            } = backend;
            if path.is_none() && table.is_none() {
                continue;
            }
            if let Some(owner) = owners.insert((path, table, region, endpoint_url), id) {
                let key = if path.is_some() { "path" } else { "table" };
                let message =
                    format!("is the {key} of backends.{owner} too; a move between the two would lose what it moves");
                self.require(false, &format!("backends.{id}.{key}"), &message);
            }
        }
        self.roots_are_apart(backends);
    }

    /// Below a root come tenants: where another root lies, its first tenant would be a namespace of this one's.
    fn roots_are_apart(&mut self, backends: &BTreeMap<String, BackendSettings>) {
        let stores = || backends.iter().filter(|(_, backend)| backend.kind == BackendKind::Ssm);
        for (id, backend) in stores() {
            let holder = stores().find(|(other, holder)| {
                let beneath = backend.root().strip_prefix(holder.root());
                let same_place = (&holder.region, &holder.endpoint_url) == (&backend.region, &backend.endpoint_url);
                let first = backend.root().len() > holder.root().len() || other < &id;
                same_place && first && beneath.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            if let Some((holder, _)) = holder {
                let message = format!("lies in the root of backends.{holder}, where tenants' own names would reach it");
                self.require(false, &format!("backends.{id}.root"), &message);
            }
        }
    }

    fn strategy(&mut self, name: &str, strategy: &StrategySettings, backends: &BTreeMap<String, BackendSettings>) {
        let key = |key: &str| format!("strategies.{name}.{key}");
        self.require(
            is_id(name),
            &format!("strategies.{name}"),
            "a name is 1 to 64 of [A-Za-z0-9_-]",
        );
        match &strategy.source {
            Source::Builtin(builtin) => self.require(
                builtin == "tag-prefix",
                &key("source"),
                "the built-in strategy is builtin:tag-prefix",
            ),
            Source::File(_) => {}
            source @ Source::S3(_) => {
                let object = source.s3();
                self.require(
                    object.is_some_and(|(bucket, object)| is_bucket(bucket) && (1..=1024).contains(&object.len())),
                    &key("source"),
                    "s3://BUCKET/KEY, a bucket of 3 to 63 of [a-z0-9.-] and a key of 1 to 1024 bytes",
                );
                self.require(
                    strategy.digest.is_some() || strategy.unpinned,
                    &key("digest"),
                    "whoever may write to the bucket could replace the component: sha256:..., or unpinned = true",
                );
            }
            Source::Url(_) => {
                self.require(
                    false,
                    &key("source"),
                    "a component is fetched from file:..., s3://... or builtin:tag-prefix",
                );
            }
        }
        if !matches!(strategy.source, Source::S3(_)) {
            for (name, is_said) in [
                ("region", strategy.region.is_some()),
                ("endpoint_url", strategy.endpoint_url.is_some()),
                ("unpinned", strategy.unpinned),
            ] {
                self.require(!is_said, &key(name), "is for a source in S3: leave it out");
            }
        }
        self.require(
            strategy.endpoint_url.as_deref().is_none_or(is_confidential),
            &key("endpoint_url"),
            "https://, or http:// on loopback",
        );
        self.longer_than_nothing(&key("rollback.window"), strategy.rollback.window);
        self.not_for_ever(&key("rollback.window"), strategy.rollback.window);
        if let Some(digest) = &strategy.digest {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            self.require(
                hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                &key("digest"),
                "sha256: and 64 lower-case hexadecimal digits",
            );
        }
        self.require(
            !strategy.tags.is_empty(),
            &key("tags"),
            "name at least one tag that it may claim",
        );
        self.require(
            !strategy.backends.is_empty(),
            &key("backends"),
            "name at least one backend that it may use",
        );
        for backend in &strategy.backends {
            let message = format!("`{backend}` is not in [backends]");
            self.require(backends.contains_key(backend), &key("backends"), &message);
        }
        self.require(
            (1..=MAX_FUEL).contains(&strategy.limits.fuel),
            &key("limits.fuel"),
            "between 1 and 10_000_000_000",
        );
        self.require(
            !strategy.limits.deadline.is_zero() && strategy.limits.deadline <= MAX_CALL,
            &key("limits.deadline"),
            "longer than nothing, and at most 10s",
        );
        self.require(
            strategy.limits.memory.0 >= 64 << 10 && strategy.limits.memory.0 <= 64 << 20,
            &key("limits.memory"),
            "between 64KiB and 64MiB",
        );
        self.require(
            strategy.limits.component.0 > 0 && strategy.limits.component.0 <= 32 << 20,
            &key("limits.component"),
            "between 1B and 32MiB",
        );
        self.require(strategy.breaker.failures > 0, &key("breaker.failures"), "more than 0");
        self.longer_than_nothing(&key("breaker.window"), strategy.breaker.window);
        self.not_for_ever(&key("breaker.rest"), strategy.breaker.rest);
    }

    fn tags_are_claimed_once(&mut self, strategies: &BTreeMap<String, StrategySettings>) {
        let mut owners = BTreeMap::new();
        for (name, strategy) in strategies {
            for tag in strategy.tags.iter().collect::<BTreeSet<_>>() {
                if let Some(owner) = owners.insert(tag, name) {
                    let message = format!("`{tag}` belongs to strategies.{owner} too; a tag has one strategy");
                    self.require(false, &format!("strategies.{name}.tags"), &message);
                }
            }
        }
    }
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// API reference of Amazon EventBridge, `CreateEventBus`.
fn is_bus(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte))
}

/// Amazon S3 user guide, "General purpose bucket naming rules".
fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
}

/// Amazon's DynamoDB developer guide, "Naming rules".
fn is_table(name: &str) -> bool {
    (3..=255).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// API reference, `PutParameter`.
fn is_root(root: &str) -> bool {
    let segment = |segment: &str| {
        !segment.is_empty()
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let Some(path) = root.strip_prefix('/') else {
        return false;
    };
    let lower = path.to_ascii_lowercase();
    root.len() <= ROOT_BYTES && path.split('/').all(segment) && !lower.starts_with("aws") && !lower.starts_with("ssm")
}

/// API reference, `PutParameter`: `KeyId`.
fn is_kms_key(key: &str) -> bool {
    (1..=256).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte))
}

fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    matches!(parts[..], ["arn", _, "iam", "", account, role]
        if account.len() == 12 && role.strip_prefix("role/").is_some_and(|name| !name.is_empty()))
}

/// Whether nobody on the way reads what goes there.
fn is_confidential(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok() && (url.starts_with("https://") || is_loopback(url))
}

fn is_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse()
                .is_ok_and(|ip: IpAddr| ip.is_loopback())
    })
}
