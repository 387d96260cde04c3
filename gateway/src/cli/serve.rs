//! `tagway serve`

use std::env;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tagway::app::{App, Reload};
use tagway::clock::Clock;
use tagway::identity::development::{Claims, DevelopmentKey};
use tagway::settings::{Permission, Settings, development};
use tagway::shutdown::{self, Asked};
use tagway::telemetry::{self, Logs};

use super::failure::Failure;

/// Where development keeps everything, unless said.
pub(super) const DATA: &str = "tagway-data";

/// The arguments of `tagway serve`.
#[derive(Args)]
#[command(after_help = "Example: tagway serve --config tagway.toml")]
pub(super) struct Serve {
    /// Settings; without, it runs for development: loopback only, everything under --data
    #[arg(long, value_name = "FILE", env = "TAGWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Where a gateway for development keeps its store and its signing key
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "tagway-data",
        conflicts_with = "config"
    )]
    data: PathBuf,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, key) = if let Some(file) = &self.config {
            (Settings::load(file, super::variables()?)?, None)
        } else {
            let key = DevelopmentKey::open_or_create(&self.data)
                .map_err(|error| Failure::Failed(format!("{}: {error}", self.data.display())))?;
            (development::development(&self.data, super::variables()?)?, Some(key))
        };
        let file = match self.config {
            Some(file) => Some((file, super::variables()?)),
            None => None,
        };
        // Never one thread alone: a strategy's call holds one while it runs.
        let threads = thread::available_parallelism().map_or(2, NonZero::get).max(2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?;
        let last = settings.server.drain_step();
        let development = key.as_ref().map(|key| (key, self.data.as_path()));
        let served = runtime.block_on(async {
            let told = telemetry::init(&settings.telemetry).map_err(|error| Failure::Usage(error.to_string()));
            let (logs, traces) = told?;
            make_room(settings.limits.descriptors());
            let served = serve(settings, file, logs, development).await;
            // It waits for the collector, which is spoken to on the runtime.
            _ = tokio::task::spawn_blocking(move || traces.end(last)).await;
            served
        });
        // A thread that still compiles or syncs does not keep the process.
        runtime.shutdown_timeout(last);
        served
    }
}

/// As many descriptors as the machine allows: what was asked for softly was meant for programs with few files.
fn make_room(wanted: u64) {
    let limits = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    let limit = match setrlimit(Resource::Nofile, most) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    };
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            limit,
            wanted,
            "fewer descriptors than limits.connections needs: raise the limit (ulimit -n)"
        );
    }
}

async fn serve(
    settings: Settings,
    file: Option<(PathBuf, Vec<(String, String)>)>,
    logs: Logs,
    development: Option<(&DevelopmentKey, &Path)>,
) -> Result<(), Failure> {
    let Asked { stop, reload } = shutdown::on_signal()?;
    let app = Box::pin(App::build(settings)).await?;
    let address = app.address()?;
    if let Some((key, data)) = development {
        greet(key, data, &address.to_string())?;
    }
    let reload = if let Some((file, variables)) = file {
        Some(Reload {
            file,
            variables,
            asked: reload,
            logs,
        })
    } else {
        tokio::spawn(async move {
            loop {
                reload.notified().await;
                tracing::warn!("SIGHUP: no file was given, so there are no settings to be read again");
            }
        });
        None
    };
    Ok(app.run(stop, reload).await?)
}

/// What to type next.
fn greet(key: &DevelopmentKey, data: &Path, address: &str) -> Result<(), Failure> {
    let token = key.mint(
        &Claims {
            tenants: &["acme".to_owned()],
            subject: "developer",
            permissions: &[Permission::Read, Permission::Write],
            lifetime: Duration::from_hours(24),
            further: &serde_json::Map::new(),
        },
        &Clock::system(),
    )?;
    let command = command_name();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\nTagway serves on {address}, for development: no file was given.\n\
         In another terminal, as tenant acme, for the next 24 hours:\n\n\
         export TAGWAY_ENDPOINT=http://{address}\n\
         export TAGWAY_TOKEN={token}\n\
         {command} put tenant_config_payment-gateway '{{\"url\": \"https://pay.example\"}}'\n\
         {command} get tenant_config_payment-gateway\n\
         {command} list\n\n\
         A token for another tenant: {command} token --tenant globex{data}\n\
         As an operator:\n\n\
         export TAGWAY_ADMIN_TOKEN=$({command} token --tenant ops --permissions admin{data})\n\
         {command} status\n\
         {command} strategy list\n",
        token = token.reveal(),
        data = if data == Path::new(DATA) {
            String::new()
        } else {
            format!(" --data {}", data.display())
        },
    )?;
    Ok(out.flush()?)
}

/// How this very program was, or could be, called from here.
fn command_name() -> String {
    let found = env::current_exe().ok().zip(env::current_dir().ok());
    let relative = found.and_then(|(program, here)| program.strip_prefix(here).ok().map(Path::to_path_buf));
    relative.map_or_else(|| "tagway".to_owned(), |path| path.display().to_string())
}
