//! Where the audit and traces go.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::files::{can_hold, folder_of};
use super::{Check, Examined, Finding};
use crate::settings::AuditTo;

/// For a collector to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

const AUDIT: &str = "telemetry.audit";
const COLLECTOR: &str = "telemetry.otlp_endpoint";

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let telemetry = &of.settings.telemetry;
    let mut checks = Vec::new();
    if let Some(AuditTo::File(path)) = telemetry.audit() {
        checks.push(Check::blocking(AUDIT, move || vec![audit(&path)]));
    }
    if let Some(url) = telemetry.otlp_endpoint().and_then(|url| reqwest::Url::parse(url).ok()) {
        checks.push(Check::new(COLLECTOR, async move { vec![collector(&url).await] }));
    }
    checks
}

fn audit(path: &Path) -> Finding {
    if !path.exists() {
        return match can_hold(AUDIT, &folder_of(path)) {
            Ok(()) => Finding::ok(AUDIT, format!("{} is made when the gateway starts", path.display())),
            Err(finding) => finding,
        };
    }
    let path_shown = path.display();
    match access(path, Access::WRITE_OK) {
        Ok(()) if !path.is_dir() => Finding::ok(AUDIT, format!("{path_shown} can be written to")),
        Ok(()) => Finding::fail(AUDIT, format!("{path_shown} is a folder"), "set it to a file"),
        Err(error) => {
            let found = format!(
                "this user may not write to {path_shown}: {}",
                std::io::Error::from(error)
            );
            Finding::fail(AUDIT, found, format!("chown $(id -un) {path_shown}"))
        }
    }
}

/// Whether somebody listens. What speaks OTLP there, only spans would tell.
async fn collector(url: &reqwest::Url) -> Finding {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let place = format!("{host}:{port}");
    let connected = timeout(CONNECT, TcpStream::connect((host.trim_matches(['[', ']']), port))).await;
    let fix = "start the collector, or set telemetry.otlp_endpoint to where it is; without one the gateway serves, and its spans are \
               lost";
    match connected {
        Ok(Ok(_)) => Finding::ok(COLLECTOR, format!("{place} takes connections")),
        Ok(Err(error)) => Finding::warn(COLLECTOR, format!("{place}: {error}"), fix),
        Err(_) => Finding::warn(
            COLLECTOR,
            format!("{place} takes no connection within {CONNECT:?}"),
            fix,
        ),
    }
}
