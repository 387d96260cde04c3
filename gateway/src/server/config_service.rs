//! `ConfigService`: from messages to what `config` does, and back. Every field is checked, and a problem names it.

use std::sync::Arc;

use prost::Message;
use tagway_proto::v1;
use tagway_proto::v1::batch_get_configs_response::result::Outcome;
use tagway_proto::v1::config_service_server::ConfigService;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::audited::{Asked, Audited};
use super::fields::{
    consistency, content_type, context, freshness, message, origin, page_size, precondition, request_id, scope,
};
use super::peer::Peer;
use super::status::{self, invalid};
use super::watch::{Requests, Responses, Watches};
use super::within_quota::Sent;
use crate::audit::Audit;
use crate::backend::NewEntry;
use crate::cache::Read;
use crate::config::{
    Config, ConfigError, Configs, HistoryRequest, ListRequest, PAGE_BYTES, Scope, Step, Trail, WriteOptions,
};
use crate::identity::{IdentityError, VerifiedTenant, Writer};
use crate::key::KeyPrefix;
use crate::quota::{Quotas, UnderWay};
use crate::settings::Permission;

/// Most keys of a batch.
const BATCH: usize = 100;

pub(super) struct ConfigServiceImpl {
    configs: Arc<Configs>,
    watches: Arc<Watches>,
    quotas: Arc<Quotas>,
    audit: Arc<Audit>,
}

impl ConfigServiceImpl {
    pub(super) fn new(configs: Arc<Configs>, watches: Arc<Watches>, quotas: Arc<Quotas>, audit: Arc<Audit>) -> Self {
        Self {
            configs,
            watches,
            quotas,
            audit,
        }
    }

    async fn audited<T>(
        &self,
        what: &'static str,
        request: &Request<T>,
        asked: &Asked<'_>,
    ) -> Result<Audited<'_>, Status> {
        Audited::begin(&self.audit, &self.quotas, what, request, asked).await
    }

    async fn put(
        &self,
        request: Request<v1::PutConfigRequest>,
        trail: Arc<Trail>,
    ) -> Result<Response<v1::PutConfigResponse>, Status> {
        let (tenant, request) = open(request)?;
        let scope = scope(request.scope)?;
        let writer = writer(tenant, scope)?;
        let entry = NewEntry {
            value: request.value,
            content_type: content_type(request.content_type)?,
            secret: request.secret,
        };
        let options = WriteOptions {
            precondition: precondition(request.precondition)?,
            request_id: request_id(&request.request_id)?,
            context: context(request.context)?,
            scope,
            trail,
        };
        let written = self
            .configs
            .put(&writer, &request.key, entry, &options)
            .await
            .map_err(|error| status::config(error, "key"))?;
        Ok(Response::new(v1::PutConfigResponse {
            config: Some(message(written)),
        }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteConfigRequest>,
        trail: Arc<Trail>,
    ) -> Result<Response<v1::DeleteConfigResponse>, Status> {
        let (tenant, request) = open(request)?;
        let scope = scope(request.scope)?;
        let writer = writer(tenant, scope)?;
        let options = WriteOptions {
            precondition: precondition(request.precondition)?,
            request_id: request_id(&request.request_id)?,
            context: context(request.context)?,
            scope,
            trail,
        };
        let deleted = self
            .configs
            .delete(&writer, &request.key, &options)
            .await
            .map_err(|error| status::config(error, "key"))?;
        if deleted || request.allow_missing {
            Ok(Response::new(v1::DeleteConfigResponse {}))
        } else {
            Err(status::status(Code::NotFound, "NOT_FOUND", "no such key"))
        }
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackConfigRequest>,
        trail: Arc<Trail>,
    ) -> Result<Response<v1::RollbackConfigResponse>, Status> {
        let (tenant, request) = open(request)?;
        let scope = scope(request.scope)?;
        let writer = writer(tenant, scope)?;
        if request.version == 0 {
            return Err(invalid(
                "version",
                "the version to go back to, as ListConfigVersions names it",
            ));
        }
        let options = WriteOptions {
            precondition: precondition(request.precondition)?,
            request_id: request_id(&request.request_id)?,
            context: context(request.context)?,
            scope,
            trail,
        };
        let written = self
            .configs
            .rollback(&writer, &request.key, request.version, &options)
            .await
            .map_err(|error| status::config(error, "key"))?;
        Ok(Response::new(v1::RollbackConfigResponse {
            config: Some(message(written)),
        }))
    }
}

#[tonic::async_trait]
impl ConfigService for ConfigServiceImpl {
    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        let weighed = Weighed::of(&request);
        let (tenant, request) = open(request)?;
        let reader = tenant.reader().map_err(|error| status::identity(&error))?;
        let consistency = consistency(request.consistency)?;
        let scope = scope(request.scope)?;
        let context = context(request.context)?;
        let found = self
            .configs
            .get(&reader, &request.key, request.version, &context, scope, consistency)
            .await
            .map_err(|error| status::config(error, "key"))?;
        weighed.answer(v1::GetConfigResponse {
            freshness: Some(freshness(found.freshness)),
            config: Some(message(found.found)),
        })
    }

    async fn list_configs(
        &self,
        request: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        let weighed = Weighed::of(&request);
        let (tenant, request) = open(request)?;
        let reader = tenant.reader().map_err(|error| status::identity(&error))?;
        let prefix: KeyPrefix = request.prefix.parse().map_err(|problem| invalid("prefix", problem))?;
        let page_size = page_size(request.page_size)?;
        let context = context(request.context)?;
        let list = ListRequest {
            prefix: &prefix,
            page_size,
            page_token: &request.page_token,
            keys_only: request.keys_only,
            bytes: PAGE_BYTES,
            context: &context,
            under_way: weighed.0.as_deref(),
        };
        let listed = self
            .configs
            .list(&reader, list)
            .await
            .map_err(|error| status::config(error, "prefix"))?;
        weighed.answer(v1::ListConfigsResponse {
            configs: listed.configs.into_iter().map(message).collect(),
            next_page_token: listed.next_page_token,
            freshness: Some(freshness(listed.freshness)),
        })
    }

    async fn put_config(
        &self,
        request: Request<v1::PutConfigRequest>,
    ) -> Result<Response<v1::PutConfigResponse>, Status> {
        let asked = request.get_ref();
        let asked = Asked {
            key: &asked.key,
            scope: scope(asked.scope),
            request_id: &asked.request_id,
        };
        let audited = self.audited("PutConfig", &request, &asked).await?;
        let answer = self.put(request, audited.trail()).await;
        audited
            .end(answer, |answer| answer.config.as_ref().map(|config| &*config.etag))
            .await
    }

    async fn delete_config(
        &self,
        request: Request<v1::DeleteConfigRequest>,
    ) -> Result<Response<v1::DeleteConfigResponse>, Status> {
        let asked = request.get_ref();
        let asked = Asked {
            key: &asked.key,
            scope: scope(asked.scope),
            request_id: &asked.request_id,
        };
        let audited = self.audited("DeleteConfig", &request, &asked).await?;
        let answer = self.delete(request, audited.trail()).await;
        audited.end(answer, |_| None).await
    }

    async fn batch_get_configs(
        &self,
        request: Request<v1::BatchGetConfigsRequest>,
    ) -> Result<Response<v1::BatchGetConfigsResponse>, Status> {
        let weighed = Weighed::of(&request);
        let (tenant, request) = open(request)?;
        let reader = tenant.reader().map_err(|error| status::identity(&error))?;
        let consistency = consistency(request.consistency)?;
        if request.keys.len() > BATCH {
            return Err(invalid("keys", format!("{} keys; at most {BATCH}", request.keys.len())));
        }
        let context = context(request.context)?;
        let keys: Vec<_> = request.keys.iter().map(|key| (key.as_str(), consistency)).collect();
        let answers = self.configs.batch(&reader, &keys, &context, PAGE_BYTES).await;
        let result = |(key, answer): (String, Result<Read<Option<Config>>, ConfigError>)| {
            let failure = |error| Outcome::Failure(status::failure(&status::config(error, "keys")));
            let (outcome, freshness) = match answer {
                Ok(Read { found, freshness: read }) => {
                    let found = found.map(|config| Outcome::Config(message(config)));
                    (
                        found.unwrap_or_else(|| failure(ConfigError::NotFound)),
                        Some(freshness(read)),
                    )
                }
                Err(error) => (failure(error), None),
            };
            v1::batch_get_configs_response::Result {
                key,
                outcome: Some(outcome),
                freshness,
            }
        };
        weighed.answer(v1::BatchGetConfigsResponse {
            results: request.keys.into_iter().zip(answers).map(result).collect(),
        })
    }

    async fn list_config_versions(
        &self,
        request: Request<v1::ListConfigVersionsRequest>,
    ) -> Result<Response<v1::ListConfigVersionsResponse>, Status> {
        let weighed = Weighed::of(&request);
        let (tenant, request) = open(request)?;
        let reader = tenant.reader().map_err(|error| status::identity(&error))?;
        let scope = scope(request.scope)?;
        let page_size = page_size(request.page_size)?;
        let context = context(request.context)?;
        let history = HistoryRequest {
            key: &request.key,
            page_size,
            page_token: &request.page_token,
            context: &context,
            scope,
        };
        let history = self
            .configs
            .history(&reader, history)
            .await
            .map_err(|error| status::config(error, "key"))?;
        weighed.answer(v1::ListConfigVersionsResponse {
            versions: history.versions.into_iter().map(message).collect(),
            next_page_token: history.next_page_token,
        })
    }

    async fn rollback_config(
        &self,
        request: Request<v1::RollbackConfigRequest>,
    ) -> Result<Response<v1::RollbackConfigResponse>, Status> {
        let asked = request.get_ref();
        let asked = Asked {
            key: &asked.key,
            scope: scope(asked.scope),
            request_id: &asked.request_id,
        };
        let audited = self.audited("RollbackConfig", &request, &asked).await?;
        let answer = self.rollback(request, audited.trail()).await;
        audited
            .end(answer, |answer| answer.config.as_ref().map(|config| &*config.etag))
            .await
    }

    async fn explain_route(
        &self,
        request: Request<v1::ExplainRouteRequest>,
    ) -> Result<Response<v1::ExplainRouteResponse>, Status> {
        let (tenant, request) = open(request)?;
        let reader = tenant.reader().map_err(|error| status::identity(&error))?;
        let context = context(request.context)?;
        let explained = self
            .configs
            .explain(&reader, &request.key, &context)
            .await
            .map_err(|error| status::config(error, "key"))?;
        let admin = reader.caller().may(Permission::Admin);
        let step = |step: Step| v1::explain_route_response::Step {
            backend: step.backend.to_string(),
            physical_name: if admin {
                step.physical_name.to_string()
            } else {
                String::new()
            },
            holds_key: step.holds_key,
            cache_state: step.cache_state.to_owned(),
            origin: origin(step.origin),
            capabilities: step.capabilities.names().map(str::to_owned).collect(),
        };
        Ok(Response::new(v1::ExplainRouteResponse {
            tag: explained.tag,
            strategy: explained.strategy,
            digest: explained.digest,
            generation: explained.generation,
            reason: explained.reason,
            steps: explained.steps.into_iter().map(step).collect(),
            ignored_context: explained.ignored_context,
        }))
    }

    type WatchConfigsStream = Responses;

    async fn watch_configs(
        &self,
        request: Request<Streaming<v1::WatchConfigsRequest>>,
    ) -> Result<Response<Self::WatchConfigsStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let sent = request.extensions().get::<Arc<Sent>>().cloned();
        let (tenant, requests) = open(request)?;
        let requests = Requests { requests, sent };
        Ok(Response::new(self.watches.open(tenant, peer.as_ref(), requests)?))
    }
}

/// An answer is kept until it has been taken, so it is weighed as what was sent.
struct Weighed(Option<Arc<UnderWay>>);

impl Weighed {
    fn of<T>(request: &Request<T>) -> Self {
        Self(request.extensions().get().cloned())
    }

    fn answer<T: Message>(&self, message: T) -> Result<Response<T>, Status> {
        if let Some(under_way) = &self.0 {
            under_way.holds(message.encoded_len() as u64).map_err(status::quota)?;
        }
        Ok(Response::new(message))
    }
}

/// The tenant that the identity layer put there, and the message.
fn open<T>(request: Request<T>) -> Result<(VerifiedTenant, T), Status> {
    let (_, mut extensions, message): (_, Extensions, T) = request.into_parts();
    match extensions.remove::<VerifiedTenant>() {
        Some(tenant) => Ok((tenant, message)),
        // No request comes here but through the identity layer.
        None => Err(status::status(
            Code::Unauthenticated,
            "TOKEN_MISSING",
            "no verified tenant",
        )),
    }
}

/// Who writes what all tenants read needs a permission of its own.
fn writer(tenant: VerifiedTenant, scope: Scope) -> Result<Writer, Status> {
    if scope == Scope::Shared && !tenant.caller().may(Permission::Share) {
        return Err(status::identity(&IdentityError::PermissionMissing(Permission::Share)));
    }
    tenant.writer().map_err(|error| status::identity(&error))
}
