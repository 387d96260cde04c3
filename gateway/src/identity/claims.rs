//! What a token that is truly signed must say before it is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jsonwebtoken::jwk::Jwk;
use serde_json::{Map, Value};

use super::VerifiedCaller;
use crate::key::TenantId;
use crate::settings::{IdentitySettings, Permission};

/// Longest subject, in bytes: it is stored with every write.
const SUBJECT_BYTES: usize = 256;

/// Which claim is missing or wrong. Values are not repeated: a token may have gone astray.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It must be there, in this shape.
    #[error("the token's claim `{claim}` is missing, or is not {shape}")]
    Shape {
        /// Which.
        claim: String,
        /// What it should be.
        shape: &'static str,
    },
    /// It is there, but says something else than it must.
    #[error("the token's claim `{0}` has not the value that it must have")]
    Value(String),
    /// The past.
    #[error("the token has expired")]
    Expired,
    /// The future.
    #[error("the token is not valid yet")]
    NotYet,
}

/// The operator's rules.
pub(super) struct Rules {
    issuer: String,
    audiences: Vec<String>,
    require: BTreeMap<String, String>,
    tenant_claim: String,
    permission_claim: String,
    permissions: BTreeMap<Permission, Vec<String>>,
    leeway: u64,
}

impl Rules {
    pub(super) fn new(settings: &IdentitySettings) -> Self {
        Self {
            issuer: settings.issuer.clone(),
            audiences: settings.audiences.clone(),
            require: settings.require.clone(),
            tenant_claim: settings.tenant_claim.clone(),
            permission_claim: settings.permission_claim.clone(),
            permissions: settings.permissions.clone(),
            leeway: settings.leeway.as_secs(),
        }
    }

    pub(super) fn tenant_claim(&self) -> &str {
        &self.tenant_claim
    }

    /// Judges a payload whose signature by `key` holds.
    pub(super) fn check(
        &self,
        claims: Map<String, Value>,
        key: Arc<Jwk>,
        now: u64,
    ) -> Result<VerifiedCaller, ClaimError> {
        if text(&claims, "iss")? != self.issuer {
            return Err(ClaimError::Value("iss".to_owned()));
        }
        self.check_audience(&claims)?;
        let expires = seconds(&claims, "exp")?
            .ok_or_else(|| shape("exp", "a number of seconds"))?
            .saturating_add(self.leeway);
        if now >= expires {
            return Err(ClaimError::Expired);
        }
        if seconds(&claims, "nbf")?.is_some_and(|begin| now.saturating_add(self.leeway) < begin) {
            return Err(ClaimError::NotYet);
        }
        for (claim, value) in &self.require {
            let holds = match claims.get(claim) {
                Some(Value::String(text)) => text == value,
                Some(Value::Bool(flag)) => value == if *flag { "true" } else { "false" },
                Some(Value::Number(number)) => number.to_string() == *value,
                _ => false,
            };
            if !holds {
                return Err(ClaimError::Value(claim.clone()));
            }
        }
        // RFC 9068 wants `sub` in every access token; where an issuer leaves it out, the client is the subject.
        let subject = text(&claims, "sub").or_else(|error| text(&claims, "client_id").map_err(|_| error))?;
        if subject.is_empty() || subject.len() > SUBJECT_BYTES || subject.chars().any(char::is_control) {
            return Err(shape("sub", "1 to 256 bytes without control characters"));
        }
        Ok(VerifiedCaller {
            subject: subject.into(),
            tenants: self.tenants(&claims)?,
            permissions: self.permissions(&claims)?,
            expires,
            key,
            claims,
        })
    }

    /// `aud` (RFC 7519, 4.1.3), or `client_id` where a token has no `aud`, as Cognito's access tokens.
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), ClaimError> {
        let claim = match (claims.contains_key("aud"), claims.contains_key("client_id")) {
            (true, _) => "aud",
            (false, true) => "client_id",
            (false, false) => return Err(shape("aud", "there, and neither is `client_id`")),
        };
        let named = texts(claims, claim)?;
        if named
            .iter()
            .any(|name| self.audiences.iter().any(|audience| audience == name))
        {
            Ok(())
        } else {
            Err(ClaimError::Value(claim.to_owned()))
        }
    }

    /// None where the claim is missing: such a token may still serve a platform team. One bad name spoils them all.
    fn tenants(&self, claims: &Map<String, Value>) -> Result<Vec<TenantId>, ClaimError> {
        if !claims.contains_key(&self.tenant_claim) {
            return Ok(Vec::new());
        }
        let named = texts(claims, &self.tenant_claim)?;
        let tenants: Result<BTreeSet<TenantId>, _> = named.into_iter().map(str::parse).collect();
        tenants.map(|tenants| tenants.into_iter().collect()).map_err(|_| {
            shape(
                &self.tenant_claim,
                "a tenant: [A-Za-z0-9][A-Za-z0-9_.-]{0,127} without \"..\"",
            )
        })
    }

    fn permissions(&self, claims: &Map<String, Value>) -> Result<BTreeSet<Permission>, ClaimError> {
        let granted: Vec<&str> = match claims.get(&self.permission_claim) {
            None => Vec::new(),
            // RFC 8693, 4.2: a scope is a space-separated text.
            Some(Value::String(text)) => text.split(' ').filter(|name| !name.is_empty()).collect(),
            Some(_) => texts(claims, &self.permission_claim)?,
        };
        let holds = |names: &Vec<String>| names.iter().any(|name| granted.contains(&name.as_str()));
        let permissions = self.permissions.iter().filter(|(_, names)| holds(names));
        Ok(permissions.map(|(permission, _)| *permission).collect())
    }
}

fn shape(claim: &str, shape: &'static str) -> ClaimError {
    ClaimError::Shape {
        claim: claim.to_owned(),
        shape,
    }
}

fn text<'c>(claims: &'c Map<String, Value>, claim: &str) -> Result<&'c str, ClaimError> {
    claims
        .get(claim)
        .and_then(Value::as_str)
        .ok_or_else(|| shape(claim, "a string"))
}

/// A string, or an array of nothing but strings.
fn texts<'c>(claims: &'c Map<String, Value>, claim: &str) -> Result<Vec<&'c str>, ClaimError> {
    let texts = match claims.get(claim) {
        Some(Value::String(text)) => Some(vec![text.as_str()]),
        Some(Value::Array(array)) => array.iter().map(Value::as_str).collect(),
        _ => None,
    };
    texts.ok_or_else(|| shape(claim, "a string or an array of strings"))
}

/// A `NumericDate` (RFC 7519, 2): whole or broken seconds since the epoch.
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, ClaimError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::Number(number)) => number
            .as_u64()
            .or_else(|| {
                number
                    .as_f64()
                    .filter(|seconds| (0.0..1e15).contains(seconds))
                    .map(whole)
            })
            .map(Some)
            .ok_or_else(|| shape(claim, "a number of seconds since 1970")),
        Some(_) => Err(shape(claim, "a number of seconds since 1970")),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the one caller passes 0 to 1e15, and a part of a second is meant to go"
)]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}
