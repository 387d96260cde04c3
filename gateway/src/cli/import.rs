//! `tagway import`

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tagway_proto::v1;
use tonic::{Code, Status};

use super::client::{self, Client, Context, Gateway};
use super::failure::Failure;

/// Keys that are looked at together.
const BATCH: usize = 100;
/// Writes at once: enough to share syncs, few enough to be no flood.
const WRITES: usize = 16;

/// The arguments of `tagway import`.
#[derive(Args)]
#[command(after_help = "Examples: tagway import acme.jsonl --dry-run
          tagway import acme.jsonl --existing overwrite
          tagway export --tenant acme | tagway import - --tenant globex

A line is an object with key and value, or value_base64; content_type and secret may follow, and the rest of what
`tagway export` writes is left aside. What stands already as the file has it is not written again, unless to move it out of a former home: an import that was
cut off is gone on with by the same command.")]
pub(super) struct Import {
    /// The file; - for stdin
    file: PathBuf,
    /// What becomes of keys that have another value
    #[arg(long, default_value = "fail")]
    existing: Existing,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    gateway: Gateway,
}

#[derive(Clone, Copy, ValueEnum)]
enum Existing {
    /// Stop at the first
    Fail,
    /// Leave it
    Keep,
    /// Write what the file says
    Overwrite,
}

/// One line of the file.
#[derive(Deserialize)]
struct Line {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    secret: bool,
}

/// What a line asks for.
struct Wanted {
    line: usize,
    key: String,
    value: Vec<u8>,
    content_type: String,
    secret: bool,
}

/// What is to be done for a line: nothing, or a write of what stands so.
#[derive(Clone, Copy)]
enum Step {
    Create,
    Overwrite,
    /// Out of a former home: a write of the same value.
    Move,
    Keep,
    Nothing,
}

#[derive(Default)]
struct Done {
    created: usize,
    overwritten: usize,
    moved: usize,
    kept: usize,
    same: usize,
}

impl Import {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let failed = |error: io::Error| Failure::Usage(format!("{name}: {error}"));
        let (source, size): (Box<dyn BufRead>, _) = if name == "-" {
            (Box::new(io::stdin().lock()), None)
        } else {
            let file = File::open(&self.file).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            (Box::new(BufReader::new(file)), Some(size))
        };
        let gateway = self.gateway.connect().await?;
        let progress = client::progress(size);
        let mut done = Done::default();
        let mut batch = Vec::with_capacity(BATCH);
        for (index, line) in source.split(b'\n').enumerate() {
            let line = line.map_err(failed)?;
            if !line.trim_ascii().is_empty() {
                let wanted = wanted(index + 1, &line);
                let wanted = wanted.map_err(|problem| Failure::Usage(format!("{name}:{}: {problem}", index + 1)))?;
                // A later line of the same key comes after the earlier one.
                if batch.iter().any(|earlier: &Wanted| earlier.key == wanted.key) {
                    self.import(&gateway, &name, std::mem::take(&mut batch), &mut done)
                        .await?;
                }
                batch.push(wanted);
            }
            if batch.len() == BATCH {
                self.import(&gateway, &name, std::mem::take(&mut batch), &mut done)
                    .await?;
            }
            progress.inc(if size.is_some() { line.len() as u64 + 1 } else { 1 });
        }
        self.import(&gateway, &name, batch, &mut done).await?;
        progress.finish();
        let would = if self.dry_run { "would be " } else { "" };
        Ok(writeln!(
            io::stderr(),
            "{} {would}created, {} {would}overwritten, {} {would}moved home, {} kept, {} as they were",
            done.created,
            done.overwritten,
            done.moved,
            done.kept,
            done.same
        )?)
    }

    async fn import(&self, gateway: &Client, name: &str, batch: Vec<Wanted>, done: &mut Done) -> Result<(), Failure> {
        let mut standing = self.standing(gateway, name, &batch).await?;
        let mut steps = Vec::with_capacity(batch.len());
        for wanted in batch {
            let standing = standing.remove(&wanted.key);
            let step = match &standing {
                None => Step::Create,
                Some(config) => self.step(&wanted, config).ok_or_else(|| {
                    Failure::Failed(format!(
                        "{name}:{}: {} has another value already\n  fix: --existing overwrite, or --existing keep",
                        wanted.line, wanted.key
                    ))
                })?,
            };
            let condition = match standing {
                None => v1::precondition::Kind::IfAbsent(true),
                Some(config) => v1::precondition::Kind::IfMatch(config.etag),
            };
            steps.push((wanted, step, condition));
        }
        let writes = futures_util::stream::iter(steps).map(|(wanted, step, condition)| async move {
            let (line, key) = (wanted.line, wanted.key.clone());
            let written = self.write(gateway.clone(), wanted, step, condition).await;
            let written = written.map_err(|status| Failure::Refused(Box::new(at(&status, name, line, &key))));
            written.map(|()| step)
        });
        let mut steps = writes.buffered(WRITES);
        while let Some(step) = steps.try_next().await? {
            *match step {
                Step::Create => &mut done.created,
                Step::Overwrite => &mut done.overwritten,
                Step::Move => &mut done.moved,
                Step::Keep => &mut done.kept,
                Step::Nothing => &mut done.same,
            } += 1;
        }
        Ok(())
    }

    /// What to do where something stands. None: that is for the caller to say.
    fn step(&self, wanted: &Wanted, standing: &v1::Config) -> Option<Step> {
        let same = standing.value == wanted.value && standing.content_type == wanted.content_type;
        match (standing.origin(), same, self.existing) {
            // A default is not the tenant's own.
            (v1::config::Origin::Default, ..) => Some(Step::Create),
            (v1::config::Origin::Former, true, _) => Some(Step::Move),
            (_, true, _) => Some(Step::Nothing),
            (_, false, Existing::Keep) => Some(Step::Keep),
            (_, false, Existing::Overwrite) => Some(Step::Overwrite),
            (_, false, Existing::Fail) => None,
        }
    }

    /// What stands at these keys.
    async fn standing(
        &self,
        gateway: &Client,
        name: &str,
        batch: &[Wanted],
    ) -> Result<HashMap<String, v1::Config>, Failure> {
        let mut standing = HashMap::new();
        let mut keys: Vec<String> = batch.iter().map(|wanted| wanted.key.clone()).collect();
        while !keys.is_empty() {
            let request = v1::BatchGetConfigsRequest {
                keys: std::mem::take(&mut keys),
                consistency: v1::Consistency::Latest.into(),
                context: self.context.message(),
            };
            let answer = gateway.clone().batch_get_configs(request).await?.into_inner();
            for result in answer.results {
                match result.outcome {
                    Some(v1::batch_get_configs_response::result::Outcome::Config(config)) => {
                        standing.insert(result.key, config);
                    }
                    // The answer was full: these are asked for again.
                    Some(v1::batch_get_configs_response::result::Outcome::Failure(failure))
                        if failure.reason == "RESPONSE_FULL" =>
                    {
                        keys.push(result.key);
                    }
                    Some(v1::batch_get_configs_response::result::Outcome::Failure(failure))
                        if failure.code != i32::from(Code::NotFound) || failure.reason == "TAG_UNKNOWN" =>
                    {
                        let line = batch.iter().find(|wanted| wanted.key == result.key);
                        let line = line.map_or(0, |wanted| wanted.line);
                        let message = format!("{name}:{line}: {}: {}", result.key, failure.message);
                        return Err(Status::new(Code::from_i32(failure.code), message).into());
                    }
                    _ => {}
                }
            }
        }
        Ok(standing)
    }

    async fn write(
        &self,
        mut gateway: Client,
        wanted: Wanted,
        step: Step,
        condition: v1::precondition::Kind,
    ) -> Result<(), Status> {
        if self.dry_run || matches!(step, Step::Keep | Step::Nothing) {
            return Ok(());
        }
        let request = v1::PutConfigRequest {
            key: wanted.key,
            value: wanted.value.into(),
            content_type: wanted.content_type,
            precondition: Some(v1::Precondition { kind: Some(condition) }),
            context: self.context.message(),
            secret: wanted.secret,
            ..Default::default()
        };
        gateway.put_config(request).await.map(drop)
    }
}

fn wanted(line: usize, text: &[u8]) -> Result<Wanted, String> {
    let parsed: Line = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let value = match (parsed.value, parsed.value_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map_err(|error| format!("value_base64: {error}"))?,
        _ => return Err("an object with one of value and value_base64".to_owned()),
    };
    let content_type = Some(parsed.content_type).filter(|content_type| !content_type.is_empty());
    Ok(Wanted {
        line,
        key: parsed.key,
        value,
        // As the gateway would have it.
        content_type: content_type.unwrap_or_else(|| "application/json".to_owned()),
        secret: parsed.secret,
    })
}

/// The same status, with the place in the file before its words.
fn at(status: &Status, name: &str, line: usize, key: &str) -> Status {
    let message = match status.code() {
        Code::Aborted | Code::AlreadyExists => "somebody else changed it meanwhile: run the same command again",
        _ => status.message(),
    };
    Status::with_details(
        status.code(),
        format!("{name}:{line}: {key}: {message}"),
        status.details().to_vec().into(),
    )
}
