//! Typed settings out of one TOML file and TAGWAY_* variables.
//!
//! Everything is said in types here, read once and checked whole: an unknown key, a bad value or two strategies that
//! claim one tag is a [`SettingsError`] that names file, line and key. What resolves can be run.

pub mod development;
mod document;
mod kinds;
mod resolve;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::key::Tag;
use document::Document;

use kinds::Class;
pub use kinds::{
    Algorithm, AuditTo, BackendKind, EventsKind, KeyFile, Listen, LogFormat, OnFailure, Permission, Queue, Source,
};

/// Everything that a gateway can be told. `Default` is what a file that says nothing gets; it cannot run as it is, for
/// it names no issuer, no backend and no strategy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Addresses and connections.
    pub server: ServerSettings,
    /// Whose tokens are believed.
    pub identity: IdentitySettings,
    /// The catalog: stores by id.
    pub backends: BTreeMap<String, BackendSettings>,
    /// Strategies by the operator's name for them.
    pub strategies: BTreeMap<String, StrategySettings>,
    /// What is kept near.
    pub cache: CacheSettings,
    /// How others' changes are heard of.
    pub events: EventsSettings,
    /// What one tenant may ask of this replica.
    pub quota: QuotaSettings,
    /// Bounds of this replica.
    pub limits: LimitSettings,
    /// Logs.
    pub telemetry: TelemetrySettings,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// gRPC. Beyond loopback only with TLS, or where `plaintext` says so.
    pub listen: SocketAddr,
    /// Whether plaintext is accepted beyond loopback: for those who end TLS in front.
    pub plaintext: bool,
    /// gRPC: `AdminService`. Nowhere if empty; the same address as `listen` puts it there.
    pub admin_listen: Listen,
    /// HTTP: `/livez`, `/readyz`. Nowhere if empty.
    pub ops_listen: Listen,
    /// Without it, plaintext.
    pub tls: Option<TlsSettings>,
    /// Whether clients may ask what services there are (gRPC server reflection).
    pub reflection: bool,
    /// From SIGTERM to exit, at most.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// After this a connection is told to go, so that load balancers rebalance.
    #[serde(with = "humantime_serde")]
    pub max_connection_age: Duration,
    /// How long a watch may go on on such a connection.
    #[serde(with = "humantime_serde")]
    pub max_connection_grace: Duration,
    /// HTTP/2 pings, so that a dead peer is noticed.
    pub keepalive: KeepaliveSettings,
    /// A folder of the gateway's own, for what outlives a restart: which strategies were active, and the names that were known.
    /// Nowhere if empty.
    state: PathBuf,
    /// A file of at least 32 secret bytes, the same on every replica, that page tokens are sealed with. Without it a
    /// token is good for the replica that gave it, until it restarts.
    pub page_token_key: Option<KeyFile>,
}

impl ServerSettings {
    /// The folder for what outlives a restart, if there is to be one.
    #[must_use]
    pub fn state(&self) -> Option<&Path> {
        Some(self.state.as_path()).filter(|folder| !folder.as_os_str().is_empty())
    }

    /// Of [`Self::drain`], for each of three things that come after the requests: what is left to be told and kept, traces, threads.
    #[must_use]
    pub fn drain_step(&self) -> Duration {
        self.drain / 20
    }

    /// Whether `AdminService` is served where tenants call. Two ports that are yet to be chosen are two.
    #[must_use]
    pub fn admin_is_with_tenants(&self) -> bool {
        self.listen.port() != 0 && self.admin_listen.address() == Some(self.listen)
    }
}

/// `server.keepalive`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepaliveSettings {
    /// Silence until a ping is sent.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Silence after it until the connection is cut.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// `server.tls`: files in PEM. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The gateway's certificate, and those that lead from it to one that clients believe.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates of clients. With it, each has to show one.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// All of them.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must hold one of; or `client_id`, where a token has no `aud`.
    pub audiences: Vec<String>,
    /// Where the keys are: `https://...`, `http://` on loopback, or `file:...`.
    pub jwks: Option<Source>,
    /// How often they are looked at, so that a withdrawn key is noticed.
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    /// How long the last good set serves while they cannot be had.
    #[serde(with = "humantime_serde")]
    pub jwks_grace: Duration,
    /// What a token may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// Claims that must have this value.
    pub require: BTreeMap<String, String>,
    /// The claim that names the tenant, or several.
    pub tenant_claim: String,
    /// The claim that names what its bearer may do.
    pub permission_claim: String,
    /// For each permission, the names of which the claim must hold one.
    pub permissions: BTreeMap<Permission, Vec<String>>,
    /// As `audiences`, of tokens for `AdminService`. The same, if empty.
    pub admin_audiences: Vec<String>,
    /// Bytes that verified tokens may take, so that each is verified once.
    pub token_memory: ByteSize,
    /// By how much the clocks of issuer and gateway may differ.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
}

/// `[backends.<id>]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSettings {
    /// Which store it is.
    pub kind: BackendKind,
    /// What strategies learn of it.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// `embedded`: the store's file.
    pub path: Option<PathBuf>,
    history: Option<u32>,
    /// `embedded`: the folder for backups; none are made, if it does not say.
    pub backups: Option<PathBuf>,
    /// `dynamodb`: the table.
    pub table: Option<String>,
    /// `dynamodb`: how long a version is kept after another took its place; for ever, if it does not say.
    #[serde(default, with = "humantime_serde")]
    pub history_ttl: Option<Duration>,
    /// Stores at AWS: where. What AWS's own tools would take, if it does not say.
    pub region: Option<String>,
    /// Stores at AWS: a server of another address.
    pub endpoint_url: Option<String>,
    /// Stores at AWS: an STS of another address, for `tenant_role`.
    pub sts_endpoint_url: Option<String>,
    /// Stores at AWS: the ARN of a role that is assumed for each tenant, with the session tag `TenantId`.
    pub tenant_role: Option<String>,
    #[serde(default, with = "humantime_serde")]
    timeout: Option<Duration>,
    in_flight: Option<u32>,
    root: Option<String>,
    /// `ssm`: the key that secrets are encrypted with. The account's own for Parameter Store, if it does not say.
    pub kms_key: Option<String>,
    requests_per_second: Option<u32>,
    list_names: Option<u32>,
}

impl BackendSettings {
    /// `embedded`: how many versions of a key are kept, deletions included.
    #[must_use]
    pub fn history(&self) -> u32 {
        self.history.unwrap_or(100)
    }

    /// Stores at AWS: of one operation, its calls and their retries included.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(2))
    }

    /// `ssm`: what the names of parameters begin with.
    #[must_use]
    pub fn root(&self) -> &str {
        self.root.as_deref().unwrap_or("/tagway")
    }

    /// `ssm`: this replica's share of what the account may ask in a second.
    #[must_use]
    pub fn requests_per_second(&self) -> u32 {
        self.requests_per_second.unwrap_or(10)
    }

    /// `ssm`: most keys that a list looks through.
    #[must_use]
    pub fn list_names(&self) -> u32 {
        self.list_names.unwrap_or(1000)
    }

    /// Stores at AWS: calls at once. More wait.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.unwrap_or(64)
    }
}

/// `[strategies.<name>]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrategySettings {
    /// Where the component is: `builtin:tag-prefix`, `file:...` or `s3://<bucket>/<key>`.
    pub source: Source,
    /// `s3://`: where the bucket is. What AWS's own tools would take, if it does not say.
    pub region: Option<String>,
    /// `s3://`: a server of another address.
    pub endpoint_url: Option<String>,
    /// `sha256:<hex>` of the component. Another one is refused.
    pub digest: Option<String>,
    /// `s3://`: whatever lies there is taken, without a digest.
    #[serde(default)]
    pub unpinned: bool,
    /// What it may claim of the key space.
    pub tags: Vec<Tag>,
    /// What it may use of the catalog.
    pub backends: Vec<String>,
    /// Whether it may place defaults in the scope that all tenants read.
    #[serde(default)]
    pub shared_scope: bool,
    /// What is answered for a strategy that fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    // There is one.
    class: Option<Class>,
    /// What one call may cost.
    #[serde(default)]
    pub limits: StrategyLimits,
    /// When it is not called for a while.
    #[serde(default)]
    pub breaker: BreakerSettings,
    /// When a version leaves by itself.
    #[serde(default)]
    pub rollback: RollbackSettings,
    /// Handed to the component as JSON.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// `strategies.<name>.limits`: of one call into a fresh instance.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StrategyLimits {
    /// Wasm instructions, more or less. Deterministic, so it is meant to bite first.
    pub fuel: u64,
    /// Wall time, for what fuel does not see.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Linear memory.
    pub memory: ByteSize,
    /// Of the component's file.
    pub component: ByteSize,
}

/// `strategies.<name>.breaker`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// So many failures
    pub failures: u32,
    /// within this time stop the calls
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// for this long.
    #[serde(with = "humantime_serde")]
    pub rest: Duration,
}

/// `strategies.<name>.rollback`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackSettings {
    /// So many questions that a version fails or refuses, and the one before it answers, have it leave. 0: none do.
    pub failures: u32,
    /// For so long after it became active.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Of all that is kept.
    pub max_bytes: ByteSize,
    /// Served without asking the store, where a placement says nothing.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Then served while it is asked, or cannot be.
    #[serde(with = "humantime_serde")]
    pub stale: Duration,
    /// That there is no such key.
    #[serde(with = "humantime_serde")]
    pub negative: Duration,
    /// Longest `ttl` and `negative` of any placement.
    #[serde(with = "humantime_serde")]
    pub max_ttl: Duration,
    /// Longest `stale` of any placement.
    #[serde(with = "humantime_serde")]
    pub max_stale: Duration,
    /// A folder of the gateway's own, for what was last known good: served after a start, as past its time, while stores are
    /// away. Never a secret. Nowhere if empty.
    snapshot: PathBuf,
}

impl CacheSettings {
    /// The folder for what was last known good, if there is to be one.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Path> {
        Some(self.snapshot.as_path()).filter(|folder| !folder.as_os_str().is_empty())
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            max_bytes: ByteSize::mib(256),
            ttl: Duration::from_mins(1),
            stale: Duration::from_mins(10),
            negative: Duration::from_secs(5),
            max_ttl: Duration::from_hours(1),
            max_stale: Duration::from_hours(24),
            snapshot: PathBuf::new(),
        }
    }
}

/// `[events]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsSettings {
    /// Where events come from.
    pub kind: EventsKind,
    bus: Option<String>,
    /// Where bus and queue are. What AWS's own tools would take, if it does not say.
    pub region: Option<String>,
    /// A server of another address, for both.
    pub endpoint_url: Option<String>,
    queue: Option<Queue>,
    publish: Option<bool>,
    /// What is watched or read often is compared with its store this often, whatever events say.
    #[serde(with = "humantime_serde")]
    pub sweep: Duration,
}

impl EventsSettings {
    /// The bus that our own events go to and come from.
    #[must_use]
    pub fn bus(&self) -> &str {
        self.bus.as_deref().unwrap_or("default")
    }

    /// The queue that they come out of.
    #[must_use]
    pub fn queue(&self) -> Queue {
        self.queue.clone().unwrap_or(Queue::Auto)
    }

    /// Whether others are told of what is written here.
    #[must_use]
    pub fn publish(&self) -> bool {
        self.kind == EventsKind::Sqs && self.publish.unwrap_or(true)
    }
}

impl Default for EventsSettings {
    fn default() -> Self {
        Self {
            kind: EventsKind::None,
            bus: None,
            region: None,
            endpoint_url: None,
            queue: None,
            publish: None,
            sweep: Duration::from_mins(1),
        }
    }
}

/// `[quota]`: of one tenant, on this replica.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaSettings {
    /// A second's worth may come at once.
    pub requests_per_second: NonZero<u32>,
    /// Watch streams at once.
    pub streams: u32,
    /// Keys that they hold together.
    pub watched_keys: u32,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Connections of tenants at once. One more is closed at once.
    pub connections: u32,
    /// From a connection to the first that its peer says, TLS included.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// Requests at once; one more is told so at once.
    pub in_flight: u32,
    /// Of one request message.
    pub request_bytes: ByteSize,
    /// Of one request, where the caller sets no deadline, and at most.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Subscriptions of one stream at once.
    pub subscriptions: u32,
    /// Tenants whose decisions are remembered at once, by each strategy.
    pub tenants: u32,
    /// Bytes that the remembered decisions of one tenant may take, by each strategy: so none pushes out another's.
    pub decisions: ByteSize,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// A level, or a filter as tracing writes them. To stderr, without values and tokens.
    pub log: String,
    /// How a line looks.
    pub format: LogFormat,
    audit: String,
    otlp_endpoint: String,
    /// Which share of requests is traced, where their callers have not decided. 0 to 1.
    pub trace_share: f64,
}

impl TelemetrySettings {
    /// Where traces go, if they do: a collector that takes OTLP over gRPC.
    #[must_use]
    pub fn otlp_endpoint(&self) -> Option<&str> {
        Some(self.otlp_endpoint.as_str()).filter(|endpoint| !endpoint.is_empty())
    }

    /// Where writes, activations and refusals are written down, if they are.
    #[must_use]
    pub fn audit(&self) -> Option<AuditTo> {
        match self.audit.as_str() {
            "" => None,
            "stdout" => Some(AuditTo::Stdout),
            path => Some(AuditTo::File(path.into())),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            plaintext: false,
            admin_listen: Listen::Nowhere,
            ops_listen: Listen::At(SocketAddr::from(([127, 0, 0, 1], 9901))),
            tls: None,
            reflection: false,
            drain: Duration::from_secs(20),
            max_connection_age: Duration::from_mins(30),
            max_connection_grace: Duration::from_mins(1),
            keepalive: KeepaliveSettings::default(),
            state: PathBuf::new(),
            page_token_key: None,
        }
    }
}

impl Default for KeepaliveSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for IdentitySettings {
    fn default() -> Self {
        let named = |permission: Permission| (permission, vec![permission.to_string()]);
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            jwks: None,
            jwks_refresh: Duration::from_mins(10),
            jwks_grace: Duration::from_hours(24),
            algorithms: vec![Algorithm::RS256],
            require: BTreeMap::new(),
            tenant_claim: "tenant_id".to_owned(),
            permission_claim: "scope".to_owned(),
            permissions: Permission::ALL.into_iter().map(named).collect(),
            admin_audiences: Vec::new(),
            token_memory: ByteSize::mib(32),
            leeway: Duration::from_secs(30),
        }
    }
}

impl Default for StrategyLimits {
    fn default() -> Self {
        Self {
            fuel: 5_000_000,
            deadline: Duration::from_millis(100),
            memory: ByteSize::mib(16),
            component: ByteSize::mib(2),
        }
    }
}

impl Default for RollbackSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            window: Duration::from_mins(10),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 20,
            window: Duration::from_secs(10),
            rest: Duration::from_secs(5),
        }
    }
}

/// Requests a second, unless settings say otherwise.
const REQUESTS: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(1999);

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            requests_per_second: REQUESTS,
            streams: 1000,
            watched_keys: 100_000,
        }
    }
}

impl LimitSettings {
    /// Descriptors that so many connections need, with what stores and files need besides.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        u64::from(self.connections) + 256
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshake: Duration::from_secs(5),
            in_flight: 4096,
            request_bytes: ByteSize::mib(4),
            request_timeout: Duration::from_secs(10),
            subscriptions: 64,
            tenants: 1024,
            decisions: ByteSize::kib(256),
        }
    }
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            format: LogFormat::Json,
            audit: String::new(),
            otlp_endpoint: String::new(),
            trace_share: 0.1,
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `file:line`, or the variable that said it.
    pub place: String,
    /// The dotted key, if it is about one.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a gateway cannot be run so. Everything that was found, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<Problem>);

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Settings {
    /// Reads and checks a file, with `variables` (the environment's) laid over it.
    pub fn load(file: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let name = file.display().to_string();
        let text = fs::read_to_string(file).map_err(|error| {
            SettingsError(vec![Problem {
                place: name.clone(),
                key: String::new(),
                message: format!("cannot be read: {error}"),
            }])
        })?;
        Self::parse(&name, &text, variables)
    }

    /// Reads and checks `text`, which came from `file`.
    pub fn parse(
        file: &str,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let variables: Vec<(String, String)> = variables.into_iter().collect();
        let document = Document::parse(file, text, &variables).map_err(SettingsError)?;
        let settings: Self = document.read().map_err(SettingsError)?;
        let mut problems = Vec::new();
        settings.check(&document, &mut problems);
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(problems))
        }
    }
}
