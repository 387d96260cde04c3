//! A gateway of a few lines over a map, right but for one bug of choice. Whoever validates a promise is shown one that
//! breaks it, and has to notice; and one without a bug, and has to be content.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tagway_proto::v1;
use tagway_proto::v1::config_service_server::{ConfigService, ConfigServiceServer};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::client::Door;
use crate::issuer::Key;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    None,
    /// A key is one thing for all tenants.
    KeysWithoutTenant,
    /// A list shows what others have.
    ListsOfEverybody,
    /// What another has is refused in other words than what nobody has.
    TellsWhatExists,
    /// Judges a precondition, and writes later.
    ChecksThenWrites,
    /// One trap, and every later request fails.
    TrapPoisons,
    /// One loop, and everybody waits for its end.
    LoopBlocks,
    /// A list comes out of two stores, as two strategies decide.
    MixesDecisions,
}

/// Serves until it is dropped.
pub struct Mutant {
    door: Door,
    server: JoinHandle<()>,
}

impl Mutant {
    /// One with this bug.
    pub async fn start(bug: Bug) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let service = ConfigServiceServer::new(Map {
            bug,
            state: Mutex::default(),
        });
        let server = Server::builder().add_service(service);
        let server = tokio::spawn(async move {
            let ended = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
            ended.expect("loopback does not fail");
        });
        let key = Arc::new(Key::ed("mutant"));
        Self {
            door: Door { address, key },
            server,
        }
    }

    /// Where to validate it.
    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
    }
}

impl Drop for Mutant {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Runs a validator, which says that a promise is broken by a panic. True if it did.
pub async fn noticed(validator: impl Future<Output = ()> + Send + 'static) -> bool {
    let ended = tokio::spawn(validator).await;
    ended.is_err_and(|error| error.is_panic())
}

/// (tenant, key) -> value and version.
type Values = BTreeMap<(String, String), (bytes::Bytes, u64)>;

#[derive(Default)]
struct State {
    values: Values,
    poisoned: bool,
}

struct Map {
    bug: Bug,
    state: Mutex<State>,
}

fn status(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "tagway", std::collections::HashMap::new());
    Status::with_error_details(code, reason.to_lowercase(), details)
}

impl Map {
    /// Whose it is, as the token says: who validates does not forge.
    fn place<T>(&self, request: &Request<T>, key: &str) -> (String, String) {
        let tenant = if self.bug == Bug::KeysWithoutTenant {
            String::new()
        } else {
            tenant(request)
        };
        (tenant, key.to_owned())
    }

    /// What a strategy that misbehaves does to who asks, and what it must not do to others.
    async fn route(&self, key: &str) -> Result<(), Status> {
        let failed = status(Code::Internal, "STRATEGY_FAILED");
        let mut state = self.state.lock().await;
        match key {
            "hostile_trap" => {
                state.poisoned |= self.bug == Bug::TrapPoisons;
                Err(failed)
            }
            "hostile_loop" => {
                if self.bug == Bug::LoopBlocks {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                Err(failed)
            }
            _ if state.poisoned => Err(failed),
            _ => Ok(()),
        }
    }

    fn missing(&self, state: &State, key: &str) -> Status {
        let elsewhere = state.values.keys().any(|(_, other)| other == key);
        if elsewhere && self.bug == Bug::TellsWhatExists {
            status(Code::PermissionDenied, "NOT_YOURS")
        } else {
            status(Code::NotFound, "NOT_FOUND")
        }
    }
}

fn judge(state: &State, place: &(String, String), precondition: Option<&v1::Precondition>) -> Result<(), Status> {
    use v1::precondition::Kind;
    let standing = state.values.get(place).map(|(_, version)| etag(*version));
    match precondition.and_then(|precondition| precondition.kind.as_ref()) {
        Some(Kind::IfMatch(etag)) if standing.as_ref() != Some(etag) => Err(status(Code::Aborted, "CHANGED")),
        Some(Kind::IfAbsent(_)) if standing.is_some() => Err(status(Code::AlreadyExists, "ALREADY_EXISTS")),
        _ => Ok(()),
    }
}

fn tenant<T>(request: &Request<T>) -> String {
    let header = request
        .metadata()
        .get("authorization")
        .and_then(|header| header.to_str().ok());
    let payload = header.and_then(|header| header.split('.').nth(1)).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&payload).unwrap_or_default();
    claims["tenant_id"].as_str().unwrap_or_default().to_owned()
}

fn etag(version: u64) -> String {
    format!("state-{version}")
}

fn config(key: &str, value: bytes::Bytes, version: u64) -> v1::Config {
    v1::Config {
        key: key.to_owned(),
        value,
        version,
        etag: etag(version),
        backend: "a".to_owned(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ConfigService for Map {
    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        let key = &request.get_ref().key;
        self.route(key).await?;
        let state = self.state.lock().await;
        let found = state.values.get(&self.place(&request, key));
        let asked = request.get_ref().version;
        let found = found.filter(|(_, version)| asked == 0 || asked == *version);
        let (value, version) = found.cloned().ok_or_else(|| self.missing(&state, key))?;
        Ok(Response::new(v1::GetConfigResponse {
            config: Some(config(key, value, version)),
            freshness: None,
        }))
    }

    async fn put_config(
        &self,
        request: Request<v1::PutConfigRequest>,
    ) -> Result<Response<v1::PutConfigResponse>, Status> {
        let message = request.get_ref().clone();
        self.route(&message.key).await?;
        let place = self.place(&request, &message.key);
        let mut state = self.state.lock().await;
        judge(&state, &place, message.precondition.as_ref())?;
        if self.bug == Bug::ChecksThenWrites {
            drop(state);
            tokio::time::sleep(Duration::from_millis(5)).await;
            state = self.state.lock().await;
        }
        let version = state.values.get(&place).map_or(0, |(_, version)| *version) + 1;
        state.values.insert(place, (message.value, version));
        Ok(Response::new(v1::PutConfigResponse {
            config: Some(config(&message.key, bytes::Bytes::new(), version)),
        }))
    }

    async fn delete_config(
        &self,
        request: Request<v1::DeleteConfigRequest>,
    ) -> Result<Response<v1::DeleteConfigResponse>, Status> {
        let message = request.get_ref().clone();
        self.route(&message.key).await?;
        let place = self.place(&request, &message.key);
        let mut state = self.state.lock().await;
        judge(&state, &place, message.precondition.as_ref())?;
        if state.values.remove(&place).is_none() {
            return Err(self.missing(&state, &message.key));
        }
        Ok(Response::new(v1::DeleteConfigResponse {}))
    }

    async fn list_configs(
        &self,
        request: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        let (tenant, _) = self.place(&request, "");
        let after = &request.get_ref().page_token;
        let size = usize::try_from(request.get_ref().page_size).unwrap_or(0);
        let size = if size == 0 { 100 } else { size };
        let state = self.state.lock().await;
        let standing = state.values.iter().filter(|((owner, key), _)| {
            (*owner == tenant || self.bug == Bug::ListsOfEverybody)
                && key > after
                && key.starts_with(&request.get_ref().prefix)
        });
        let configs = standing.map(|((_, key), (value, version))| config(key, value.clone(), *version));
        let mut configs: Vec<v1::Config> = configs.collect();
        for config in configs
            .iter_mut()
            .filter(|_| self.bug == Bug::MixesDecisions)
            .step_by(2)
        {
            "b".clone_into(&mut config.backend);
            config.value = bytes::Bytes::from_static(b"b");
        }
        let more = configs.len() > size;
        configs.truncate(size);
        let last = configs.last().filter(|_| more);
        let next_page_token = last.map(|config| config.key.clone()).unwrap_or_default();
        Ok(Response::new(v1::ListConfigsResponse {
            configs,
            next_page_token,
            freshness: Some(v1::Freshness {
                source: v1::freshness::Source::Backend.into(),
                age: Some(prost_types::Duration::default()),
            }),
        }))
    }

    async fn batch_get_configs(
        &self,
        _: Request<v1::BatchGetConfigsRequest>,
    ) -> Result<Response<v1::BatchGetConfigsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_config_versions(
        &self,
        _: Request<v1::ListConfigVersionsRequest>,
    ) -> Result<Response<v1::ListConfigVersionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rollback_config(
        &self,
        _: Request<v1::RollbackConfigRequest>,
    ) -> Result<Response<v1::RollbackConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn explain_route(
        &self,
        _: Request<v1::ExplainRouteRequest>,
    ) -> Result<Response<v1::ExplainRouteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchConfigsStream = tokio_stream::Empty<Result<v1::WatchConfigsResponse, Status>>;

    async fn watch_configs(
        &self,
        _: Request<Streaming<v1::WatchConfigsRequest>>,
    ) -> Result<Response<Self::WatchConfigsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
