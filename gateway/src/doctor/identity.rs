//! The issuer's keys: whether they can be had from here, and whether tokens may be signed with any of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::aws;
use super::clock::{Told, compared, untold};
use super::{Check, Examined, Finding};
use crate::clock::Clock;
use crate::identity::{KeySets, KeysError, Published, error_chain};
use crate::settings::{IdentitySettings, Source};

const SUBJECT: &str = "identity.jwks";

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let of = of.clone();
    vec![Check::new(SUBJECT, async move {
        let mut findings = keys(&of.settings.identity, &of.clock).await;
        if matches!(of.settings.identity.jwks, Some(Source::File(_))) && !aws::is_needed(&of.settings) {
            findings.push(untold());
        }
        findings
    })]
}

async fn keys(settings: &IdentitySettings, clock: &Clock) -> Vec<Finding> {
    let asked = clock.now();
    let (published, date) = KeySets::look_in(settings).await;
    let heard = clock.now();
    let place = settings.jwks.as_ref().map(without_secrets).unwrap_or_default();
    let elsewhere = format!("see whether {place} is the issuer's key set, and set identity.jwks to where that is");
    let mut findings = vec![match published {
        Ok(published) if published.usable == 0 => {
            Finding::fail(SUBJECT, format!("no key is in {place}: no token passes"), elsewhere)
        }
        Ok(Published { keys, usable }) => {
            let found = format!("{place}: {usable} of {keys} keys may sign as identity.algorithms say");
            Finding::ok(SUBJECT, found)
        }
        Err(KeysError::File { path, error }) => Finding::fail(
            SUBJECT,
            format!("{path}: {error}"),
            "put the issuer's key set there, for this user to read, or set identity.jwks to where it is",
        ),
        Err(KeysError::Url(error)) => Finding::fail(
            SUBJECT,
            format!("{place}: {}", error_chain(&error)),
            format!("see what is on the way there (curl -sS {place}), or set identity.jwks to where the keys are"),
        ),
        Err(KeysError::NoSet(why)) => Finding::fail(
            SUBJECT,
            format!("{place}: {why}"),
            format!("{elsewhere}; or set identity.algorithms to what the issuer signs with"),
        ),
    }];
    if let Some(Source::File(path)) = &settings.jwks {
        findings.extend(changed_by_others(path));
    } else {
        let told = date.map(|date| Told { date, asked, heard });
        findings.push(compared("the issuer", told, settings.leeway));
    }
    findings
}

/// Who writes there makes tokens.
fn changed_by_others(path: &Path) -> Option<Finding> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o022 != 0).then(|| {
        let path = path.display();
        Finding::warn(
            format!("mode of {path}"),
            format!("{mode:o}: others may write there, and whoever does makes tokens"),
            format!("chmod go-w {path}"),
        )
    })
}

/// A URL may hold a password, or a key in its query.
fn without_secrets(source: &Source) -> String {
    let Source::Url(text) = source else {
        return source.to_string();
    };
    match reqwest::Url::parse(text) {
        Ok(url) => format!(
            "{}://{}{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.port().map(|port| format!(":{port}")).unwrap_or_default() + url.path()
        ),
        Err(_) => "identity.jwks".to_owned(),
    }
}
