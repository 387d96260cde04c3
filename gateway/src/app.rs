//! The one place where the parts are put together: bind first, so that a port in use is told before anything starts;
//! then open, load and serve.

mod error;
mod events;
mod listeners;
mod metrics;
mod reload;
mod stores;

use std::fs;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::OptionFuture;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

use crate::audit::Audit;
use crate::backend::BackendMetrics;
use crate::backend::dynamodb::{self};
use crate::backend::embedded::{self};
use crate::backend::ssm::{self};
use crate::cache::{Cache, Snapshot};
use crate::clock::Clock;
use crate::config::{Configs, PageTokens};
use crate::folder::PrivateFolder;
use crate::identity::{KeySets, Verifier};
use crate::quota::Quotas;
use crate::server::{Admin, Administration, Door, Readiness, Services, serve_admin, serve_grpc, serve_ops};
use crate::settings::{BackendKind, IdentitySettings, KeyFile, Settings, Source};
use crate::status::{Part, Parts};
use crate::strategy::{self, Engine, Lifecycle, Made, Registry};
use crate::tls::{Certificates, TlsError};
use crate::watch::Hub;
use events::{Events, Replica};
use listeners::Listeners;
use metrics::Gathered;
use reload::Live;
use stores::{cache, open_catalog, snapshot};

pub use error::StartError;
pub(crate) use events::at_aws as events_at_aws;
pub(crate) use listeners::bound;
pub use reload::Reload;
pub use stores::at_aws;

/// Shortest secret that page tokens are sealed with, in bytes.
const PAGE_TOKEN_KEY_BYTES: usize = 32;

/// In the folder for what outlives a restart: what was compiled.
const COMPILED: &str = "compiled";
/// Strategies of which the others are yet to be told. One more is found by their own look.
const PUBLISHED: usize = 16;

/// A gateway that is bound and loaded, and serves once it is [run](Self::run).
pub struct App {
    settings: Settings,
    listeners: Listeners,
    keys: Arc<KeySets>,
    verifier: Arc<Verifier>,
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
    /// And how they do.
    certificates: Option<(Arc<Certificates>, Part)>,
    /// How the issuer's keys do.
    issuer: Part,
    metrics: Gathered,
    audit: Arc<Audit>,
}

impl App {
    /// Binds, opens and loads everything that the settings name.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::system();
        let listeners = Listeners::bind(&settings.server)?;
        let parts = Parts::new(clock.clone());
        let certificates = open_certificates(&settings, &parts)?;
        let keys = KeySets::open(&settings.identity).await?;
        let verifier = Arc::new(Verifier::new(&settings.identity, Arc::clone(&keys), clock.clone()));
        let stores = BackendMetrics::default();
        let (catalog, backups) = open_catalog(&settings, &parts, &stores, &clock).await?;
        let page_tokens = page_tokens(&settings, &clock)?;
        let cache = cache(&settings);
        let snapshot = snapshot(&settings, &cache, &clock)?;
        let hub = Hub::new(Arc::clone(&cache));
        let look = Arc::new(Notify::new());
        let (publish, published) = mpsc::channel(PUBLISHED);
        let engine = engine(settings.server.state())?;
        let calls = engine.metrics().clone();
        let made = Made {
            engine,
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
        let lifecycle = open_lifecycle(made, &settings).await?;
        let registry = Arc::clone(lifecycle.registry());
        let read = parts.part("settings", true, "");
        let issuer = parts.part("keys", !keys.current().is_away(), "");
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
        let admins = Verifier::new(&admins(&settings.identity), Arc::clone(&keys), clock.clone());
        let configs = Arc::new(Configs::new(
            Arc::clone(&registry),
            catalog,
            page_tokens,
            Arc::clone(&cache),
        ));
        let audit = open_audit(&settings, &replica, &parts, &clock)?;
        let metrics = metrics::gather(&metrics::Sources {
            settings: &settings,
            parts: &parts,
            cache: &cache,
            certificates: certificates.as_ref().map(|(certificates, _)| certificates),
            stores: &stores,
            calls: &calls,
            registry: &registry,
            hub: &hub,
            events: &events,
            audit: &audit,
        });
        let operators = Admin {
            replica,
            parts,
            lifecycle: Arc::clone(&lifecycle),
            configs: Arc::clone(&configs),
            dispatch: Arc::clone(events.dispatch()),
            cache: Arc::clone(&cache),
            hub: Arc::clone(&hub),
            backups,
            started: Instant::now(),
            audit: Arc::clone(&audit),
        };
        let administration = Administration::new(Arc::new(operators), Arc::new(admins), metrics.requests.clone());
        let quotas = Quotas::new(&settings.quota);
        Ok(Self {
            settings,
            listeners,
            keys,
            verifier,
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
            issuer,
            metrics,
            audit,
        })
    }

    /// Where it listens for gRPC.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listeners.address()
    }

    /// Serves until `stop`, and then until what is under way is done, or `server.drain` is over.
    /// `reload` says where settings are to be read again meanwhile.
    pub async fn run(self, stop: CancellationToken, reload: Option<Reload>) -> Result<(), StartError> {
        let keys = Arc::clone(&self.keys);
        let issuer = self.issuer;
        let _refreshing = AbortOnDropHandle::new(tokio::spawn(async move { keys.run(&issuer).await }));
        let hub = self.hub;
        let _telling = {
            let hub = Arc::clone(&hub);
            AbortOnDropHandle::new(tokio::spawn(async move { hub.run().await }))
        };
        let registry = Arc::clone(self.lifecycle.registry());
        let readiness = Readiness::new(registry, Arc::clone(&self.keys), stop.clone());
        // Operators are answered until the very end, so that a probe sees the draining.
        let over = CancellationToken::new();
        let events = self.events.run(stop.clone());
        let _reloading = reload.map(|reload| {
            let live = Live {
                lifecycle: Arc::clone(&self.lifecycle),
                quotas: Arc::clone(&self.quotas),
                certificates: self.certificates.clone(),
                part: self.read,
            };
            AbortOnDropHandle::new(tokio::spawn(reload.run(self.settings.clone(), live)))
        });
        let _following = {
            let (audit, registry) = (Arc::clone(&self.audit), Arc::clone(self.lifecycle.registry()));
            AbortOnDropHandle::new(tokio::spawn(async move { audit.follow(&registry).await }))
        };
        let lifecycle = tokio::spawn(self.lifecycle.run(stop.clone()));
        let Settings { server, limits, .. } = &self.settings;
        readiness.start();
        // Connections wait from when it was bound.
        self.listeners.tell();
        let Listeners { grpc, admin, ops } = self.listeners;
        let certificates = self.certificates.map(|(certificates, _)| certificates);
        let ops = ops.map(|listener| {
            let door = Door::probes(server, limits, &self.metrics.connections);
            tokio::spawn(serve_ops(
                listener,
                door,
                readiness,
                self.metrics.registry,
                over.clone(),
            ))
        });
        let snapshots = self
            .snapshot
            .map(|snapshot| tokio::spawn(snapshot.run(Arc::clone(&self.cache), over.clone())));
        let services = Services {
            verifier: self.verifier,
            configs: self.configs,
            hub,
            quotas: Arc::clone(&self.quotas),
            metrics: self.metrics.requests,
            audit: self.audit,
            admin: server.admin_is_with_tenants().then(|| self.administration.clone()),
        };
        let administration = self.administration.clone();
        let admin = async {
            match admin {
                None => pending().await,
                // To the very end, so that operators see the draining.
                Some(listener) => {
                    let door = Door::operators(server, limits, certificates.clone(), &self.metrics.connections);
                    serve_admin(listener, door, server, limits, self.administration, over.clone()).await
                }
            }
        };
        let door = Door::tenants(server, limits, certificates.clone(), &self.metrics.connections);
        let grpc = async {
            let ended_by = serve_grpc(grpc, door, server, limits, services, stop.clone()).await;
            // What an operator began is not cut off either.
            administration.ended().await;
            ended_by
        };
        let drain = self.settings.server.drain;
        let last = self.settings.server.drain_step();
        let requests = drain.saturating_sub(3 * last);
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(requests).await;
        };
        let ended_by = tokio::select! {
            ended_by = admin => ended_by.map_err(|error| StartError::Machine(error.to_string())),
            ended_by = grpc => ended_by.map_err(|error| StartError::Machine(error.to_string())),
            () = overdue => {
                tracing::warn!(?drain, "requests were still under way when the time to drain was over");
                Ok(())
            }
        };
        over.cancel();
        // A probe that never reads its answer does not keep the process. What was written of a snapshot before is whole, whatever becomes
        // of this one.
        let ends = async {
            tokio::join!(
                events.finish(),
                lifecycle,
                OptionFuture::from(ops),
                OptionFuture::from(snapshots)
            )
        };
        _ = timeout(last, ends).await;
        ended_by
    }
}

fn open_audit(settings: &Settings, replica: &Arc<str>, parts: &Parts, clock: &Clock) -> Result<Arc<Audit>, StartError> {
    let Some(to) = settings.telemetry.audit() else {
        return Ok(Arc::new(Audit::none()));
    };
    let part = parts.part("audit", true, "");
    Ok(Arc::new(Audit::open(
        &to,
        settings.limits.in_flight,
        Arc::clone(replica),
        part,
        clock.clone(),
    )?))
}

async fn open_lifecycle(made: Made, settings: &Settings) -> Result<Arc<Lifecycle>, StartError> {
    let state = settings.server.state();
    let opened = Lifecycle::open(made, &settings.strategies, state).await;
    opened.map_err(|error| StartError::Folder {
        key: "server.state",
        folder: state.unwrap_or(Path::new("")).to_owned(),
        error,
    })
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
    settings.server.tls.as_ref().map(Certificates::open).transpose()?;
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

/// Whose tokens `AdminService` believes.
fn admins(identity: &IdentitySettings) -> IdentitySettings {
    let mut admins = identity.clone();
    if !admins.admin_audiences.is_empty() {
        admins.audiences.clone_from(&identity.admin_audiences);
    }
    admins
}

pub(crate) fn page_tokens(settings: &Settings, clock: &Clock) -> Result<PageTokens, StartError> {
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

/// With how they do.
fn open_certificates(settings: &Settings, parts: &Parts) -> Result<Option<(Arc<Certificates>, Part)>, TlsError> {
    let Some(tls) = &settings.server.tls else {
        return Ok(None);
    };
    let certificates = Certificates::open(tls)?;
    let part = parts.part("tls", true, "");
    say(&certificates, &part);
    Ok(Some((certificates, part)))
}

/// Tells operators how they do.
fn say(certificates: &Certificates, part: &Part) {
    if certificates.is_good(Clock::system().now()) {
        part.is_ready(&until(certificates));
    } else {
        part.is_away(&format!(
            "no client believes the certificate now: {}",
            until(certificates)
        ));
    }
}

fn until(certificates: &Certificates) -> String {
    format!(
        "good until {}",
        humantime::format_rfc3339_seconds(certificates.expires())
    )
}
