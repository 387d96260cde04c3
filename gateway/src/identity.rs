//! From a bearer token to who calls, and for which tenant. The first wall: nothing else makes a [`VerifiedCaller`] or
//! a [`VerifiedTenant`], and nothing that a request says adds to what its token says.

mod claims;
pub mod development;
mod jwks;
mod remembered;
mod token;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use jsonwebtoken::jwk::Jwk;
use serde_json::Value;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::key::TenantId;
use crate::settings::{IdentitySettings, Permission};

pub use claims::ClaimError;
pub use jwks::{KeySets, KeysError};
pub(crate) use jwks::{Published, error_chain};
pub use token::Token;

/// Claims that differ from one token to the next (RFC 7519, 4.1; `OpenID` Connect Core 1.0, 2; Cognito's access tokens).
const OF_ITS_MAKING: [&str; 7] = ["exp", "iat", "nbf", "jti", "auth_time", "origin_jti", "event_id"];
/// Picks one of the tenants that a token names.
const PICK: &str = "x-tagway-tenant";

/// The last that a protobuf timestamp can tell, in the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
/// How long wall time is taken to go on as other time does.
const LOOK_AT_THE_WALL: Duration = Duration::from_mins(1);

/// Why a caller is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No token where one has to be.
    #[error("no token: send `authorization: Bearer <JWT>`")]
    TokenMissing,
    /// Not a signed JWT, or one too many.
    #[error("{0}")]
    TokenMalformed(&'static str),
    /// Signed with something that is not allowed, or not signed by a key of the issuer.
    #[error("{0}")]
    Signature(&'static str),
    /// Signed, but not for here or not for now.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The issuer's keys are out of reach.
    #[error("the issuer's keys cannot be had: try again")]
    KeysAway,
    /// The token names no tenant.
    #[error("the token names no tenant in its claim `{0}`")]
    TenantMissing(String),
    /// The token names several, and the request none.
    #[error("the token names several tenants: pick one with `x-tagway-tenant`")]
    TenantAmbiguous,
    /// The request names more than one.
    #[error("more than one `x-tagway-tenant`")]
    TenantTwice,
    /// The request picks a tenant that the token does not name. Which exist is not told.
    #[error("the token does not name the tenant that `x-tagway-tenant` picks")]
    TenantNotGranted,
    /// A newer token that speaks for somebody else.
    #[error("the token is another subject's than the one before it")]
    SubjectDiffers,
    /// The bearer may not do that.
    #[error("the token does not grant the permission `{0}`")]
    PermissionMissing(Permission),
}

/// Whom a token speaks for, as long as it lives.
#[derive(Debug)]
pub struct VerifiedCaller {
    subject: Arc<str>,
    tenants: Vec<TenantId>,
    permissions: BTreeSet<Permission>,
    claims: serde_json::Map<String, Value>,
    /// Seconds since the epoch, the leeway included.
    expires: u64,
    /// What the token was signed with.
    key: Arc<Jwk>,
}

impl VerifiedCaller {
    /// The token's subject.
    #[must_use]
    pub fn subject(&self) -> &Arc<str> {
        &self.subject
    }

    /// Whether it may.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// When it does not speak any more; the leeway is included.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires.min(LAST_SECOND))
    }

    /// Whether strategies see the same of both, as far as they see claims: all that differs is of when the tokens were made.
    #[must_use]
    pub fn claims_the_same(&self, other: &Self) -> bool {
        let lasting = |claims: &serde_json::Map<String, Value>| {
            let mut claims = claims.clone();
            claims.retain(|name, _| !OF_ITS_MAKING.contains(&name.as_str()));
            claims
        };
        lasting(&self.claims) == lasting(&other.claims)
    }

    /// One claim. Strategies see those that their manifest asks for.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }
}

/// The one tenant that a request is for: named by a token that verified, and never by anything else.
#[derive(Debug, Clone)]
pub struct VerifiedTenant {
    id: TenantId,
    caller: Arc<VerifiedCaller>,
}

impl VerifiedTenant {
    /// Which one.
    #[must_use]
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// Who calls for it.
    #[must_use]
    pub fn caller(&self) -> &Arc<VerifiedCaller> {
        &self.caller
    }

    /// A tenant whose caller may read.
    pub fn reader(self) -> Result<Reader, IdentityError> {
        self.permitted(Permission::Read).map(Reader)
    }

    /// A tenant whose caller may write and delete.
    pub fn writer(self) -> Result<Writer, IdentityError> {
        self.permitted(Permission::Write).map(Writer)
    }

    fn permitted(self, permission: Permission) -> Result<Self, IdentityError> {
        if self.caller.may(permission) {
            Ok(self)
        } else {
            Err(IdentityError::PermissionMissing(permission))
        }
    }

    /// For tests of what lies behind this wall: one whose caller may do everything.
    #[cfg(test)]
    pub(crate) fn for_tests(id: &str) -> Self {
        Self::who_may(id, Permission::ALL)
    }

    /// The same, with these permissions alone.
    #[cfg(test)]
    pub(crate) fn who_may(id: &str, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self {
            id: id.parse().expect("a tenant"),
            caller: Arc::new(VerifiedCaller {
                subject: "tester".into(),
                tenants: Vec::new(),
                permissions: permissions.into_iter().collect(),
                claims: serde_json::Map::new(),
                expires: u32::MAX.into(),
                key: Arc::new(serde_json::from_str(r#"{"kty": "oct", "k": ""}"#).expect("a key")),
            }),
        }
    }
}

/// A tenant whose caller may read. What reads takes this.
#[derive(Debug, Clone)]
pub struct Reader(VerifiedTenant);

/// A tenant whose caller may write and delete. What writes takes this.
#[derive(Debug, Clone)]
pub struct Writer(VerifiedTenant);

/// Who may administrate a gateway, and nothing of any tenant.
#[derive(Debug, Clone)]
pub struct Administrator(Arc<VerifiedCaller>);

impl Administrator {
    /// Who it is.
    #[must_use]
    pub fn subject(&self) -> &Arc<str> {
        self.0.subject()
    }
}

impl Deref for Reader {
    type Target = VerifiedTenant;

    fn deref(&self) -> &VerifiedTenant {
        &self.0
    }
}

impl Deref for Writer {
    type Target = VerifiedTenant;

    fn deref(&self) -> &VerifiedTenant {
        &self.0
    }
}

/// Verifies tokens.
pub struct Verifier {
    keys: Arc<KeySets>,
    rules: claims::Rules,
    remembered: remembered::Remembered,
    clock: Clock,
}

impl Verifier {
    /// Verifies against `keys` by the rules of `settings`.
    #[must_use]
    pub fn new(settings: &IdentitySettings, keys: Arc<KeySets>, clock: Clock) -> Self {
        Self {
            keys,
            rules: claims::Rules::new(settings),
            remembered: remembered::Remembered::new(settings.token_memory.0),
            clock,
        }
    }

    /// Whom a request with this metadata is for: the bearer of its one token, and the tenant that `x-tagway-tenant` picks
    /// of those that the token names.
    pub async fn verify(&self, headers: &HeaderMap) -> Result<VerifiedTenant, IdentityError> {
        let caller = self.caller(token::shown(headers)?).await?;
        let mut picks = headers.get_all(PICK).iter();
        let picked = picks.next().map(|value| value.to_str().unwrap_or_default());
        if picks.next().is_some() {
            return Err(IdentityError::TenantTwice);
        }
        self.tenant(caller, picked)
    }

    /// Who the bearer is, whatever it may do; nobody, if the token does not say so. One that was just verified is remembered.
    pub async fn bearer(&self, headers: &HeaderMap) -> Option<Arc<VerifiedCaller>> {
        self.caller(token::shown(headers).ok()?).await.ok()
    }

    /// Who may administrate, by the one token of a request with this metadata. It need not name a tenant.
    pub async fn administrator(&self, headers: &HeaderMap) -> Result<Administrator, IdentityError> {
        let caller = self.caller(token::shown(headers)?).await?;
        if caller.may(Permission::Admin) {
            Ok(Administrator(caller))
        } else {
            Err(IdentityError::PermissionMissing(Permission::Admin))
        }
    }

    /// Who the bearer is. A token that verified before is remembered by its whole text, until it expires or the key
    /// set changes; one that is remembered need not be looked at again to see that it is one.
    pub async fn caller(&self, text: &str) -> Result<Arc<VerifiedCaller>, IdentityError> {
        let now = self.clock.seconds();
        let keys = self.keys.current();
        if let Some(caller) = self.remembered.get(text, keys.generation(), now) {
            return Ok(caller);
        }
        let token: Token = text.parse()?;
        let header = token.header()?;
        let (keys, key) = self.keys.find(keys, &header).await?;
        let payload = token.verify(&key)?;
        let caller = Arc::new(self.rules.check(payload, key.published, now)?);
        self.remembered.put(token, keys.generation(), &caller);
        Ok(caller)
    }

    /// The same tenant, as the bearer of a newer token of the same subject.
    pub async fn renew(&self, tenant: &VerifiedTenant, token: &str) -> Result<VerifiedTenant, IdentityError> {
        let caller = self.caller(token).await?;
        if caller.subject != tenant.caller.subject {
            return Err(IdentityError::SubjectDiffers);
        }
        self.tenant(caller, Some(tenant.id.as_str()))
    }

    /// Waits until a token does not speak for its bearer any more: it has expired, or its key is withdrawn.
    pub async fn until_over(&self, caller: &VerifiedCaller) {
        let mut looks = self.keys.looks();
        loop {
            let left = caller.expires().duration_since(self.clock.now()).unwrap_or_default();
            if left.is_zero() || !self.keys.current().holds(&caller.key) {
                return;
            }
            tokio::select! {
                // The wall's time may be set meanwhile.
                () = sleep(left.min(LOOK_AT_THE_WALL)) => {}
                // The keys live as long as this does.
                _ = looks.changed() => {}
            }
        }
    }

    /// The tenant that a request of this caller is for: the only one, or the one that `picked` names among several.
    pub fn tenant(&self, caller: Arc<VerifiedCaller>, picked: Option<&str>) -> Result<VerifiedTenant, IdentityError> {
        let tenants = &caller.tenants;
        let id = match (picked, tenants.as_slice()) {
            (_, []) => return Err(IdentityError::TenantMissing(self.rules.tenant_claim().to_owned())),
            (None, [only]) => only,
            (None, _) => return Err(IdentityError::TenantAmbiguous),
            (Some(picked), tenants) => tenants
                .iter()
                .find(|tenant| tenant.as_str() == picked)
                .ok_or(IdentityError::TenantNotGranted)?,
        };
        Ok(VerifiedTenant { id: id.clone(), caller })
    }
}
