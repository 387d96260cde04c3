//! A signing key of the gateway's own, for development: `tagway serve` without a file makes it, `tagway token` mints
//! with it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::Token;
use crate::clock::Clock;
use crate::settings::Permission;
use crate::settings::development::{AUDIENCE, ISSUER, JWKS};

/// The private key, PKCS#8, under the data folder.
const KEY: &str = "signing-key.p8";

/// Mints tokens that a gateway without a file accepts.
pub struct DevelopmentKey {
    key: EncodingKey,
    kid: String,
}

/// What a development token says.
pub struct Claims<'a> {
    /// One tenant, or several to pick from.
    pub tenants: &'a [String],
    /// Who.
    pub subject: &'a str,
    /// May do what.
    pub permissions: &'a [Permission],
    /// For how long.
    pub lifetime: Duration,
    /// Further claims, for strategies that ask for them.
    pub further: &'a serde_json::Map<String, serde_json::Value>,
}

impl DevelopmentKey {
    /// The key under `data`; made if there is none, with the folder around it and the public set beside it.
    pub fn open_or_create(data: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data)?;
        let path = data.join(KEY);
        if !path.exists() {
            let pair = Ed25519KeyPair::generate().map_err(|_| io::Error::other("no key could be generated"))?;
            let document = pair
                .to_pkcs8v1()
                .map_err(|_| io::Error::other("the key could not be written down"))?;
            write_new(&path, document.as_ref())?;
        }
        let (this, jwk) = Self::read(&path)?;
        let set = serde_json::to_vec_pretty(&JwkSet { keys: vec![jwk] })?;
        let jwks = data.join(JWKS);
        if fs::read(&jwks).ok().as_ref() != Some(&set) {
            fs::write(jwks, set)?;
        }
        Ok(this)
    }

    /// The key under `data`, which `tagway serve` has made.
    pub fn open(data: &Path) -> io::Result<Self> {
        Ok(Self::read(&data.join(KEY))?.0)
    }

    fn read(path: &Path) -> io::Result<(Self, Jwk)> {
        let wrong = |error: jsonwebtoken::errors::Error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let key = EncodingKey::from_ed_der(&fs::read(path).map_err(named)?);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).map_err(wrong)?;
        // RFC 7638: a key's own digest is a name that needs no bookkeeping.
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(wrong)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok((Self { key, kid }, jwk))
    }

    /// Signs a token.
    pub fn mint(&self, claims: &Claims<'_>, clock: &Clock) -> io::Result<Token> {
        let now = clock.seconds();
        let scope: Vec<String> = claims.permissions.iter().map(ToString::to_string).collect();
        let tenant = match claims.tenants {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        };
        let mut payload = claims.further.clone();
        let ours = [
            ("iss", Some(json!(ISSUER))),
            ("aud", Some(json!(AUDIENCE))),
            ("sub", Some(json!(claims.subject))),
            ("iat", Some(json!(now))),
            ("exp", Some(json!(now.saturating_add(claims.lifetime.as_secs())))),
            ("scope", Some(json!(scope.join(" ")))),
            ("tenant_id", tenant),
        ];
        payload.extend(
            ours.into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?))),
        );
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        let text = jsonwebtoken::encode(&header, &payload, &self.key).map_err(io::Error::other)?;
        text.parse().map_err(io::Error::other)
    }
}

/// Whole or not at all, and for this user's eyes alone.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)
}
