//! `AdminService`: what platform teams ask of one replica. It shows and changes nothing of any tenant's values.

use std::collections::HashSet;
use std::sync::Arc;

use prost_types::Timestamp;
use tagway_proto::v1;
use tagway_proto::v1::admin_service_server::AdminService;
use tagway_proto::v1::get_status_response::Part;
use tagway_proto::v1::list_watchers_response::Watcher;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::backup;
use super::peer::Peer;
use super::status::{self, invalid};
use super::strategies;
use crate::audit::{Audit, Outcome, Record as Written};
use crate::backend::embedded::Backups;
use crate::cache::Cache;
use crate::config::Configs;
use crate::event::Dispatch;
use crate::identity::Administrator;
use crate::key::{KEY_BYTES, TenantId};
use crate::status::Parts;
use crate::strategy::{Lifecycle, Mode};
use crate::watch::{Hub, Watching};

/// Most keys of one call.
const KEYS: usize = 1000;
/// Watchers of a page, unless it says, and at most.
const WATCHERS: usize = 100;
const MOST_WATCHERS: usize = 1000;

/// What operators may look at and do.
pub struct Admin {
    /// The replica's name, unique among all there ever were.
    pub replica: Arc<str>,
    /// How each part does.
    pub parts: Parts,
    /// The strategies.
    pub lifecycle: Arc<Lifecycle>,
    /// What tenants ask for.
    pub configs: Arc<Configs>,
    /// What takes events.
    pub dispatch: Arc<Dispatch>,
    /// What is near.
    pub cache: Arc<Cache>,
    /// Who watches.
    pub hub: Arc<Hub>,
    /// What can be backed up.
    pub backups: Backups,
    /// When it started.
    pub started: Instant,
    /// Where what they do is written down.
    pub audit: Arc<Audit>,
}

pub(super) struct AdminServiceImpl(pub(super) Arc<Admin>);

/// Who asks, and from where.
pub(super) struct By {
    subject: Option<Arc<str>>,
    pub(super) peer: String,
}

impl By {
    fn of<T>(request: &Request<T>) -> Self {
        let peer = request.extensions().get::<Peer>();
        let by = request.extensions().get::<Administrator>();
        Self {
            subject: by.map(|by| Arc::clone(by.subject())),
            peer: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
        }
    }

    pub(super) fn subject(&self) -> &str {
        self.subject.as_deref().unwrap_or_default()
    }
}

impl Admin {
    /// Has what is near of these keys looked at again, of one tenant or all; of all keys, if there are none. Returns how much that is.
    fn refresh(&self, tenant: Option<&TenantId>, keys: &HashSet<String>) -> u64 {
        let Self {
            configs, cache, hub, ..
        } = self;
        let kept = cache.places_of(tenant, keys);
        let watched = if keys.is_empty() {
            hub.compare_anew(tenant);
            HashSet::new()
        } else {
            hub.places_of(tenant, keys)
        };
        for place in kept.union(&watched) {
            cache.doubt(place, configs.reads_lag(&place.backend));
        }
        kept.len() as u64
    }
}

impl AdminServiceImpl {
    /// Does what takes a while or waits for a disk, and not on the runtime's threads.
    async fn blocking<T: Send + 'static>(&self, does: impl FnOnce(&Admin) -> T + Send + 'static) -> Result<T, Status> {
        let admin = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || does(&admin)).await;
        done.map_err(|panic| status::status(Code::Internal, "INTERNAL", panic.to_string()))
    }

    /// Has somebody do something to a strategy, and writes down who did: to the end, whether or not somebody waits for the answer.
    async fn done<T: Send + 'static>(
        &self,
        what: &'static str,
        by: By,
        name: String,
        does: impl Future<Output = Result<T, Status>> + Send + 'static,
        did: fn(&T) -> Option<v1::Strategy>,
    ) -> Result<Response<T>, Status> {
        let admin = Arc::clone(&self.0);
        let done = tokio::spawn(async move {
            let place = admin.audit.reserve().await.map_err(status::unaudited)?;
            let answer = does.await;
            let strategy = answer.as_ref().ok().and_then(did).unwrap_or_default();
            let (outcome, reason) = match &answer {
                Ok(_) if strategy.state == v1::strategy::State::Rejected as i32 => {
                    (Outcome::Refused, strategy.rejected_reason)
                }
                Ok(_) => (Outcome::Done, String::new()),
                Err(error) => {
                    let reason = error.get_details_error_info().map(|info| info.reason);
                    let outcome = match error.code() {
                        Code::Unavailable => Outcome::Unknown,
                        _ => Outcome::Refused,
                    };
                    (outcome, reason.unwrap_or_default())
                }
            };
            let record = Written {
                reason: &reason,
                subject: by.subject(),
                peer: &by.peer,
                strategy: &name,
                digest: &strategy.digest,
                generation: strategy.generation,
                ..Written::new(what, outcome)
            };
            place.done(record).await.map_err(status::unaudited)?;
            answer.map(Response::new)
        });
        done.await
            .unwrap_or_else(|_| Err(status::internal("what was asked for broke down")))
    }
}

#[tonic::async_trait]
impl AdminService for AdminServiceImpl {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let Admin {
            replica,
            parts,
            lifecycle,
            started,
            ..
        } = &*self.0;
        let parts = parts.all().into_iter().map(|(name, part)| Part {
            name: name.to_string(),
            ready: part.ready,
            detail: part.detail,
            since: Some(Timestamp::from(part.since)),
        });
        let snapshot = lifecycle.registry().current();
        let strategies = snapshot.states().map(|(name, state)| Part {
            name: format!("strategy:{name}"),
            ready: state.is_ok(),
            detail: state.unwrap_or_else(|problem| problem),
            since: None,
        });
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: started.elapsed().try_into().ok(),
            parts: parts.chain(strategies).collect(),
            replica: replica.to_string(),
        }))
    }

    async fn refresh_configs(
        &self,
        request: Request<v1::RefreshConfigsRequest>,
    ) -> Result<Response<v1::RefreshConfigsResponse>, Status> {
        let by = By::of(&request);
        let v1::RefreshConfigsRequest { tenant, keys, event } = request.into_inner();
        if !event.is_empty() {
            if !tenant.is_empty() || !keys.is_empty() {
                return Err(invalid("event", "in place of tenant and keys, and not with them"));
            }
            let heard = self.0.dispatch.hear(&event);
            let refreshed = heard.map_err(|unreadable| invalid("event", unreadable))?;
            return Ok(Response::new(v1::RefreshConfigsResponse { refreshed }));
        }
        let tenant = tenant_if_any(&tenant)?;
        if keys.len() > KEYS {
            return Err(invalid("keys", format!("{} keys; at most {KEYS}", keys.len())));
        }
        if let Some(key) = keys.iter().find(|key| key.is_empty() || key.len() > KEY_BYTES) {
            return Err(invalid("keys", format!("one of {} bytes; 1 to {KEY_BYTES}", key.len())));
        }
        let keys: HashSet<String> = keys.into_iter().collect();
        let refreshed = self
            .blocking(move |admin| admin.refresh(tenant.as_ref(), &keys))
            .await?;
        tracing::info!(
            by = by.subject(),
            refreshed,
            "what was near is looked at again, because an operator asked for it"
        );
        Ok(Response::new(v1::RefreshConfigsResponse { refreshed }))
    }

    async fn list_strategies(
        &self,
        _: Request<v1::ListStrategiesRequest>,
    ) -> Result<Response<v1::ListStrategiesResponse>, Status> {
        let records = self.0.lifecycle.records().into_iter();
        Ok(Response::new(v1::ListStrategiesResponse {
            strategies: records
                .map(|(record, mode)| strategies::message(record, mode))
                .collect(),
        }))
    }

    async fn activate_strategy(
        &self,
        request: Request<v1::ActivateStrategyRequest>,
    ) -> Result<Response<v1::ActivateStrategyResponse>, Status> {
        let by = By::of(&request);
        let activation = strategies::activation(request.into_inner())?;
        tracing::info!(
            by = by.subject(),
            strategy = activation.name,
            "an operator asks for another version of a strategy"
        );
        let (name, is_dry) = (activation.name.clone(), activation.validate_only);
        let lifecycle = Arc::clone(&self.0.lifecycle);
        let activated = {
            let name = name.clone();
            async move {
                let activated = lifecycle.activate(activation).await.map_err(strategies::undone)?;
                Ok(strategies::activated(activated, lifecycle.mode(&name)))
            }
        };
        if is_dry {
            return activated.await.map(Response::new);
        }
        self.done("ActivateStrategy", by, name, activated, |answer| {
            answer.strategy.clone()
        })
        .await
    }

    async fn rollback_strategy(
        &self,
        request: Request<v1::RollbackStrategyRequest>,
    ) -> Result<Response<v1::RollbackStrategyResponse>, Status> {
        let by = By::of(&request);
        let v1::RollbackStrategyRequest { name, generation } = request.into_inner();
        tracing::info!(
            by = by.subject(),
            strategy = name,
            "an operator asks for the version before"
        );
        let generation = Some(generation).filter(|generation| *generation != 0);
        let lifecycle = Arc::clone(&self.0.lifecycle);
        let rolled_back = {
            let name = name.clone();
            async move {
                let record = lifecycle
                    .roll_back(&name, generation)
                    .await
                    .map_err(strategies::undone)?;
                Ok(v1::RollbackStrategyResponse {
                    strategy: Some(strategies::message(record, lifecycle.mode(&name))),
                })
            }
        };
        self.done("RollbackStrategy", by, name, rolled_back, |answer| {
            answer.strategy.clone()
        })
        .await
    }

    async fn set_strategy_mode(
        &self,
        request: Request<v1::SetStrategyModeRequest>,
    ) -> Result<Response<v1::SetStrategyModeResponse>, Status> {
        let by = By::of(&request);
        let request = request.into_inner();
        let mode = strategies::mode(request.mode())?;
        tracing::info!(
            by = by.subject(),
            strategy = request.name,
            ?mode,
            "an operator says how a strategy is to change"
        );
        let lifecycle = Arc::clone(&self.0.lifecycle);
        let name = request.name.clone();
        let set = async move {
            let record = lifecycle
                .set_mode(&request.name, mode)
                .await
                .map_err(strategies::undone)?;
            Ok(v1::SetStrategyModeResponse {
                strategy: record.map(|record| strategies::message(record, mode)),
            })
        };
        let what = match mode {
            Mode::Follow => "FollowStrategy",
            Mode::Pinned => "PinStrategy",
            Mode::Disabled => "DisableStrategy",
        };
        self.done(what, by, name, set, |answer| answer.strategy.clone()).await
    }

    async fn list_watchers(
        &self,
        request: Request<v1::ListWatchersRequest>,
    ) -> Result<Response<v1::ListWatchersResponse>, Status> {
        let v1::ListWatchersRequest {
            tenant,
            page_size,
            page_token,
            key,
        } = request.into_inner();
        let tenant = tenant_if_any(&tenant)?;
        let size = match usize::try_from(page_size) {
            Ok(0) => WATCHERS,
            Ok(size) => size.min(MOST_WATCHERS),
            Err(_) => return Err(invalid("page_size", "not less than 0")),
        };
        let after = match &*page_token {
            "" => 0,
            token => token
                .parse()
                .map_err(|_| invalid("page_token", "not one that this call gave"))?,
        };
        let key = Some(key.as_str()).filter(|key| !key.is_empty());
        let (watching, is_more) = self.0.hub.roster().page(after, size, tenant.as_ref(), key);
        let last = watching.last().map(|last| last.number.to_string());
        Ok(Response::new(v1::ListWatchersResponse {
            watchers: watching.into_iter().map(watcher).collect(),
            next_page_token: last.filter(|_| is_more).unwrap_or_default(),
        }))
    }

    type BackupStoreStream = backup::Progress;

    async fn backup_store(
        &self,
        request: Request<v1::BackupStoreRequest>,
    ) -> Result<Response<Self::BackupStoreStream>, Status> {
        let by = By::of(&request);
        let backend = request.into_inner().backend;
        let backup = self.blocking(move |admin| admin.backups.begin(&backend)).await?;
        let backup = backup.map_err(|problem| backup::none(&problem))?;
        tracing::info!(
            by = by.subject(),
            backend = &**backup.id(),
            "an operator asks for a backup"
        );
        Ok(Response::new(backup::make(backup, by, Arc::clone(&self.0.audit))))
    }
}

fn watcher(watching: Watching) -> Watcher {
    let refused = watching.refused.into_iter();
    Watcher {
        peer: watching.peer,
        tenant: watching.tenant.to_string(),
        subject: watching.subject.to_string(),
        since: Some(Timestamp::from(watching.since)),
        sent: watching.sent,
        lag: watching.lag,
        rejected: refused.map(|(key, why)| (key.to_string(), why.into())).collect(),
        etag: watching.acknowledged.map(|etag| etag.to_string()).unwrap_or_default(),
        keys: watching.keys,
        current: watching.current,
    }
}

/// Whose; everybody's, if it is empty.
fn tenant_if_any(text: &str) -> Result<Option<TenantId>, Status> {
    match text {
        "" => Ok(None),
        text => Ok(Some(text.parse().map_err(|problem| invalid("tenant", problem))?)),
    }
}
