//! What the benchmarks and the fuzz targets need from behind closed doors, and nobody else: it is there with the feature
//! `internals` alone, which no gateway is built with.

use crate::config::{ConfigError, PageTokens};
use crate::identity::VerifiedTenant;
use crate::strategy::Engine;

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
