//! What the targets share: an issuer of tokens, and the gateway's own verification of them.

#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    reason = "a target that cannot be set up says so by failing"
)]

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};
use tagway::clock::Clock;
use tagway::identity::development::{Claims, DevelopmentKey};
use tagway::identity::{IdentityError, KeySets, VerifiedTenant, Verifier};
use tagway::settings::Permission;
use tagway::settings::development::development;
use tagway::status::Parts;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// A key of its own, and a [`Verifier`] that believes what it signs.
pub struct Issuer {
    key: DevelopmentKey,
    verifier: Verifier,
    runtime: Runtime,
}

impl Default for Issuer {
    fn default() -> Self {
        let folder = TempDir::new().expect("a folder");
        let key = DevelopmentKey::open_or_create(folder.path()).expect("a key");
        let settings = development(folder.path(), []).expect("settings");
        let runtime = runtime();
        let keys = runtime.block_on(KeySets::open(&settings.identity)).expect("keys");
        let verifier = Verifier::new(&settings.identity, keys.clone(), Clock::system());
        let part = Parts::new(Clock::system()).part("issuer", true, "");
        // It answers those who ask for an unknown key.
        runtime.spawn(async move { keys.run(&part).await });
        Self { key, verifier, runtime }
    }
}

impl Issuer {
    /// A token that verifies, for these tenants and with these claims besides.
    pub fn token(&self, tenants: &[String], further: &Map<String, Value>) -> String {
        let claims = Claims {
            tenants,
            subject: "fuzzer",
            permissions: &Permission::ALL,
            lifetime: Duration::from_hours(24),
            further,
        };
        let token = self.key.mint(&claims, &Clock::system()).expect("a token");
        token.reveal().to_owned()
    }

    /// Whom a request is for whose `authorization` is this; nobody, where it cannot be sent so.
    pub fn verify(&self, authorization: &[u8]) -> Option<Result<VerifiedTenant, IdentityError>> {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::AUTHORIZATION,
            HeaderValue::from_bytes(authorization).ok()?,
        );
        Some(self.runtime.block_on(self.verifier.verify(&headers)))
    }

    /// A tenant whose token verified.
    pub fn tenant(&self, id: &str) -> VerifiedTenant {
        let token = self.token(&[id.to_owned()], &Map::new());
        let verified = self.verify(format!("Bearer {token}").as_bytes());
        verified.expect("ASCII").expect("verified")
    }
}

/// One thread: a target runs one input at a time.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}
