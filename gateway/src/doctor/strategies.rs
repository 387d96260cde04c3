//! Strategies: each is fetched, compared with its digest, compiled, configured and probed, as when a gateway starts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Check, Examined, Finding};
use crate::app;
use crate::key::Tag;
use crate::settings::{Settings, Source};
use crate::strategy::{Rejected, Stage};

/// Of one that is compiled, on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let strategies = of.settings.strategies.iter();
    let checks = strategies.map(|(name, strategy)| {
        // One by one, so that one whose source hangs hides none.
        let settings = Settings {
            strategies: BTreeMap::from([(name.clone(), strategy.clone())]),
            ..Settings::clone(&of.settings)
        };
        let subject = format!("strategies.{name}");
        let check = Check::new(subject.clone(), async move { load(&subject, &settings).await });
        match strategy.source {
            Source::S3(_) => check.asks_aws(),
            _ => check.within(LIMIT),
        }
    });
    checks.collect()
}

async fn load(subject: &str, settings: &Settings) -> Vec<Finding> {
    let registry = match app::load_strategies(settings).await {
        Ok(registry) => registry,
        Err(error) => {
            let fix = "see how much memory this process may have (ulimit -v)";
            return vec![Finding::fail(subject, error.to_string(), fix)];
        }
    };
    let snapshot = registry.current();
    let serves = snapshot.strategies().map(|strategy| {
        let tags: Vec<&str> = strategy.tags().iter().map(Tag::as_str).collect();
        let (version, digest) = (strategy.version(), strategy.digest());
        Finding::ok(subject, format!("{version} serves {}, {digest}", tags.join(" ")))
    });
    let rejected = snapshot.rejected().map(|rejected| {
        let found = format!("could not be {}: {}", rejected.stage, rejected.reason);
        Finding::fail(subject, found, fix(subject, rejected))
    });
    serves.chain(rejected).collect()
}

fn fix(subject: &str, rejected: &Rejected) -> String {
    match rejected.stage {
        Stage::Fetched => {
            format!("put the component there, for this user to read, or set {subject}.source to where it is")
        }
        Stage::Verified => format!("put the component there that is meant, or set {subject}.digest to this one's"),
        Stage::Compiled => format!("make the component anew with tagway-plugin-builder, or raise {subject}.limits"),
        Stage::Configured => format!("set {subject}.settings, .tags and .backends to what it accepts and claims"),
        Stage::Probed | Stage::Shadowed | Stage::Active => {
            "its author has to mend it: go back to the version before".to_owned()
        }
    }
}
