//! The certificate that is shown and the one that is asked for: whether they fit, and how long they are good.

use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_seconds};

use super::files::is_open;
use super::{Check, Examined, Finding};
use crate::clock::Clock;
use crate::settings::TlsSettings;
use crate::tls::{Certificates, TlsError, signers_expire};

/// A certificate that ends sooner should be renewed by now.
const SOON: Duration = Duration::from_hours(30 * 24);

const SUBJECT: &str = "server.tls";

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let Some(tls) = of.settings.server.tls.clone() else {
        return Vec::new();
    };
    let clock = of.clock.clone();
    vec![Check::blocking(SUBJECT, move || look(&tls, &clock))]
}

fn look(tls: &TlsSettings, clock: &Clock) -> Vec<Finding> {
    let now = clock.now();
    let cert = tls.cert.display();
    let mut findings = vec![match Certificates::open(tls) {
        Ok(certificates) if !certificates.is_good(now) && certificates.expires() > now => Finding::fail(
            SUBJECT,
            format!("{cert} is not good yet: no client believes it"),
            "see what is wrong with this machine's clock, or renew it",
        ),
        Ok(certificates) => ends(SUBJECT, &cert.to_string(), certificates.expires(), now, Finding::fail),
        Err(error @ TlsError::Unfit(_)) => Finding::fail(
            SUBJECT,
            error.to_string(),
            format!(
                "put the private key that {cert} was made for into {}",
                tls.key.display()
            ),
        ),
        Err(error) => Finding::fail(
            SUBJECT,
            error.to_string(),
            "put it there, in PEM, for this user to read, or set server.tls to where it is",
        ),
    }];
    findings.extend(is_open(&tls.key));
    if let (Some(path), Some(expires)) = (&tls.client_ca, signers_expire(tls)) {
        let path = path.display().to_string();
        // The gateway does not mind; clients' own libraries may.
        findings.push(ends("server.tls.client_ca", &path, expires, now, Finding::warn));
    }
    findings
}

/// Whether that certificate is good for long. `over` is what it is to be over.
fn ends(
    subject: &str,
    path: &str,
    expires: SystemTime,
    now: SystemTime,
    over: fn(String, String, String) -> Finding,
) -> Finding {
    let until = format_rfc3339_seconds(expires);
    let fix = format!("renew it, and put the new one into {path}: a gateway that runs takes it up by itself");
    match expires.duration_since(now) {
        Ok(left) if left > SOON => Finding::ok(subject, format!("{path} is good until {until}")),
        Ok(left) => {
            let left = format_duration(Duration::from_secs(left.as_secs() / 3600 * 3600));
            Finding::warn(subject, format!("{path} is good until {until}, {left} from now"), fix)
        }
        Err(_) => over(subject.to_owned(), format!("{path} was good until {until}"), fix),
    }
}
