//! The issuer's public keys: fetched, refreshed, and the last good set kept for its grace.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_smithy_types::date_time::{DateTime, Format};
use http::header::{AGE, DATE};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Header};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::IdentityError;
use super::token::VerifyingKey;
use crate::clock::jittered;
use crate::settings::{Algorithm, IdentitySettings, Source};
use crate::status::Part;

/// A key set is a few kilobytes; more than this is something else.
const SET_BYTES: usize = 1 << 20;
/// Of one fetch, everything included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two fetches for the sake of unknown keys, so that made-up tokens cannot drown the issuer.
const ASKED_PAUSE: Duration = Duration::from_secs(30);
/// Requests that may wait for a look at once.
const WAITING: usize = 64;
/// Until another try after a failure, unless the next refresh is due sooner.
const RETRY: Duration = Duration::from_secs(15);
/// RFC 7518, 3.3: a key of 2048 bits or larger must be used.
const RSA_MODULUS_BYTES: usize = 256;

/// Why no usable set could be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The URL.
    #[error(transparent)]
    Url(#[from] reqwest::Error),
    /// Something answered, but not with keys.
    #[error("{0}")]
    NoSet(String),
}

/// Keys that served together. A token is remembered with the generation of the set that it verified against.
pub struct KeySet {
    generation: u64,
    /// As published, to tell a change.
    published: Vec<Jwk>,
    keys: Vec<(Option<String>, VerifyingKey)>,
    /// Not empty because the issuer says so, but because it has not been heard for too long.
    away: bool,
}

impl KeySet {
    /// Changes whenever a key comes or goes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether there is none: it could not be had, and the last one is too old.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Whether this very key is in it.
    #[must_use]
    pub fn holds(&self, key: &Jwk) -> bool {
        self.keys.iter().any(|(_, other)| *other.published == *key)
    }

    /// The key that the header names; or the only one, where it names none.
    fn get(&self, header: &Header) -> Option<&VerifyingKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|(_, key)| key.algorithm == header.alg)
            .filter(|(kid, _)| header.kid.is_none() || *kid == header.kid);
        let (_, key) = fitting.next()?;
        (header.kid.is_some() || fitting.next().is_none()).then_some(key)
    }
}

/// The set that serves now, and what keeps it fresh.
pub struct KeySets {
    current: ArcSwap<KeySet>,
    source: KeySource,
    allowed: Vec<jsonwebtoken::Algorithm>,
    refresh: Duration,
    grace: Duration,
    /// Somebody holds a token with an unknown key.
    asked: Notify,
    /// When the last look that is over began, however it went.
    looked: watch::Sender<Option<Instant>>,
    last_asked: Mutex<Option<Instant>>,
    /// Who waits for a look. Nobody has verified them yet, so they must not fill the gateway while an issuer is slow.
    waiting: Semaphore,
}

/// What an issuer publishes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// Keys.
    pub(crate) keys: usize,
    /// Those among them that tokens may be signed with here.
    pub(crate) usable: usize,
}

enum KeySource {
    File(PathBuf),
    Url { url: String, client: reqwest::Client },
}

impl KeySource {
    fn of(settings: &IdentitySettings) -> Result<Self, KeysError> {
        match &settings.jwks {
            Some(Source::File(path)) => Ok(Self::File(path.clone())),
            Some(Source::Url(url)) => Ok(Self::Url {
                url: url.clone(),
                client: reqwest::Client::builder()
                    .timeout(FETCH_TIMEOUT)
                    // Elsewhere is not where the operator said.
                    .redirect(reqwest::redirect::Policy::none())
                    .build()?,
            }),
            other => Err(KeysError::NoSet(format!("{other:?} is no place for keys"))),
        }
    }

    /// What is there; and what time it is there, if that is told.
    async fn ask(&self) -> (Result<Vec<u8>, KeysError>, Option<SystemTime>) {
        match self {
            Self::File(path) => {
                let text = read(path).map_err(|error| KeysError::File {
                    path: path.display().to_string(),
                    error,
                });
                (text, None)
            }
            Self::Url { url, client } => match client.get(url).send().await {
                Ok(answer) => {
                    let told = time_of(&answer);
                    (text_of(answer).await, told)
                }
                Err(error) => (Err(error.into()), None),
            },
        }
    }
}

impl KeySets {
    /// Looks for the keys once. A file has to be there; a URL that does not answer is tried again by [`Self::run`].
    pub async fn open(settings: &IdentitySettings) -> Result<Arc<Self>, KeysError> {
        let source = KeySource::of(settings)?;
        let sets = Arc::new(Self {
            current: ArcSwap::from_pointee(KeySet {
                generation: 0,
                published: Vec::new(),
                keys: Vec::new(),
                away: true,
            }),
            source,
            allowed: allowed(settings),
            refresh: settings.jwks_refresh,
            grace: settings.jwks_grace,
            asked: Notify::new(),
            looked: watch::Sender::new(None),
            last_asked: Mutex::new(None),
            waiting: Semaphore::new(WAITING),
        });
        match (sets.look().await, &sets.source) {
            (Err(error), KeySource::File(_)) => return Err(error),
            (Err(error), KeySource::Url { url, .. }) => {
                tracing::warn!(%url, error = error_chain(&error), "the issuer's keys cannot be had; trying again");
            }
            (Ok(()), _) => {}
        }
        Ok(sets)
    }

    /// Looks once and keeps nothing: what there is, and what time it is there, if that is told.
    pub(crate) async fn look_in(settings: &IdentitySettings) -> (Result<Published, KeysError>, Option<SystemTime>) {
        let (text, told) = match KeySource::of(settings) {
            Ok(source) => source.ask().await,
            Err(error) => (Err(error), None),
        };
        // A URL may hold more than whoever reads this is to know.
        let text = text.map_err(|error| match error {
            KeysError::Url(error) => KeysError::Url(error.without_url()),
            error => error,
        });
        let published = text.and_then(|text| parse(&text, &allowed(settings)));
        let published = published.map(|(keys, usable)| Published {
            keys: keys.len(),
            usable: usable.len(),
        });
        (published, told)
    }

    /// Tells of each look that is over: the set may be another one then.
    #[must_use]
    pub fn looks(&self) -> watch::Receiver<Option<Instant>> {
        self.looked.subscribe()
    }

    /// The set that serves now.
    #[must_use]
    pub fn current(&self) -> Arc<KeySet> {
        self.current.load_full()
    }

    /// Whether there ever were any since this gateway started.
    #[must_use]
    pub fn were_had(&self) -> bool {
        self.current.load().generation > 0
    }

    /// The key that `header` names, in `set` or, if it is not there, in a newer one.
    pub(super) async fn find(
        &self,
        set: Arc<KeySet>,
        header: &Header,
    ) -> Result<(Arc<KeySet>, VerifyingKey), IdentityError> {
        if !self.allowed.contains(&header.alg) {
            return Err(IdentityError::Signature(
                "the token's `alg` is not one that is accepted here",
            ));
        }
        if let Some(key) = set.get(header) {
            let key = key.clone();
            return Ok((set, key));
        }
        self.look_for_unknown().await;
        let set = self.current();
        match set.get(header) {
            Some(key) => {
                let key = key.clone();
                Ok((set, key))
            }
            None if set.away => Err(IdentityError::KeysAway),
            None => Err(IdentityError::Signature("the token names no key of the issuer's")),
        }
    }

    /// Has the refresher look now, and waits for it; unless it did so for somebody a moment ago.
    async fn look_for_unknown(&self) {
        let Ok(_place) = self.waiting.try_acquire() else {
            return;
        };
        let mut looked = self.looked.subscribe();
        let asked = {
            let now = Instant::now();
            let mut last = self.last_asked.lock().unwrap_or_else(PoisonError::into_inner);
            match *last {
                // Others ask for the same, and the answer is still on its way: wait with them.
                Some(asked) if looked.borrow().is_none_or(|begun| begun < asked) => asked,
                Some(asked) if now < asked + ASKED_PAUSE => return,
                _ => {
                    *last = Some(now);
                    self.asked.notify_one();
                    now
                }
            }
        };
        // A look that began before does not count: it may have missed what is new. Bounded, for the refresher may be gone
        // with the process.
        let begun_since = looked.wait_for(|begun| begun.is_some_and(|begun| begun >= asked));
        _ = timeout(2 * FETCH_TIMEOUT, begun_since).await;
    }

    /// Keeps the set fresh, and says of `part` whether it can be had. Runs until it is dropped.
    pub async fn run(&self, part: &Part) {
        let mut last_good = Instant::now();
        // What could not be had at the start is tried again soon.
        let first = if self.current().away {
            self.refresh.min(RETRY)
        } else {
            self.refresh
        };
        let mut due = last_good + jittered(first);
        loop {
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.asked.notified() => {}
            }
            let begun = Instant::now();
            let looked = self.look().await;
            let now = Instant::now();
            match looked {
                Ok(()) => {
                    last_good = now;
                    part.is_ready("");
                    due = now + jittered(self.refresh);
                }
                Err(error) => {
                    tracing::warn!(
                        error = error_chain(&error),
                        "the issuer's keys cannot be had; the last ones serve on"
                    );
                    part.is_away("they cannot be had; the last good ones serve for identity.jwks_grace");
                    due = now + jittered(self.refresh.min(RETRY));
                    if now >= last_good + self.grace && !self.current().away {
                        tracing::error!("the last keys were good {:?} ago: no token passes any more", self.grace);
                        self.replace(Vec::new(), Vec::new(), true);
                    }
                }
            }
            self.looked.send_replace(Some(begun));
        }
    }

    async fn look(&self) -> Result<(), KeysError> {
        let (text, _) = self.source.ask().await;
        let (published, keys) = parse(&text?, &self.allowed)?;
        if self.current().published != published || self.current().away {
            self.replace(published, keys, false);
        }
        Ok(())
    }

    fn replace(&self, published: Vec<Jwk>, keys: Vec<(Option<String>, VerifyingKey)>, away: bool) {
        let generation = self.current().generation + 1;
        tracing::info!(
            generation,
            keys = keys.len(),
            published = published.len(),
            "the issuer's keys have changed"
        );
        self.current.store(Arc::new(KeySet {
            generation,
            published,
            keys,
            away,
        }));
    }
}

/// A small local file, seldom: done where it is asked for.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(SET_BYTES as u64).read_to_end(&mut text)?;
    Ok(text)
}

async fn text_of(answer: reqwest::Response) -> Result<Vec<u8>, KeysError> {
    let mut answer = answer.error_for_status()?;
    if !answer.status().is_success() {
        return Err(KeysError::NoSet(format!(
            "{} answers {}",
            answer.url(),
            answer.status()
        )));
    }
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if text.len() + chunk.len() > SET_BYTES {
            return Err(KeysError::NoSet(format!("{} answers more than 1 MiB", answer.url())));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

/// What time it is there. A cache on the way says how long ago it heard that (RFC 9110, 6.6.1; RFC 9111, 5.1).
fn time_of(answer: &reqwest::Response) -> Option<SystemTime> {
    let text = |name| answer.headers().get(name)?.to_str().ok();
    let date = DateTime::from_str(text(DATE)?, Format::HttpDate).ok()?;
    let age: u64 = text(AGE).and_then(|age| age.parse().ok()).unwrap_or(0);
    SystemTime::try_from(date).ok()?.checked_add(Duration::from_secs(age))
}

type Usable = Vec<(Option<String>, VerifyingKey)>;

/// Keys that may sign with what is allowed. Others are none of ours and are passed over; a set in which nothing is
/// usable, though, is more likely a mistake than a withdrawal, which says `"keys": []`.
fn parse(text: &[u8], allowed: &[jsonwebtoken::Algorithm]) -> Result<(Vec<Jwk>, Usable), KeysError> {
    let set: JwkSet = serde_json::from_slice(text)
        .map_err(|error| KeysError::NoSet(format!("not a JSON Web Key Set (RFC 7517, 5): {error}")))?;
    let usable: Usable = set
        .keys
        .iter()
        .filter_map(|jwk| Some((jwk.common.key_id.clone(), usable(jwk, allowed)?)))
        .collect();
    if usable.is_empty() && !set.keys.is_empty() {
        return Err(KeysError::NoSet(format!(
            "none of its keys is for signing with {allowed:?}"
        )));
    }
    Ok((set.keys, usable))
}

fn usable(jwk: &Jwk, allowed: &[jsonwebtoken::Algorithm]) -> Option<VerifyingKey> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            // base64url without padding: 4 characters for 3 bytes.
            (rsa.n.len() * 3 / 4 >= RSA_MODULUS_BYTES).then_some(jsonwebtoken::Algorithm::RS256)?
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            (ec.curve == EllipticCurve::P256).then_some(jsonwebtoken::Algorithm::ES256)?
        }
        AlgorithmParameters::OctetKeyPair(okp) => {
            (okp.curve == EllipticCurve::Ed25519).then_some(jsonwebtoken::Algorithm::EdDSA)?
        }
        _ => return None,
    };
    let for_signing = jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|for_what| *for_what == PublicKeyUse::Signature);
    let of_this_algorithm = jwk
        .common
        .key_algorithm
        .is_none_or(|named| named == KeyAlgorithm::from(algorithm));
    if !allowed.contains(&algorithm) || !for_signing || !of_this_algorithm {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerifyingKey {
        key,
        algorithm,
        published: Arc::new(jwk.clone()),
    })
}

fn allowed(settings: &IdentitySettings) -> Vec<jsonwebtoken::Algorithm> {
    settings.algorithms.iter().copied().map(algorithm).collect()
}

fn algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

/// reqwest keeps the reason in its sources.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
