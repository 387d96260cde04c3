//! `tagway strategy`

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tagway_proto::v1;
use tagway_proto::v1::activate_strategy_request::Kind;
use tagway_proto::v1::strategy::{Mode, State};

use super::client::{self, Admin, Output};
use super::failure::Failure;

/// A version may take its time: it is compiled, and every known key is decided by it.
const ACTIVATION: Duration = Duration::from_mins(2);

/// The arguments of `tagway strategy`.
#[derive(Args)]
pub(super) struct Strategy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List strategies and the latest versions of each
    List(List),
    /// Take up a version: what the configured source holds, unless said
    Activate(Box<Activate>),
    /// Go back to the version before
    Rollback(Rollback),
    /// Have a strategy not be called; its tags fail
    Disable(Name),
    /// Have a strategy stay as it is, whatever its source holds
    Pin(Name),
    /// Have a strategy follow its source again, after disable or pin
    Follow(Name),
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    gateway: Admin,
}

#[derive(Args)]
#[command(after_help = "Example: tagway strategy activate router --component router.wasm --dry-run")]
struct Activate {
    /// The strategy's name in the gateway's settings
    name: String,
    /// A component of this machine
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    component: Option<PathBuf>,
    /// Where the gateway is to fetch it: file:..., s3://... or builtin:...
    #[arg(long)]
    source: Option<String>,
    /// Refuse any other: sha256:...
    #[arg(long)]
    digest: Option<String>,
    /// A file of JSON that the component is given; what it was, unless said
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Accept that keys lose what they have
    #[arg(long)]
    allow_moves: bool,
    /// Do everything but take it up
    #[arg(long)]
    dry_run: bool,
    /// Only if this generation is active
    #[arg(long)]
    generation: Option<u64>,
    #[command(flatten)]
    gateway: Admin,
}

#[derive(Args)]
struct Rollback {
    /// The strategy's name in the gateway's settings
    name: String,
    /// Only from this generation
    #[arg(long)]
    generation: Option<u64>,
    #[command(flatten)]
    gateway: Admin,
}

#[derive(Args)]
struct Name {
    /// The strategy's name in the gateway's settings
    name: String,
    #[command(flatten)]
    gateway: Admin,
}

impl Strategy {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List(list) => list.run().await,
            Command::Activate(activate) => activate.run().await,
            Command::Rollback(rollback) => rollback.run().await,
            Command::Disable(name) => name.set(Mode::Disabled).await,
            Command::Pin(name) => name.set(Mode::Pinned).await,
            Command::Follow(name) => name.set(Mode::Follow).await,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let mut client = self.gateway.connect(client::CALL).await?;
        let listed = client.list_strategies(v1::ListStrategiesRequest {}).await?.into_inner();
        for strategy in &listed.strategies {
            print(&self.gateway, strategy)?;
        }
        Ok(())
    }
}

impl Activate {
    async fn run(self) -> Result<(), Failure> {
        let read = |path: &PathBuf| {
            let read = fs::read(path);
            read.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
        };
        let settings = self.settings.as_ref().map(read).transpose()?;
        let settings = settings.map(String::from_utf8).transpose();
        let kind = match (&self.component, self.source) {
            (Some(component), _) => Some(Kind::Component(read(component)?)),
            (None, source) => source.map(Kind::Source),
        };
        let request = v1::ActivateStrategyRequest {
            name: self.name,
            kind,
            digest: self.digest.unwrap_or_default(),
            settings: settings
                .map_err(|_| Failure::Usage("--settings: not UTF-8".to_owned()))?
                .unwrap_or_default(),
            allow_moves: self.allow_moves,
            validate_only: self.dry_run,
            generation: self.generation.unwrap_or_default(),
        };
        let mut client = self.gateway.connect(ACTIVATION).await?;
        let answer = client.activate_strategy(request).await?.into_inner();
        let strategy = answer.strategy.clone().unwrap_or_default();
        if self.gateway.output() == Output::Json {
            let mut object = object(&strategy);
            object.insert("known".to_owned(), json!(answer.known));
            object.insert("judged".to_owned(), json!(answer.judged));
            object.insert("moved".to_owned(), json!(answer.moved));
            object.insert("moved_keys".to_owned(), json!(answer.moved_keys));
            client::print(object)?;
        } else {
            print(&self.gateway, &strategy)?;
            let mut out = io::stdout().lock();
            if answer.known > 0 {
                let v1::ActivateStrategyResponse {
                    known, judged, moved, ..
                } = &answer;
                writeln!(
                    out,
                    "compared   {judged} of {known} known keys, of which {moved} would lose what they have"
                )?;
            }
            for key in &answer.moved_keys {
                writeln!(out, "           {key}")?;
            }
        }
        if strategy.state() == State::Rejected {
            let stage = word(strategy.rejected_stage());
            return Err(Failure::Failed(format!("not {stage}: {}", strategy.rejected_reason)));
        }
        Ok(())
    }
}

impl Rollback {
    async fn run(self) -> Result<(), Failure> {
        let request = v1::RollbackStrategyRequest {
            name: self.name,
            generation: self.generation.unwrap_or_default(),
        };
        let mut client = self.gateway.connect(client::CALL).await?;
        let answer = client.rollback_strategy(request).await?.into_inner();
        print(&self.gateway, &answer.strategy.unwrap_or_default())
    }
}

impl Name {
    async fn set(self, mode: Mode) -> Result<(), Failure> {
        let request = v1::SetStrategyModeRequest {
            name: self.name,
            mode: mode.into(),
        };
        let mut client = self.gateway.connect(client::CALL).await?;
        let answer = client.set_strategy_mode(request).await?.into_inner();
        match answer.strategy {
            Some(strategy) => print(&self.gateway, &strategy),
            None => Ok(()),
        }
    }
}

fn print(gateway: &Admin, strategy: &v1::Strategy) -> Result<(), Failure> {
    if gateway.output() == Output::Json {
        return client::print(object(strategy));
    }
    let mut out = io::stdout().lock();
    let mode = match strategy.mode() {
        Mode::Pinned => ", pinned",
        Mode::Disabled => ", disabled",
        Mode::Follow | Mode::Unspecified => "",
    };
    let v1::Strategy {
        name,
        version,
        digest,
        generation,
        ..
    } = strategy;
    writeln!(
        out,
        "{name} {version} {}{mode}, generation {generation}, {digest}",
        word(strategy.state())
    )?;
    match strategy.state() {
        State::Rejected => {
            let stage = word(strategy.rejected_stage());
            writeln!(out, "           not {stage}: {}", strategy.rejected_reason)?;
        }
        State::RolledBack => writeln!(out, "           {}", strategy.rejected_reason)?,
        _ => {}
    }
    Ok(())
}

fn object(strategy: &v1::Strategy) -> Map<String, Value> {
    let mode = match strategy.mode() {
        Mode::Pinned => "pinned",
        Mode::Disabled => "disabled",
        Mode::Follow | Mode::Unspecified => "follow",
    };
    Map::from_iter([
        ("name".to_owned(), json!(strategy.name)),
        ("version".to_owned(), json!(strategy.version)),
        ("digest".to_owned(), json!(strategy.digest)),
        ("generation".to_owned(), json!(strategy.generation)),
        ("state".to_owned(), json!(word(strategy.state()))),
        ("rejected_stage".to_owned(), json!(word(strategy.rejected_stage()))),
        ("rejected_reason".to_owned(), json!(strategy.rejected_reason)),
        ("tags".to_owned(), json!(strategy.tags)),
        (
            "activate_time".to_owned(),
            json!(strategy.activate_time.map(|time| time.to_string())),
        ),
        ("mode".to_owned(), json!(mode)),
    ])
}

/// A state, in a word.
fn word(state: State) -> String {
    let name = state.as_str_name();
    match state {
        State::Unspecified => String::new(),
        _ => name.trim_start_matches("STATE_").to_lowercase().replace('_', " "),
    }
}
