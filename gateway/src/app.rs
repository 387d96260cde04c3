//! The one place where the parts are put together: bind first, so that a port in use is told before anything starts;
//! then open, load and serve.

mod events;
mod reload;

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::registry::Registry as Metrics;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::backend::dynamodb::{self, DynamoDb};
use crate::backend::embedded::{self, Embedded};
use crate::backend::ssm::{self, ParameterSettings, ParameterStore};
use crate::backend::{AwsSettings, Backend, Catalog, NoRegion, Observed};
use crate::cache::{Cache, CacheMetrics, Sharing, Snapshot};
use crate::clock::Clock;
use crate::config::{Configs, PageTokens};
use crate::folder::{FolderError, PrivateFolder};
use crate::identity::{Identity, KeySets, KeysError};
use crate::placement::CachePolicy;
use crate::quota::Quotas;
use crate::server::{
    Admin, Administration, ConnectionMetrics, Door, Readiness, Services, serve_admin, serve_grpc, serve_ops,
};
use crate::settings::{
    BackendKind, BackendSettings, CacheSettings, IdentitySettings, KeyFile, Listen, Settings, Source,
};
use crate::status::{Part, Parts};
use crate::strategy::{self, Engine, Lifecycle, Made, Registry};
use crate::tls::{Certificates, TlsError};
use crate::watch::Hub;
use events::{Events, Replica};
use reload::Live;

pub use reload::Reload;

/// Shortest secret that page tokens are sealed with, in bytes.
const PAGE_TOKEN_KEY_BYTES: usize = 32;

/// In the folder for what outlives a restart: what was compiled.
const COMPILED: &str = "compiled";
/// Strategies of which the others are yet to be told. One more is found by their own look.
const PUBLISHED: usize = 16;

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be had.
    #[error("{key} = {address}: {error}; another gateway may run there: choose another address")]
    Bind {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The issuer's keys.
    #[error("identity.jwks: {0}")]
    Keys(#[from] KeysError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A store.
    #[error("backends.{id}.path = {path}: {error}", path = path.display())]
    Store {
        /// Which.
        id: String,
        /// Where.
        path: PathBuf,
        /// Why.
        error: embedded::OpenError,
    },
    /// A store whose place is not known.
    #[error("backends.{id}.region: {error}")]
    Region {
        /// Which.
        id: String,
        /// Why.
        error: NoRegion,
    },
    /// The events' place is not known.
    #[error("events.region: {0}")]
    EventsRegion(NoRegion),
    /// A folder of the gateway's own.
    #[error("{key} = {folder}: {error}", folder = folder.display())]
    Folder {
        /// The setting.
        key: &'static str,
        /// Where.
        folder: PathBuf,
        /// Why.
        error: FolderError,
    },
    /// The secret of page tokens.
    #[error("server.page_token_key = {path}: {problem}", path = path.display())]
    PageTokenKey {
        /// Where.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// This machine.
    #[error("{0}")]
    Machine(String),
}

/// A gateway that is bound and loaded, and serves once it is [run](Self::run).
pub struct App {
    settings: Settings,
    grpc: TcpListener,
    admin: Option<TcpListener>,
    ops: Option<TcpListener>,
    keys: Arc<KeySets>,
    identity: Arc<Identity>,
    lifecycle: Arc<Lifecycle>,
    configs: Arc<Configs>,
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    events: Events,
    administration: Administration,
    snapshot: Option<Snapshot>,
    /// How the settings do.
    read: Part,
    quotas: Arc<Quotas>,
    certificates: Option<Arc<Certificates>>,
    /// How they do.
    tls: Option<Part>,
}

impl App {
    /// Binds, opens and loads everything that the settings name.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::system();
        let grpc = bind("server.listen", settings.server.listen).await?;
        let ops = bind_if("server.ops_listen", settings.server.ops_listen).await?;
        // The same address is the same listener.
        let admin = if settings.server.admin_is_with_tenants() {
            None
        } else {
            bind_if("server.admin_listen", settings.server.admin_listen).await?
        };
        let certificates = certificates(&settings)?;
        let keys = KeySets::open(&settings.identity).await?;
        let identity = Arc::new(Identity::new(&settings.identity, Arc::clone(&keys), clock.clone()));
        let parts = Parts::new(clock.clone());
        let catalog = open_catalog(&settings, &parts, &clock).await?;
        let page_tokens = page_tokens(&settings, &clock)?;
        let cache = cache(&settings);
        let snapshot = snapshot(&settings, &cache, &clock)?;
        let hub = Hub::new(Arc::clone(&cache));
        let look = Arc::new(Notify::new());
        let (publish, published) = mpsc::channel(PUBLISHED);
        let made = Made {
            engine: engine(settings.server.state())?,
            catalog: strategy_catalog(&settings),
            stores: catalog.clone(),
            cache: Arc::clone(&cache),
            hub: Arc::clone(&hub),
            limits: settings.limits.clone(),
            clock: clock.clone(),
            part: parts.part("state", true, ""),
            look: Arc::clone(&look),
            publish,
        };
        let state = settings.server.state();
        let lifecycle = Lifecycle::open(made, &settings.strategies, state).await;
        let lifecycle = lifecycle.map_err(|error| StartError::Folder {
            key: "server.state",
            folder: state.unwrap_or(Path::new("")).to_owned(),
            error,
        })?;
        let registry = Arc::clone(lifecycle.registry());
        let read = parts.part("settings", true, "");
        let tls = certificates.as_ref().map(|certificates| {
            let part = parts.part("tls", true, "");
            part.is_ready(&until(certificates));
            part
        });
        let replica: Arc<str> = Ulid::from_datetime(clock.now()).to_string().into();
        let made_of = Replica {
            name: Arc::clone(&replica),
            settings: &settings,
            catalog: &catalog,
            cache: &cache,
            hub: &hub,
            parts: &parts,
            strategies: &look,
            clock: &clock,
        };
        let events = Events::open(&made_of, published).await?;
        let admins = Identity::new(&admins(&settings.identity), Arc::clone(&keys), clock.clone());
        let configs = Arc::new(Configs::new(
            Arc::clone(&registry),
            catalog,
            page_tokens,
            Arc::clone(&cache),
        ));
        let administration = Administration {
            admin: Arc::new(Admin {
                replica,
                parts,
                lifecycle: Arc::clone(&lifecycle),
                configs: Arc::clone(&configs),
                dispatch: Arc::clone(events.dispatch()),
                cache: Arc::clone(&cache),
                hub: Arc::clone(&hub),
                started: Instant::now(),
            }),
            identity: Arc::new(admins),
        };
        let quotas = Quotas::new(&settings.quota, settings.limits.in_flight);
        Ok(Self {
            settings,
            grpc,
            admin,
            ops,
            keys,
            identity,
            lifecycle,
            configs,
            cache,
            hub,
            events,
            administration,
            snapshot,
            read,
            quotas,
            certificates,
            tls,
        })
    }

    /// Where it listens for gRPC.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `stop`, and then until what is under way is done, or `server.drain` is over.
    /// `reload` says where settings are to be read again meanwhile.
    pub async fn run(self, stop: CancellationToken, reload: Option<Reload>) -> Result<(), StartError> {
        let ops_address = self
            .ops_address()
            .map(|address| address.to_string())
            .unwrap_or_default();
        let address = self.address().map(|address| address.to_string()).unwrap_or_default();
        let keys = Arc::clone(&self.keys);
        let refresher = tokio::spawn(async move { keys.run().await });
        let hub = self.hub;
        let telling = {
            let hub = Arc::clone(&hub);
            tokio::spawn(async move { hub.run().await })
        };
        let readiness = Readiness::new(Arc::clone(self.lifecycle.registry()), stop.clone());
        // Operators are answered until the very end, so that a probe sees the draining.
        let over = CancellationToken::new();
        let mut metrics = Metrics::with_prefix("tagway");
        metrics.register_collector(Box::new(CacheMetrics(Arc::clone(&self.cache))));
        hub.metrics().register(&mut metrics);
        self.events.register(&mut metrics);
        let connections = ConnectionMetrics::default();
        connections.register(&mut metrics);
        let events = self.events.run(stop.clone());
        let reloading = reload.map(|reload| {
            let live = Live {
                lifecycle: Arc::clone(&self.lifecycle),
                quotas: Arc::clone(&self.quotas),
                certificates: self.certificates.clone().zip(self.tls),
                part: self.read,
            };
            tokio::spawn(reload.run(self.settings.clone(), live))
        });
        let lifecycle = tokio::spawn(self.lifecycle.run(stop.clone()));
        let Settings { server, limits, .. } = &self.settings;
        let ops = self.ops.map(|listener| {
            let door = Door::probes(server, limits, &connections);
            tokio::spawn(serve_ops(listener, door, readiness.clone(), metrics, over.clone()))
        });
        let snapshots = self
            .snapshot
            .map(|snapshot| tokio::spawn(snapshot.run(Arc::clone(&self.cache), over.clone())));
        let services = Services {
            identity: self.identity,
            configs: self.configs,
            hub,
            quotas: Arc::clone(&self.quotas),
            admin: server.admin_is_with_tenants().then(|| self.administration.clone()),
        };
        let admin_address = self.admin.as_ref().and_then(|listener| listener.local_addr().ok());
        let admin = async {
            match self.admin {
                None => pending().await,
                // To the very end, so that operators see the draining.
                Some(listener) => {
                    let door = Door::operators(server, limits, self.certificates.clone(), &connections);
                    serve_admin(listener, door, server, limits, self.administration, over.clone()).await
                }
            }
        };
        let door = Door::tenants(server, limits, self.certificates.clone(), &connections);
        let grpc = serve_grpc(self.grpc, door, server, limits, services, stop.clone());
        let drain = self.settings.server.drain;
        // The last twentieths are for what comes after the requests.
        let last = drain / 20;
        let requests = drain.saturating_sub(2 * last);
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(requests).await;
        };
        readiness.start();
        tracing::info!(
            address,
            ops = ops_address,
            admin = admin_address.map(|address| address.to_string()),
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
        let ended_by = tokio::select! {
            ended_by = admin => ended_by.map_err(|error| StartError::Machine(error.to_string())),
            ended_by = grpc => ended_by.map_err(|error| StartError::Machine(error.to_string())),
            () = overdue => {
                tracing::warn!(?drain, "requests were still under way when the time to drain was over");
                Ok(())
            }
        };
        refresher.abort();
        telling.abort();
        if let Some(reloading) = reloading {
            reloading.abort();
        }
        over.cancel();
        events.finish(last).await;
        _ = timeout(last, lifecycle).await;
        if let Some(ops) = ops {
            // A probe that never reads its answer does not keep the process.
            _ = timeout(last, ops).await;
        }
        if let Some(snapshots) = snapshots {
            // What was written before is whole, whatever becomes of this one.
            _ = timeout(last, snapshots).await;
        }
        ended_by
    }
}

/// What strategies learn of the operator's stores; without opening any.
#[must_use]
pub fn strategy_catalog(settings: &Settings) -> Vec<strategy::Backend> {
    settings
        .backends
        .iter()
        .map(|(id, backend)| strategy::Backend {
            id: id.as_str().into(),
            kind: backend.kind.to_string(),
            max_value_bytes: match backend.kind {
                BackendKind::Embedded => embedded::CAPABILITIES.max_value_bytes,
                BackendKind::DynamoDb => dynamodb::CAPABILITIES.max_value_bytes,
                BackendKind::Ssm => ssm::CAPABILITIES.max_value_bytes,
            },
            attributes: backend.attributes.clone().into_iter().collect(),
        })
        .collect()
}

/// What `tagway check` does beyond reading the settings: looks at the files that they name and loads the strategies.
/// It opens no store and asks nobody.
pub async fn check(settings: &Settings) -> Result<Registry, StartError> {
    if let Some(Source::File(_)) = settings.identity.jwks {
        KeySets::open(&settings.identity).await?;
    }
    page_tokens(settings, &Clock::system())?;
    certificates(settings)?;
    load_strategies(settings).await
}

pub(crate) async fn load_strategies(settings: &Settings) -> Result<Registry, StartError> {
    let catalog = strategy_catalog(settings);
    Ok(Registry::load(&engine(None)?, &settings.strategies, &settings.limits, &catalog).await)
}

/// What runs strategies; it keeps what it compiled in the folder for what outlives a restart, if there is one.
fn engine(state: Option<&Path>) -> Result<Engine, StartError> {
    let engine = match state {
        None => Engine::new(),
        Some(state) => {
            let compiled = PrivateFolder::open(state).and_then(|_| PrivateFolder::open(&state.join(COMPILED)));
            let compiled = compiled.map_err(|error| StartError::Folder {
                key: "server.state",
                folder: state.to_owned(),
                error,
            })?;
            Engine::that_keeps(&compiled)
        }
    };
    engine.map_err(|error| StartError::Machine(format!("no engine for strategies: {error:#}")))
}

fn certificates(settings: &Settings) -> Result<Option<Arc<Certificates>>, TlsError> {
    settings.server.tls.as_ref().map(Certificates::open).transpose()
}

/// For operators.
fn until(certificates: &Certificates) -> String {
    format!(
        "good until {}",
        humantime::format_rfc3339_seconds(certificates.expires())
    )
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Bind { key, address, error })
}

async fn bind_if(key: &'static str, listen: Listen) -> Result<Option<TcpListener>, StartError> {
    match listen {
        Listen::Nowhere => Ok(None),
        Listen::At(address) => Ok(Some(bind(key, address).await?)),
    }
}

/// Whose tokens `AdminService` believes.
fn admins(identity: &IdentitySettings) -> IdentitySettings {
    let mut admins = identity.clone();
    if !admins.admin_audiences.is_empty() {
        admins.audiences.clone_from(&identity.admin_audiences);
    }
    admins
}

async fn open_catalog(settings: &Settings, parts: &Parts, clock: &Clock) -> Result<Catalog, StartError> {
    let mut backends: BTreeMap<Arc<str>, Arc<dyn Backend>> = BTreeMap::new();
    for (id, backend) in &settings.backends {
        let store = open(id, backend, settings.limits.tenants, clock).await?;
        let part = parts.part(&format!("backend:{id}"), true, "");
        backends.insert(id.as_str().into(), Arc::new(Observed::new(store, part)));
    }
    Ok(Catalog::new(backends))
}

async fn open(
    id: &str,
    backend: &BackendSettings,
    tenants: u32,
    clock: &Clock,
) -> Result<Arc<dyn Backend>, StartError> {
    let no_region = |error| StartError::Region {
        id: id.to_owned(),
        error,
    };
    match (backend.kind, &backend.path, &backend.table) {
        (BackendKind::Embedded, Some(path), _) => {
            let store = Embedded::open(path, backend.history(), clock.clone());
            let store = store.map_err(|error| StartError::Store {
                id: id.to_owned(),
                path: path.clone(),
                error,
            })?;
            Ok(Arc::new(store))
        }
        (BackendKind::DynamoDb, _, Some(table)) => {
            let store = DynamoDb::open(at_aws(id, backend, tenants), table, backend.history_ttl, clock.clone());
            Ok(Arc::new(store.await.map_err(no_region)?))
        }
        (BackendKind::Ssm, ..) => {
            let parameters = ParameterSettings {
                root: backend.root().to_owned(),
                kms_key: backend.kms_key.clone(),
                requests_per_second: backend.requests_per_second(),
                list_names: backend.list_names(),
            };
            let store = ParameterStore::open(at_aws(id, backend, tenants), parameters);
            Ok(Arc::new(store.await.map_err(no_region)?))
        }
        // Settings that lack what their kind needs do not resolve.
        (kind, ..) => Err(StartError::Machine(format!(
            "backends.{id}: a store of the kind {kind} lacks its place"
        ))),
    }
}

/// How a backend at AWS is reached, for so many tenants.
#[must_use]
pub fn at_aws(id: &str, backend: &BackendSettings, tenants: u32) -> AwsSettings {
    AwsSettings {
        id: id.into(),
        region: backend.region.clone(),
        endpoint_url: backend.endpoint_url.clone(),
        sts_endpoint_url: backend.sts_endpoint_url.clone(),
        tenant_role: backend.tenant_role.clone(),
        timeout: backend.timeout(),
        in_flight: backend.in_flight(),
        tenants,
    }
}

fn cache(settings: &Settings) -> Arc<Cache> {
    let CacheSettings {
        ttl,
        stale,
        negative,
        max_ttl,
        max_stale,
        ..
    } = settings.cache;
    let otherwise = CachePolicy { ttl, stale, negative };
    let most = CachePolicy {
        ttl: max_ttl,
        stale: max_stale,
        negative: max_ttl,
    };
    let sharing = Sharing {
        look_again: Some(settings.events.sweep),
        tells: settings.events.publish(),
    };
    Cache::shared(settings.cache.max_bytes.0, otherwise, most, sharing)
}

/// What was last known good, in `cache`, if settings say where it is.
fn snapshot(settings: &Settings, cache: &Cache, clock: &Clock) -> Result<Option<Snapshot>, StartError> {
    let Some(folder) = settings.cache.snapshot() else {
        return Ok(None);
    };
    let of_store = |(id, backend): (&String, &BackendSettings)| {
        let BackendSettings { kind, path, table, .. } = backend;
        let at = (&backend.region, &backend.endpoint_url, backend.root());
        format!("{id} {kind} {path:?} {table:?} {at:?}\n")
    };
    let shape: String = settings.backends.iter().map(of_store).collect();
    let private = PrivateFolder::open(folder).map_err(|error| StartError::Folder {
        key: "cache.snapshot",
        folder: folder.to_owned(),
        error,
    })?;
    let snapshot = Snapshot::new(private, &shape, clock.clone());
    match snapshot.restore(cache) {
        Ok(places) => tracing::info!(places, "what was last known good is there, should a store be away"),
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "cache.snapshot is ignored"),
    }
    Ok(Some(snapshot))
}

fn page_tokens(settings: &Settings, clock: &Clock) -> Result<PageTokens, StartError> {
    let broken = |_| StartError::Machine("no random numbers or no AES".to_owned());
    let Some(KeyFile(path)) = &settings.server.page_token_key else {
        let mut secret = [0; PAGE_TOKEN_KEY_BYTES];
        aws_lc_rs::rand::fill(&mut secret).map_err(broken)?;
        return PageTokens::new(&secret, clock.clone()).map_err(broken);
    };
    let problem = |problem: String| StartError::PageTokenKey {
        path: path.clone(),
        problem,
    };
    let secret = fs::read(path).map_err(|error| problem(error.to_string()))?;
    if secret.len() < PAGE_TOKEN_KEY_BYTES {
        return Err(problem(format!(
            "a file of at least {PAGE_TOKEN_KEY_BYTES} secret bytes"
        )));
    }
    PageTokens::new(&secret, clock.clone()).map_err(broken)
}
