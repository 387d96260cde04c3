//! What the stores at AWS have in common: how they are reached, whose credentials a call carries, how many calls run at
//! once, and what their failures mean.
//!
//! Where a role is named, each tenant has a client of its own, whose credentials AWS gave for that tenant alone: the
//! session tag `TenantId` is what the role's policy compares with the key of the item. So the wall in the store stands
//! also where ours fell. All clients share one connection pool and one budget of retries.

pub(crate) mod failure;
#[cfg(test)]
pub(crate) mod stand_in;
mod traced;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::config::retry::RetryPartition;
use aws_sdk_dynamodb::config::{RuntimeComponents, SharedHttpClient};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Builder, Connector, tls};
use futures_util::future::BoxFuture;
use quick_cache::sync::Cache;
use tokio::time::timeout;

use super::{Access, BackendError};
use crate::fair_semaphore::FairSemaphore;
use crate::identity::VerifiedTenant;
use crate::key::TenantId;
use crate::placement::Space;

pub(super) use traced::Traced;

/// What the gateway does whenever AWS changes its defaults: nothing, until this is raised.
const BEHAVIOR: fn() -> BehaviorVersion = BehaviorVersion::v2026_01_12;
/// Attempts of one call. What a retry costs comes out of a budget that all calls of a store share: when most fail, most
/// are not tried again.
const ATTEMPTS: u32 = 4;
/// Of the wait before the first retry, which is drawn between nothing and this; doubled with each, and at most [`MAX_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const MAX_WAIT: Duration = Duration::from_millis(500);
/// Credentials are renewed so long before they are over.
const RENEWED_BEFORE: Duration = Duration::from_mins(1);
/// The tag of a session that a role's policy compares.
const TENANT_TAG: &str = "TenantId";
/// Longest name of a session (STS, `AssumeRole`).
const SESSION_NAME: usize = 64;

/// How a store at AWS is reached: `[backends.<id>]`.
#[derive(Debug, Clone)]
pub struct AwsSettings {
    /// The catalog's id of the store, for operators' logs.
    pub id: Arc<str>,
    /// Where it is. None: what the environment says, as AWS's own tools read it.
    pub region: Option<String>,
    /// A server of another address.
    pub endpoint_url: Option<String>,
    /// Of STS, likewise.
    pub sts_endpoint_url: Option<String>,
    /// The ARN of a role that is assumed for each tenant, with the session tag `TenantId`.
    pub tenant_role: Option<String>,
    /// Of one operation, its calls and their retries included.
    pub timeout: Duration,
    /// Calls at once, of one tenant three quarters of them. More wait.
    pub in_flight: u32,
    /// Tenants whose sessions are kept.
    pub tenants: u32,
}

/// The settings and the environment do not say where AWS is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no region: name one, or set AWS_REGION")]
pub struct NoRegion;

impl AwsSettings {
    /// What the SDK needs to know. Credentials come from where AWS's own tools look for them, when they are needed.
    pub async fn load(&self) -> Result<SdkConfig, NoRegion> {
        let attempt = self.timeout / 2;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.timeout / 4)
            .operation_attempt_timeout(attempt)
            .operation_timeout(self.timeout);
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_WAIT)
            .with_max_backoff(MAX_WAIT);
        let mut loader = aws_config::defaults(BEHAVIOR())
            .timeout_config(timeouts.build())
            .retry_config(retries)
            .http_client(connections())
            .identity_cache(IdentityCache::lazy().buffer_time(RENEWED_BEFORE).build());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint_url {
            loader = loader.endpoint_url(endpoint);
        }
        let config = loader.load().await;
        if config.region().is_some() {
            Ok(config)
        } else {
            Err(NoRegion)
        }
    }

    /// `config` with credentials that are given for this tenant, by taking on `role`: when they are first needed and whenever they
    /// are over.
    pub(crate) async fn as_tenant(&self, config: &SdkConfig, role: &str, tenant: &TenantId) -> SdkConfig {
        let mut name = format!("tagway-{tenant}");
        name.truncate(SESSION_NAME);
        let provider = AssumeRoleProvider::builder(role)
            .configure(&self.sts(config))
            .session_name(name)
            .tags([(TENANT_TAG, tenant.as_str())])
            .build()
            .await;
        // A cache of its own: the credentials live and die with the client.
        config
            .to_builder()
            .credentials_provider(SharedCredentialsProvider::new(provider))
            .identity_cache(IdentityCache::lazy().buffer_time(RENEWED_BEFORE).build())
            .build()
    }

    /// `config` for STS, which is not where the store is.
    pub(crate) fn sts(&self, config: &SdkConfig) -> SdkConfig {
        let mut sts = config.to_builder();
        sts.set_endpoint_url(self.sts_endpoint_url.clone());
        sts.build()
    }
}

/// One pool of connections. Clients have one each if they are not given one, and each tenant has a client.
fn connections() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let mut connector = Connector::builder().tls_provider(tls);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        connector.build()
    })
}

/// The way to one service at AWS. `C` is its client.
pub(super) struct Aws<C> {
    settings: AwsSettings,
    config: SdkConfig,
    retries: RetryPartition,
    client: fn(&SdkConfig, RetryPartition) -> C,
    /// With the gateway's own credentials.
    own: C,
    sessions: Cache<TenantId, C>,
    calls: FairSemaphore,
}

impl<C: Clone> Aws<C> {
    /// Prepares it. Nobody is asked yet. `config` is what `settings` load.
    pub(super) fn new(settings: AwsSettings, config: SdkConfig, client: fn(&SdkConfig, RetryPartition) -> C) -> Self {
        // Its own, so that no other store's failures use up what this one may retry.
        let retries = RetryPartition::custom(settings.id.to_string()).build();
        Self {
            own: client(&config, retries.clone()),
            sessions: Cache::new(settings.tenants as usize),
            calls: FairSemaphore::new(settings.in_flight as usize),
            settings,
            config,
            retries,
            client,
        }
    }

    /// The client for a call that does this in that space. What all tenants read is written by the gateway itself: its
    /// tenants' sessions may not.
    pub(super) async fn client(&self, tenant: &VerifiedTenant, space: &Space, access: Access) -> C {
        let Some(role) = &self.settings.tenant_role else {
            return self.own.clone();
        };
        if *space == Space::Shared && access == Access::Write {
            return self.own.clone();
        }
        // Boxed, for it is large and seldom needed.
        let session = Box::pin(async { Ok::<_, Infallible>(self.session(tenant.id(), role).await) });
        let Ok(client) = self.sessions.get_or_insert_async(tenant.id(), session).await;
        client
    }

    /// Whose credentials a tenant's reads carry; those of the same can go together. None: the gateway's own.
    pub(super) fn reads_as(&self, tenant: &VerifiedTenant) -> Option<TenantId> {
        self.settings.tenant_role.as_ref().map(|_| tenant.id().clone())
    }

    /// A client whose credentials are given for this tenant, when they are first needed and whenever they are over.
    async fn session(&self, tenant: &TenantId, role: &str) -> C {
        let config = self.settings.as_tenant(&self.config, role, tenant).await;
        (self.client)(&config, self.retries.clone())
    }

    /// How many sessions are kept.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// One call, when there is room for it.
    pub(super) async fn call<T, E>(
        &self,
        tenant: &TenantId,
        operation: &'static str,
        sent: BoxFuture<'_, Result<T, SdkError<E>>>,
    ) -> Result<T, BackendError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.send(tenant, sent)
            .await
            .map_err(|error| self.failed(operation, &error))
    }

    /// The same, for who reads the error first.
    pub(super) async fn send<T, E>(
        &self,
        tenant: &TenantId,
        sent: BoxFuture<'_, Result<T, SdkError<E>>>,
    ) -> Result<T, SdkError<E>> {
        let _permit = self.calls.enter(tenant).await;
        sent.await
    }

    /// What operators read of a failed call.
    pub(super) fn failed<E>(&self, operation: &'static str, error: &SdkError<E>) -> BackendError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let id = &self.settings.id;
        let problem = format!("backends.{id}: {operation}: {}", failure::describe(error));
        if failure::is_denied(error) {
            BackendError::Denied(problem)
        } else {
            BackendError::Away(problem)
        }
    }

    /// An operation, however many calls it makes, within the store's time.
    pub(super) async fn within<T, E: From<BackendError>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let done = timeout(self.settings.timeout, operation).await;
        done.unwrap_or_else(|_| Err(self.late().into()))
    }

    /// It was not done in time.
    pub(super) fn late(&self) -> BackendError {
        let AwsSettings { id, timeout, .. } = &self.settings;
        let why = if self.calls.is_full() {
            "all of in_flight were under way, or one tenant's three quarters of it, waiting for it"
        } else {
            "check the network and endpoint_url"
        };
        BackendError::Away(format!("backends.{id}: not done within {timeout:?}: {why}"))
    }

    pub(super) fn settings(&self) -> &AwsSettings {
        &self.settings
    }
}
