//! `tagway watchers`

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use serde_json::{Map, Value, json};
use tagway_proto::v1;
use tagway_proto::v1::list_watchers_response::Watcher;

use super::client::{self, Admin, Output};
use super::failure::Failure;

/// Of one call.
const PAGE: i32 = 1000;

/// The arguments of `tagway watchers`.
#[derive(Args)]
#[command(after_help = "Example: tagway watchers --tenant acme --key tenant_config_limits")]
pub(super) struct Watchers {
    /// Whose; everybody's, unless said
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,
    /// Only who watches this key, and what each has acknowledged of it
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    #[command(flatten)]
    gateway: Admin,
}

impl Watchers {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = self.gateway.connect(client::CALL).await?;
        let mut page_token = String::new();
        loop {
            let request = v1::ListWatchersRequest {
                tenant: self.tenant.clone(),
                page_size: PAGE,
                page_token,
                key: self.key.clone(),
            };
            let page = client.list_watchers(request).await?.into_inner();
            for watcher in &page.watchers {
                self.print(watcher)?;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }

    fn print(&self, watcher: &Watcher) -> Result<(), Failure> {
        if self.gateway.output() == Output::Json {
            return client::print(object(watcher));
        }
        let mut out = io::stdout().lock();
        let Watcher {
            peer,
            tenant,
            subject,
            sent,
            lag,
            keys,
            current,
            ..
        } = watcher;
        write!(
            out,
            "{tenant} {subject} {peer}: {current} of {keys} keys acknowledged, {lag} to be sent, {sent} messages"
        )?;
        if !self.key.is_empty() {
            let etag = if watcher.etag.is_empty() {
                "nothing"
            } else {
                &watcher.etag
            };
            write!(out, ", runs with {etag}")?;
        }
        writeln!(out)?;
        for (key, why) in BTreeMap::from_iter(&watcher.rejected) {
            writeln!(out, "           refuses {key}: {why}")?;
        }
        Ok(())
    }
}

fn object(watcher: &Watcher) -> Map<String, Value> {
    Map::from_iter([
        ("tenant".to_owned(), json!(watcher.tenant)),
        ("subject".to_owned(), json!(watcher.subject)),
        ("peer".to_owned(), json!(watcher.peer)),
        ("since".to_owned(), json!(watcher.since.map(|since| since.to_string()))),
        ("sent".to_owned(), json!(watcher.sent)),
        ("lag".to_owned(), json!(watcher.lag)),
        ("keys".to_owned(), json!(watcher.keys)),
        ("current".to_owned(), json!(watcher.current)),
        ("etag".to_owned(), json!(watcher.etag)),
        ("rejected".to_owned(), json!(watcher.rejected)),
    ])
}
