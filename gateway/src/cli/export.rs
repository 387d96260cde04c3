//! `tagway export`

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use tagway_proto::v1;

use super::client::{self, Context, Gateway};
use super::failure::Failure;

/// The arguments of `tagway export`.
#[derive(Args)]
#[command(after_help = "Examples: tagway export --to acme.jsonl
          tagway export tenant_config_ | jq -r .key

A line has the key and all of its configuration, secrets included; `tagway import` reads it. Defaults that show where the\ntenant has nothing of its own are left out; so is what only another context shows. Go on with a file for the same\ntenant, prefix and context only.")]
pub(super) struct Export {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// A file, for this user alone; one that is there already is gone on with after its last whole line. Stdout unless
    /// said
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    gateway: Gateway,
}

/// How a line of an export begins.
const BEGIN: &[u8] = b"{\"backend\":\"";

impl Export {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (mut out, last): (Box<dyn Write>, _) = match &self.to {
            None => (Box::new(io::stdout().lock()), None),
            Some(path) => {
                let (file, last) = resume(path).map_err(|error| at(path, &error))?;
                (Box::new(BufWriter::new(file)), last)
            }
        };
        let mut gateway = self.gateway.connect().await?;
        let progress = client::progress(None);
        let mut request = v1::ListConfigsRequest {
            prefix: self.prefix,
            page_size: 1000,
            context: self.context.message(),
            ..Default::default()
        };
        loop {
            let page = gateway.list_configs(request.clone()).await?.into_inner();
            for config in &page.configs {
                // What lies beneath is not the tenant's. Lists go by key, so what is not behind the last one was exported
                // before.
                let own = config.origin() != v1::config::Origin::Default;
                if own && last.as_ref().is_none_or(|last| config.key > *last) {
                    writeln!(out, "{}", Value::Object(client::object_with_value(config)))?;
                    progress.inc(1);
                }
            }
            out.flush()?;
            if page.next_page_token.is_empty() {
                progress.finish();
                return Ok(());
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// The file, positioned behind its last whole line, and the key of that.
fn resume(path: &Path) -> io::Result<(File, Option<String>)> {
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let mut lines = BufReader::new(&file);
    let mut line = Vec::new();
    let mut whole = 0;
    let mut last = None;
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if !line.ends_with(b"\n") {
            // Cut off in the middle of a line of ours, or somebody else's.
            let common = line.len().min(BEGIN.len());
            if line[..common] != BEGIN[..common] {
                return Err(io::Error::other("it is no export: its last line is none"));
            }
            break;
        }
        let object: Value = serde_json::from_slice(&line)?;
        let key = object["key"]
            .as_str()
            .ok_or_else(|| io::Error::other("it is no export: a line has no key"))?;
        last = Some(key.to_owned());
        whole += read as u64;
    }
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    Ok((file, last))
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}
