//! `tagway status`

use std::io::{self, Write};

use clap::Args;
use serde_json::{Map, Value, json};
use tagway_proto::v1;

use super::client::{self, Admin, Output};
use super::failure::Failure;

/// The arguments of `tagway status`.
#[derive(Args)]
#[command(after_help = "Exits with 1 where a part is away.\n\nExample: tagway status --output json")]
pub(super) struct Status {
    #[command(flatten)]
    gateway: Admin,
}

impl Status {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = self.gateway.connect(client::CALL).await?;
        let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
        if self.gateway.output() == Output::Json {
            client::print(object(&status))?;
        } else {
            let mut out = io::stdout().lock();
            let uptime = status.uptime.map_or(0, |uptime| uptime.seconds);
            let uptime = humantime::format_duration(std::time::Duration::from_secs(uptime.unsigned_abs()));
            writeln!(
                out,
                "tagway {}, replica {}, up for {uptime}",
                status.version, status.replica
            )?;
            for part in &status.parts {
                let state = if part.ready { "ready" } else { "away " };
                writeln!(out, "{state}      {:<28} {}", part.name, part.detail)?;
            }
        }
        let away: Vec<&str> = status
            .parts
            .iter()
            .filter(|part| !part.ready)
            .map(|part| &*part.name)
            .collect();
        if away.is_empty() {
            Ok(())
        } else {
            Err(Failure::Failed(format!("away: {}", away.join(", "))))
        }
    }
}

fn object(status: &v1::GetStatusResponse) -> Map<String, Value> {
    let part = |part: &v1::get_status_response::Part| {
        json!({
            "name": part.name,
            "ready": part.ready,
            "detail": part.detail,
            "since": part.since.map(|since| since.to_string()),
        })
    };
    let parts: Vec<Value> = status.parts.iter().map(part).collect();
    Map::from_iter([
        ("version".to_owned(), json!(status.version)),
        ("replica".to_owned(), json!(status.replica)),
        (
            "uptime_seconds".to_owned(),
            json!(status.uptime.map(|uptime| uptime.seconds)),
        ),
        ("parts".to_owned(), json!(parts)),
    ])
}
