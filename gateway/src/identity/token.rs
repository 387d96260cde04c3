//! The bearer's text, and what its signature proves.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Header, Validation};
use serde_json::Value;

use super::IdentityError;

/// Longest token, in bytes. HTTP/2 servers commonly take 16 KiB of headers in all.
const TOKEN_BYTES: usize = 12 * 1024;

/// A bearer token: a secret, so it prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A key of the issuer, and what it may sign with.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pub(super) key: DecodingKey,
    pub(super) algorithm: jsonwebtoken::Algorithm,
    pub(super) published: Arc<Jwk>,
}

/// So that one can be looked up by a text that may be one.
impl Borrow<str> for Token {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a request shows for a token: exactly one, as RFC 6750 (2.1) writes it.
pub(super) fn shown(headers: &HeaderMap) -> Result<&str, IdentityError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(IdentityError::TokenMissing)?;
    if values.next().is_some() {
        return Err(IdentityError::TokenMalformed("more than one `authorization`"));
    }
    let text =
        str::from_utf8(value.as_bytes()).map_err(|_| IdentityError::TokenMalformed("`authorization` is not text"))?;
    let (scheme, token) = text.split_once(' ').ok_or(IdentityError::TokenMissing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(IdentityError::TokenMissing);
    }
    Ok(token.trim_matches(' '))
}

impl Token {
    /// The token itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The header, which nothing vouches for yet.
    pub(super) fn header(&self) -> Result<Header, IdentityError> {
        let header = jsonwebtoken::decode_header(&*self.0).map_err(|_| {
            IdentityError::TokenMalformed("the token's header cannot be read, or names an unknown `alg`")
        })?;
        if header.crit.is_some() {
            // RFC 7515, 4.1.11: whoever does not understand each of them refuses.
            return Err(IdentityError::TokenMalformed(
                "the token has critical extensions (`crit`)",
            ));
        }
        if header.enc.is_some() || header.zip.is_some() {
            return Err(IdentityError::TokenMalformed("the token is encrypted or compressed"));
        }
        Ok(header)
    }

    /// The payload, if `key` signed it. Times and names in it are not judged here: they go by our clock and rules.
    pub(super) fn verify(&self, key: &VerifyingKey) -> Result<serde_json::Map<String, Value>, IdentityError> {
        let mut validation = Validation::new(key.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        jsonwebtoken::decode(&*self.0, &key.key, &validation)
            .map(|data| data.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::Json(_) | ErrorKind::Utf8(_) => IdentityError::TokenMalformed(
                    "the token's payload is no JSON object with claims of the usual types",
                ),
                _ => IdentityError::Signature("the token is not signed by the key that it names"),
            })
    }
}

impl std::str::FromStr for Token {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > TOKEN_BYTES {
            return Err(IdentityError::TokenMalformed("the token is longer than 12 KiB"));
        }
        let part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if text.split('.').count() != 3 || !text.split('.').all(part) {
            return Err(IdentityError::TokenMalformed(
                "the token is no signed JWT: three parts of base64url joined by \".\"",
            ));
        }
        Ok(Self(text.into()))
    }
}
