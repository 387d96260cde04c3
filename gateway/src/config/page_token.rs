//! Page tokens: sealed, so that they authenticate themselves. One is good for the tenant and the request that it came
//! from, and for an hour; everywhere else it is noise.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::clock::Clock;
use crate::identity::VerifiedTenant;

/// How long a token is good, in seconds.
const LIFETIME: u64 = 60 * 60;
/// No token of ours is longer: a key, two times, and the seal.
const TOKEN_BYTES: usize = 1024;

/// Seals and opens page tokens.
pub struct PageTokens {
    key: RandomizedNonceKey,
    clock: Clock,
}

#[derive(Serialize, Deserialize)]
struct Sealed<P> {
    expires: u64,
    position: P,
}

impl PageTokens {
    /// Seals with a key made of `secret`: the same on every replica, if a token is to be good for all of them.
    ///
    /// # Errors
    /// When the machine's cryptography does not work.
    pub fn new(secret: &[u8], clock: Clock) -> Result<Self, aws_lc_rs::error::Unspecified> {
        // A digest makes a key of the right length out of a secret of any.
        let key = digest::digest(&digest::SHA256, secret);
        Ok(Self {
            key: RandomizedNonceKey::new(&AES_256_GCM, key.as_ref())?,
            clock,
        })
    }

    /// What tells how long tokens are good.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A token for the page that begins at `position`. `request` is everything of the request that the next must repeat.
    pub(crate) fn seal(
        &self,
        tenant: &VerifiedTenant,
        request: &impl Serialize,
        position: &(impl Serialize + ?Sized),
    ) -> Result<String, ConfigError> {
        self.try_seal(tenant, request, position).ok_or(ConfigError::Seal)
    }

    fn try_seal(
        &self,
        tenant: &VerifiedTenant,
        request: &impl Serialize,
        position: &(impl Serialize + ?Sized),
    ) -> Option<String> {
        let mut sealed = postcard::to_stdvec(&Sealed {
            expires: self.clock.seconds().saturating_add(LIFETIME),
            position,
        })
        .ok()?;
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(bound_to(tenant, request)?), &mut sealed)
            .ok()?;
        let mut token = nonce.as_ref().to_vec();
        token.append(&mut sealed);
        Some(URL_SAFE_NO_PAD.encode(token))
    }

    /// The position that the page begins at.
    pub(crate) fn open<P: DeserializeOwned>(
        &self,
        tenant: &VerifiedTenant,
        request: &impl Serialize,
        token: &str,
    ) -> Option<P> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let mut token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = token.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(bound_to(tenant, request)?), sealed)
            .ok()?;
        let sealed: Sealed<P> = postcard::from_bytes(opened).ok()?;
        (self.clock.seconds() < sealed.expires).then_some(sealed.position)
    }
}

/// What the seal covers besides the position: whose it is, and of what.
fn bound_to(tenant: &VerifiedTenant, request: &impl Serialize) -> Option<Vec<u8>> {
    postcard::to_stdvec(&("tagway page 2", tenant.id().as_str(), request)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(tokens: &PageTokens, tenant: &VerifiedTenant, request: &str, token: &str) -> Option<String> {
        tokens.open(tenant, &request, token)
    }

    fn tokens(clock: &Clock) -> PageTokens {
        PageTokens::new(b"a secret", clock.clone()).expect("AES works")
    }

    #[test]
    fn a_token_is_good_for_its_tenant_its_request_and_an_hour() {
        let clock = Clock::standing_at(1_000_000);
        let tokens = tokens(&clock);
        let acme = VerifiedTenant::for_tests("acme");
        let token = tokens.seal(&acme, &"t_", "t_a").expect("sealed");
        assert_eq!(open(&tokens, &acme, "t_", &token).as_deref(), Some("t_a"));
        assert_eq!(open(&tokens, &VerifiedTenant::for_tests("globex"), "t_", &token), None);
        assert_eq!(open(&tokens, &acme, "u_", &token), None);
        let others = PageTokens::new(b"another secret", clock.clone()).expect("AES works");
        assert_eq!(open(&others, &acme, "t_", &token), None);
        clock.set(1_003_599);
        assert!(open(&tokens, &acme, "t_", &token).is_some());
        clock.set(1_003_600);
        assert_eq!(open(&tokens, &acme, "t_", &token), None);
    }

    proptest! {
        #[test]
        fn whatever_is_not_a_token_opens_nothing(text in ".{0,80}", flip in 0usize..60) {
            let clock = Clock::standing_at(1);
            let tokens = tokens(&clock);
            let acme = VerifiedTenant::for_tests("acme");
            prop_assert_eq!(open(&tokens, &acme, "", &text), None);
            let mut token = tokens.seal(&acme, &"", "t_a").expect("sealed").into_bytes();
            let at = flip % token.len();
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(token).expect("ASCII");
            prop_assert_eq!(open(&tokens, &acme, "", &changed), None);
        }
    }
}
