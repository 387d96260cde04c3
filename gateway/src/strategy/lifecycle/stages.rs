//! The stages that a version passes by itself: verified, compiled, configured, probed; or rejected, with the one that it
//! did not reach and why.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;

use aws_lc_rs::digest;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::conformance;
use crate::key::Tag;
use crate::placement::Grants;
use crate::settings::{Source, StrategySettings};
use crate::strategy::component::Prepared as Component;
use crate::strategy::engine::Engine;
use crate::strategy::limits::{CallError, Limits, first_lines};
use crate::strategy::version::{Fingerprint, Version};
use crate::wit;

/// Bytes that the answer to a request may take on the host's side: 32 placements with every field at its longest.
const DECISION_BYTES: usize = 64 << 10;
/// Bytes that a manifest or the examples may take.
const MANIFEST_BYTES: usize = 1 << 20;
/// What happens once a version may take so many times what a request may.
const ONCE: u32 = 10;
/// Most claims, and most dimensions, that a manifest asks for.
const ASKED_FOR: usize = 32;
/// Most examples.
const EXAMPLES: usize = 256;
/// Of a call that does not get to run.
const TRIES: u32 = 5;

/// How far a version came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its bytes are here.
    Fetched,
    /// They are what the operator named.
    Verified,
    /// They run here.
    Compiled,
    /// It accepts its settings and claims what it may.
    Configured,
    /// It does what it says, and what every strategy must.
    Probed,
    /// It moves nothing unasked.
    Shadowed,
    /// It serves.
    Active,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetched => "fetched",
            Self::Verified => "verified",
            Self::Compiled => "compiled",
            Self::Configured => "configured",
            Self::Probed => "probed",
            Self::Shadowed => "shadowed",
            Self::Active => "active",
        })
    }
}

/// Why a version does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("strategies.{name}: could not be {stage}: {reason}")]
pub struct Rejected {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// The stage that it did not reach.
    pub stage: Stage,
    /// For operators.
    pub reason: String,
    /// Another time it may go well: nothing is wrong with the version.
    pub may_pass: bool,
}

impl Rejected {
    /// The settings do not let it serve anything.
    pub(in crate::strategy) fn ungranted(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            stage: Stage::Active,
            reason: "the settings grant it no tag that it serves".to_owned(),
            may_pass: false,
        }
    }

    /// Nobody has looked for it yet.
    pub(in crate::strategy) fn never(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            stage: Stage::Fetched,
            reason: "its source was not looked at yet".to_owned(),
            may_pass: true,
        }
    }

    /// It is not to be had.
    pub(in crate::strategy) fn unfetched(name: &Arc<str>, source: &Source, error: &io::Error) -> Self {
        Self {
            name: Arc::clone(name),
            stage: Stage::Fetched,
            reason: format!("{source}: {error}"),
            may_pass: true,
        }
    }
}

/// What a strategy learns of a backend that it is granted.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Its id in the catalog.
    pub id: Arc<str>,
    /// `embedded`, `dynamodb`, `ssm`.
    pub kind: String,
    /// Largest value.
    pub max_value_bytes: u32,
    /// What the operator wrote there.
    pub attributes: Vec<(String, String)>,
}

/// A component on its way, which goes on whether or not somebody looks.
pub(in crate::strategy) struct Prepared {
    name: Arc<str>,
    stages: UnboundedReceiver<Stage>,
    end: JoinHandle<Result<Version, Rejected>>,
}

impl Prepared {
    /// The next stage that it reaches; none once it reaches no further.
    pub(in crate::strategy) async fn stage(&mut self) -> Option<Stage> {
        self.stages.recv().await
    }

    /// What became of it.
    pub(in crate::strategy) async fn end(self) -> Result<Version, Rejected> {
        let panicked = |_| Rejected {
            name: self.name,
            stage: Stage::Compiled,
            reason: "the compiler panicked on it".to_owned(),
            may_pass: false,
        };
        self.end.await.map_err(panicked)?
    }
}

/// Takes a component as far as it comes, off the runtime's threads, where a panic is one more refusal: malformed bytes have
/// panicked compilers before.
pub(in crate::strategy) fn prepare(
    engine: &Engine,
    name: &Arc<str>,
    settings: &StrategySettings,
    catalog: &[Backend],
    fingerprint: Fingerprint,
    bytes: Arc<[u8]>,
) -> Prepared {
    let (reached, stages) = unbounded_channel();
    let end = {
        let (engine, name, settings) = (engine.clone(), Arc::clone(name), settings.clone());
        let catalog = catalog.to_vec();
        tokio::spawn(async move {
            let _turn = engine.preparing().acquire().await;
            let prepared = {
                let (engine, name) = (engine.clone(), Arc::clone(&name));
                tokio::task::spawn_blocking(move || {
                    // Nobody may look.
                    let reached = |stage| _ = reached.send(stage);
                    prepare_here(&engine, &name, &settings, &catalog, fingerprint, &bytes, reached)
                })
            };
            match prepared.await {
                Ok(prepared) => prepared,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        })
    };
    Prepared {
        name: Arc::clone(name),
        stages,
        end,
    }
}

fn prepare_here(
    engine: &Engine,
    name: &Arc<str>,
    settings: &StrategySettings,
    catalog: &[Backend],
    fingerprint: Fingerprint,
    bytes: &Arc<[u8]>,
    reached: impl Fn(Stage),
) -> Result<Version, Rejected> {
    let reject = |stage: Stage, reason: String| Rejected {
        name: Arc::clone(name),
        stage,
        reason,
        may_pass: false,
    };
    let failed = |stage: Stage, failure: Failure| Rejected {
        may_pass: failure.may_pass,
        ..reject(stage, failure.reason)
    };
    let digest = &fingerprint.digest;
    if let Some(wanted) = settings.digest.as_ref().filter(|wanted| *wanted != digest) {
        let reason = format!("it is {digest}, and {wanted} is what the settings name");
        return Err(reject(Stage::Verified, reason));
    }
    reached(Stage::Verified);
    let size = settings.limits.component.0;
    let prepared =
        Component::compile(engine, bytes, size).map_err(|error| reject(Stage::Compiled, error.to_string()))?;
    reached(Stage::Compiled);
    let granted = catalog
        .iter()
        .filter(|backend| settings.backends.iter().any(|id| **id == *backend.id));
    let setup = setup(settings, granted.clone());
    let calls = Limits::new(&settings.limits, DECISION_BYTES);
    let once = calls.relaxed(ONCE, MANIFEST_BYTES);
    let manifest = patiently(|| {
        prepared.call_configured(&once, &setup, |store, instance| {
            instance.tagway_strategy_lifecycle().call_describe(store)
        })
    });
    let manifest = manifest.map_err(|error| failed(Stage::Configured, Failure::of_call("", &error)))?;
    let tags = claimed(&manifest, settings).map_err(|reason| reject(Stage::Configured, reason))?;
    reached(Stage::Configured);
    probe(&prepared, &once, &calls.patient(ONCE)).map_err(|failure| failed(Stage::Probed, failure))?;
    let version = Version {
        name: Arc::clone(name),
        semver: manifest.version,
        fingerprint,
        settings: settings.clone(),
        tags,
        claims: manifest.claims,
        context: manifest.context,
        grants: Grants {
            backends: granted.map(|backend| Arc::clone(&backend.id)).collect(),
            shared: settings.shared_scope,
        },
        prepared,
        bytes: Arc::clone(bytes),
        setup,
        limits: calls,
        engine: engine.clone(),
    };
    conformance::check(&version).map_err(|failure| failed(Stage::Probed, failure))?;
    reached(Stage::Probed);
    Ok(version)
}

fn setup<'c>(settings: &StrategySettings, granted: impl Iterator<Item = &'c Backend>) -> wit::Setup {
    let attribute = |(name, value): &(String, String)| wit::Attribute {
        name: name.clone(),
        value: value.clone(),
    };
    wit::Setup {
        settings: serde_json::Value::Object(settings.settings.clone()).to_string(),
        catalog: granted
            .map(|backend| wit::BackendInfo {
                id: backend.id.to_string(),
                kind: backend.kind.clone(),
                max_value_bytes: backend.max_value_bytes,
                attributes: backend.attributes.iter().map(attribute).collect(),
            })
            .collect(),
        attributes: Vec::new(),
    }
}

/// What the manifest claims of the key space, if it may.
fn claimed(manifest: &wit::Manifest, settings: &StrategySettings) -> Result<Vec<Tag>, String> {
    for (what, text) in [("name", &manifest.name), ("version", &manifest.version)] {
        if !(1..=64).contains(&text.len()) || text.chars().any(char::is_control) {
            return Err(format!("its manifest's {what} is not 1 to 64 printable bytes"));
        }
    }
    for (what, names) in [("claims", &manifest.claims), ("context", &manifest.context)] {
        if names.len() > ASKED_FOR || names.iter().any(|name| !(1..=64).contains(&name.len())) {
            return Err(format!(
                "its manifest asks for more than 32 {what}, or for one that is not 1 to 64 bytes long"
            ));
        }
    }
    let mut tags = BTreeSet::new();
    for claimed in &manifest.tags {
        let tag: Tag = claimed
            .prefix
            .parse()
            .map_err(|problem| format!("its manifest claims {:?}: {problem}", first_lines(&claimed.prefix)))?;
        if !settings.tags.contains(&tag) {
            return Err(format!(
                "its manifest claims `{tag}`, which its `tags` in the settings do not allow"
            ));
        }
        tags.insert(tag);
    }
    if tags.is_empty() {
        return Err("its manifest claims no tag".to_owned());
    }
    Ok(tags.into_iter().collect())
}

/// What a version does wrong, or what kept it from being seen.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// The machine was busy.
    pub(super) may_pass: bool,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            may_pass: false,
        }
    }

    fn of_call(what: &str, error: &CallError) -> Self {
        Self {
            reason: format!("{what}{error}"),
            may_pass: matches!(error, CallError::Busy(_)),
        }
    }
}

/// Calls again what did not get to run.
pub(super) fn patiently<T>(call: impl Fn() -> Result<T, CallError>) -> Result<T, CallError> {
    for _ in 1..TRIES {
        match call() {
            Err(CallError::Busy(_)) => {}
            other => return other,
        }
    }
    call()
}

/// Replays the examples, each twice: a strategy is pure, so what it says once it says again.
fn probe(prepared: &Component, once: &Limits, calls: &Limits) -> Result<(), Failure> {
    let examples = patiently(|| {
        prepared.call(once, |store, instance| {
            instance.tagway_strategy_lifecycle().call_examples(store)
        })
    });
    let examples = examples.map_err(|error| Failure::of_call("its examples: ", &error))?;
    if examples.len() > EXAMPLES {
        return Err(Failure::new(format!(
            "it has {} examples; at most {EXAMPLES}",
            examples.len()
        )));
    }
    for example in &examples {
        let title = first_lines(&example.title);
        for _ in 0..2 {
            let answer = patiently(|| {
                prepared.call_configured(calls, &example.setup, |store, instance| {
                    instance.tagway_strategy_router().call_decide(store, &example.input)
                })
            });
            let answer = answer.map_err(|error| Failure::of_call(&format!("its example {title:?}: "), &error))?;
            if !agree(&answer, &example.expected) {
                let answer = first_lines(&format!("{answer:?}"));
                return Err(Failure::new(format!(
                    "its example {title:?} does not come out as it says, but as {answer}"
                )));
            }
        }
    }
    Ok(())
}

/// `strategy.wit`: reasons and messages are not compared.
fn agree(a: &Result<wit::Decision, wit::Refusal>, b: &Result<wit::Decision, wit::Refusal>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => {
            let same = |a: &[wit::Placement], b: &[wit::Placement]| {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_placement(a, b))
            };
            same_placement(&a.home, &b.home) && same(&a.former, &b.former) && same(&a.defaults, &b.defaults)
        }
        (Err(a), Err(b)) => std::mem::discriminant(a) == std::mem::discriminant(b),
        _ => false,
    }
}

fn same_placement(a: &wit::Placement, b: &wit::Placement) -> bool {
    let cache = |placement: &wit::Placement| {
        let policy = placement.cache.as_ref()?;
        Some((policy.ttl_ms, policy.stale_ms, policy.negative_ms))
    };
    let options = |placement: &wit::Placement| -> Vec<(String, String)> {
        let options = placement.options.iter();
        options
            .map(|option| (option.name.clone(), option.value.clone()))
            .collect()
    };
    a.backend == b.backend
        && a.scope == b.scope
        && a.namespace == b.namespace
        && cache(a) == cache(b)
        && options(a) == options(b)
}

pub(in crate::strategy) fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut text = "sha256:".to_owned();
    for byte in digest.as_ref() {
        // A String takes whatever is written to it.
        _ = write!(text, "{byte:02x}");
    }
    text
}
