//! What the benchmarks and the fuzz targets need from behind closed doors, and nobody else: it is there with the feature
//! `internals` alone, which no gateway is built with.

use std::sync::Arc;

use tagway_proto::v1::config_service_server::ConfigService;
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, Configs, PageTokens};
use crate::identity::{VerifiedTenant, Verifier};
use crate::quota::Quotas;
use crate::server::Watches;
use crate::settings::Settings;
use crate::strategy::Engine;
use crate::watch::Hub;

/// The engine that guests are compiled and run with.
#[must_use]
pub fn wasmtime(engine: &Engine) -> &wasmtime::Engine {
    engine.wasmtime()
}

/// A token for the page of `request` after the key `after`.
pub fn seal_page(
    tokens: &PageTokens,
    tenant: &VerifiedTenant,
    request: &str,
    after: &str,
) -> Result<String, ConfigError> {
    tokens.seal(tenant, &request, after)
}

/// The key that the page begins after, if `token` was sealed for this tenant and this request.
#[must_use]
pub fn open_page(tokens: &PageTokens, tenant: &VerifiedTenant, request: &str, token: &str) -> Option<String> {
    tokens.open(tenant, &request, token)
}

/// The service as it is mounted, for requests that carry a verified tenant.
#[must_use]
pub fn config_service(
    settings: &Settings,
    configs: Arc<Configs>,
    verifier: Arc<Verifier>,
    hub: Arc<Hub>,
) -> impl ConfigService {
    let stop = CancellationToken::new();
    let (server, limits) = (&settings.server, &settings.limits);
    let quotas = Quotas::new(&settings.quota);
    let watches = Watches::new(
        Arc::clone(&configs),
        verifier,
        hub,
        Arc::clone(&quotas),
        server,
        limits,
        stop,
    );
    crate::server::config_service(configs, watches, quotas)
}

/// Has `request` come from that tenant.
pub fn of_tenant<T>(request: &mut tonic::Request<T>, tenant: VerifiedTenant) {
    request.extensions_mut().insert(tenant);
}
