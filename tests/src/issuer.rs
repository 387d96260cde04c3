//! Signs tokens: good ones, and every kind of bad one. It shares no code with the gateway, so that both cannot be wrong
//! in the same way.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The issuer that gateways under test believe.
pub const ISSUER: &str = "https://issuer.test";
/// Their audience.
pub const AUDIENCE: &str = "tagway";

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A signing key with a name.
pub struct Key {
    kid: String,
    pair: Pair,
}

impl Key {
    /// RSA of 2048 bits.
    #[must_use]
    pub fn rsa(kid: &str) -> Self {
        Self::of(kid, Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")))
    }

    /// P-256.
    #[must_use]
    pub fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self::of(kid, Pair::Ec(pair))
    }

    /// Ed25519.
    #[must_use]
    pub fn ed(kid: &str) -> Self {
        Self::of(kid, Pair::Ed(Ed25519KeyPair::generate().expect("a key")))
    }

    fn of(kid: &str, pair: Pair) -> Self {
        Self {
            kid: kid.to_owned(),
            pair,
        }
    }

    /// The algorithm's name in a header.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The public half, as a JSON Web Key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": encode(public.modulus().big_endian_without_leading_zero()),
                    "e": encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Pair::Ec(pair) => {
                let public = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&public[1..33]), "y": encode(&public[33..]) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) }),
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The header that a good token of this key has.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({ "typ": "JWT", "alg": self.algorithm(), "kid": self.kid })
    }

    /// A token with this key's signature under any header and any payload.
    #[must_use]
    pub fn sign(&self, header: &Value, payload: &Value) -> String {
        let message = message(header, payload);
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message.as_bytes(),
                    &mut signature,
                )
                .expect("signed");
                signature
            }
            Pair::Ec(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
                signature.as_ref().to_vec()
            }
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(&signature))
    }

    /// A good token with this payload.
    #[must_use]
    pub fn token(&self, payload: &Value) -> String {
        self.sign(&self.header(), payload)
    }

    /// A token that an HMAC "signs" with the public key, for verifiers that take one for the other.
    #[must_use]
    pub fn confused(&self, payload: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": "HS256", "kid": self.kid });
        let message = message(&header, payload);
        let public = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(pair) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
        };
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public), message.as_bytes());
        format!("{message}.{}", encode(tag.as_ref()))
    }
}

/// Keys as a JSON Web Key Set.
#[must_use]
pub fn key_set(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}

/// The payload of a good token that may read and write for an hour.
#[must_use]
pub fn claims(tenant: &str) -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "tester",
        "iat": now(),
        "exp": now() + 3600,
        "tenant_id": tenant,
        "scope": "read write",
    })
}

/// The same with one more member, or another value of it.
#[must_use]
pub fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

/// The same without a member.
///
/// # Panics
/// If it is no object.
#[must_use]
pub fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

/// Seconds since the epoch.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the issuer has a clock of its own")]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// base64url without padding.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Header and payload, unsigned.
#[must_use]
pub fn message(header: &Value, payload: &Value) -> String {
    format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(payload.to_string().as_bytes())
    )
}
