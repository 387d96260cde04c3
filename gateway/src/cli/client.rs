//! What the commands share that call a gateway: where it is, who calls, and how an answer looks.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use http::Uri;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use tagway_proto::v1;
use tagway_proto::v1::admin_service_client::AdminServiceClient;
use tagway_proto::v1::config_service_client::ConfigServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// For a gateway that does not answer.
const CONNECT: Duration = Duration::from_secs(5);
/// A little more than a gateway takes at most, unless told otherwise.
pub(super) const CALL: Duration = Duration::from_secs(15);
/// The largest component that a gateway takes, and room for the rest.
const COMPONENT_BYTES: usize = 33 << 20;
/// Between two pings on a connection that lasts.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// For the answer to one.
const PONG: Duration = Duration::from_secs(10);

/// Where the gateway is, and who calls.
#[derive(Args)]
pub(super) struct Gateway {
    /// Where the gateway is
    #[arg(
        long,
        env = "TAGWAY_ENDPOINT",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    endpoint: String,
    /// Who calls: a token, or @FILE with one, which is read for each connection
    #[arg(
        long,
        env = "TAGWAY_TOKEN",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    token: String,
    /// Picks one of the tenants that the token names
    #[arg(long, env = "TAGWAY_TENANT")]
    tenant: Option<String>,
    #[command(flatten)]
    tls: Tls,
    /// How answers look; text on a terminal and json elsewhere, unless said
    #[arg(long)]
    output: Option<Output>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// An object a line
    Json,
}

/// Whom an https:// endpoint has to be signed by, and what it is shown.
#[derive(Args)]
pub(super) struct Tls {
    /// Who signs the gateway's certificate, in PEM; without, whom this machine trusts
    #[arg(long = "tls-ca", env = "TAGWAY_TLS_CA", value_name = "FILE")]
    signer: Option<PathBuf>,
    /// This client's certificate, in PEM, for a gateway that asks for one
    #[arg(
        long = "tls-cert",
        env = "TAGWAY_TLS_CERT",
        value_name = "FILE",
        requires = "key_of_shown"
    )]
    shown: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long = "tls-key", env = "TAGWAY_TLS_KEY", value_name = "FILE", requires = "shown")]
    key_of_shown: Option<PathBuf>,
}

impl Tls {
    /// How `endpoint` is reached, if it is one; `name` is what it was said by.
    fn endpoint(&self, name: &str, endpoint: &str) -> Result<Endpoint, Failure> {
        let whole =
            |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.path() == "/";
        let uri = endpoint.parse::<Uri>().ok().filter(whole);
        let uri = uri.ok_or_else(|| {
            Failure::Usage(format!(
                "{name}: `{endpoint}` is not https://HOST:PORT or http://HOST:PORT"
            ))
        })?;
        let is_encrypted = uri.scheme_str() == Some("https");
        let endpoint = Endpoint::from(uri).connect_timeout(CONNECT);
        if !is_encrypted {
            return if self.signer.is_none() && self.shown.is_none() {
                Ok(endpoint)
            } else {
                let fix = "--tls-ca and --tls-cert are for https://HOST:PORT";
                Err(Failure::Usage(format!(
                    "{name}: nothing is encrypted on the way there: {fix}"
                )))
            };
        }
        let config = match &self.signer {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--tls-ca", file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let config = match (&self.shown, &self.key_of_shown) {
            (Some(cert), Some(key)) => {
                config.identity(Identity::from_pem(read("--tls-cert", cert)?, read("--tls-key", key)?))
            }
            _ => config,
        };
        let unusable = |error| Failure::Usage(format!("--tls-ca, --tls-cert, --tls-key: {}", innermost(&error)));
        endpoint.tls_config(config).map_err(unusable)
    }
}

fn read(argument: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::Usage(format!("{argument} {}: {error}", file.display())))
}

/// The error that all the others are about.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Nobody is there, or nobody who is to be trusted.
fn away(endpoint: &str, error: &tonic::transport::Error, fix: &str) -> Failure {
    let why = innermost(error);
    // What rustls says of a peer.
    let fix = if why.contains("certificate") {
        "--tls-ca (TAGWAY_TLS_CA) names who signs the gateway's certificate, which has to be for that host"
    } else {
        fix
    };
    Failure::Away(format!("no gateway answers at {endpoint}: {why}\n  fix: {fix}"))
}

/// Where the gateway is for those who operate it, and who calls.
#[derive(Args)]
pub(super) struct Admin {
    /// Where the gateway listens for its operators
    #[arg(
        long = "endpoint",
        env = "TAGWAY_ADMIN_ENDPOINT",
        default_value = "http://127.0.0.1:50052",
        value_name = "URL"
    )]
    endpoint: String,
    /// Who calls, with the permission admin: a token, or @FILE with one
    #[arg(
        long,
        env = "TAGWAY_ADMIN_TOKEN",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    token: String,
    #[command(flatten)]
    tls: Tls,
    /// How answers look; text on a terminal and json elsewhere, unless said
    #[arg(long)]
    output: Option<Output>,
}

/// A client that says who it is with every call.
pub(super) type AdminClient = AdminServiceClient<InterceptedService<Channel, Credentials>>;

impl Admin {
    /// A client for calls that take no longer than that.
    pub(super) async fn connect(&self, within: Duration) -> Result<AdminClient, Failure> {
        let endpoint = self
            .tls
            .endpoint("TAGWAY_ADMIN_ENDPOINT", &self.endpoint)?
            .timeout(within);
        let fix = "set server.admin_listen, and TAGWAY_ADMIN_ENDPOINT to what it is";
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| away(&self.endpoint, &error, fix))?;
        let credentials = Credentials {
            authorization: bearer("TAGWAY_ADMIN_TOKEN", &self.token)?,
            tenant: None,
        };
        Ok(AdminServiceClient::with_interceptor(channel, credentials).max_encoding_message_size(COMPONENT_BYTES))
    }

    pub(super) fn output(&self) -> Output {
        output(self.output)
    }
}

/// What says who calls, if it is said. Tokens that somebody renews lie in files.
fn bearer(name: &str, token: &str) -> Result<Option<MetadataValue<Ascii>>, Failure> {
    let said = match token.trim().strip_prefix('@') {
        Some(file) => String::from_utf8_lossy(&read(name, Path::new(file))?).into_owned(),
        None => token.to_owned(),
    };
    match said.trim() {
        "" => Ok(None),
        token => Ok(Some(header(name, &format!("Bearer {token}"))?)),
    }
}

fn header(name: &str, text: &str) -> Result<MetadataValue<Ascii>, Failure> {
    text.parse()
        .map_err(|_| Failure::Usage(format!("{name} is no printable ASCII")))
}

pub(super) fn output(said: Option<Output>) -> Output {
    match said {
        Some(output) => output,
        None if io::stdout().is_terminal() => Output::Text,
        None => Output::Json,
    }
}

pub(super) type Client = ConfigServiceClient<InterceptedService<Channel, Credentials>>;

impl Gateway {
    /// A client that says who it is with every call.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        self.connect_by(self.tls.endpoint("TAGWAY_ENDPOINT", &self.endpoint)?.timeout(CALL))
            .await
    }

    /// One whose calls may last: nothing cuts them, and a gateway that is gone without a word is noticed.
    pub(super) async fn connect_to_watch(&self) -> Result<Client, Failure> {
        let endpoint = self.tls.endpoint("TAGWAY_ENDPOINT", &self.endpoint)?;
        let endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE);
        let endpoint = endpoint.keep_alive_timeout(PONG).keep_alive_while_idle(true);
        self.connect_by(endpoint).await
    }

    async fn connect_by(&self, endpoint: Endpoint) -> Result<Client, Failure> {
        let fix = "run `tagway serve`, or set TAGWAY_ENDPOINT";
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| away(&self.endpoint, &error, fix))?;
        let credentials = Credentials {
            authorization: bearer("TAGWAY_TOKEN", &self.token)?,
            tenant: self
                .tenant
                .as_deref()
                .map(|tenant| header("TAGWAY_TENANT", tenant))
                .transpose()?,
        };
        Ok(ConfigServiceClient::with_interceptor(channel, credentials))
    }

    /// Whether there may be another token by now than the one that has ended.
    pub(super) fn renews_its_token(&self, ended: &Failure) -> bool {
        ended.is_token_over() && self.token.trim().starts_with('@')
    }

    /// What a write has left standing.
    pub(super) fn print_written(&self, config: &v1::Config) -> Result<(), Failure> {
        if self.output() == Output::Json {
            return print(object(config));
        }
        Ok(writeln!(
            io::stdout(),
            "{} is at version {}, etag {}",
            config.key,
            config.version,
            config.etag
        )?)
    }

    pub(super) fn output(&self) -> Output {
        output(self.output)
    }
}

#[derive(Clone)]
pub(super) struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        if let Some(tenant) = &self.tenant {
            metadata.insert("x-tagway-tenant", tenant.clone());
        }
        Ok(request)
    }
}

/// What callers say about themselves, for the strategy.
#[derive(Args)]
pub(super) struct Context {
    /// A dimension for the strategy; several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = dimension)]
    context: Vec<(String, String)>,
}

impl Context {
    pub(super) fn message(&self) -> HashMap<String, String> {
        self.context.iter().cloned().collect()
    }
}

/// Which of the values under a key is meant.
#[derive(Args)]
pub(super) struct Scope {
    /// The default that all tenants share, and not what the tenant sees
    #[arg(long)]
    shared: bool,
}

impl Scope {
    pub(super) fn message(&self) -> i32 {
        if self.shared {
            v1::Scope::Shared.into()
        } else {
            v1::Scope::Unspecified.into()
        }
    }
}

/// `env=prod` as a dimension of the context.
fn dimension(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE, as in env=prod")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What a write must find.
#[derive(Args)]
#[group(multiple = false)]
pub(super) struct Conditions {
    /// Only if the key still has this etag
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    /// Only if there is no such key
    #[arg(long)]
    if_absent: bool,
}

impl Conditions {
    pub(super) fn message(self) -> Option<v1::Precondition> {
        let kind = match self.if_match {
            Some(etag) => Some(v1::precondition::Kind::IfMatch(etag)),
            None => self.if_absent.then_some(v1::precondition::Kind::IfAbsent(true)),
        };
        kind.map(|kind| v1::Precondition { kind: Some(kind) })
    }
}

/// An object with what a configuration says; its value as text, or in base64 where it is none.
pub(super) fn object(config: &v1::Config) -> Map<String, Value> {
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| _ = object.insert(name.to_owned(), value);
    set("key", json!(config.key));
    set("content_type", json!(config.content_type));
    set("version", json!(config.version));
    set("etag", json!(config.etag));
    set("update_time", json!(config.update_time.map(|time| time.to_string())));
    set("updated_by", json!(config.updated_by));
    set("backend", json!(config.backend));
    set("origin", json!(origin(config.origin())));
    set("secret", json!(config.secret));
    object
}

/// What a placement is to a key, in a word.
pub(super) fn origin(origin: v1::config::Origin) -> &'static str {
    match origin {
        v1::config::Origin::Unspecified => "unknown",
        v1::config::Origin::Home => "home",
        v1::config::Origin::Former => "former",
        v1::config::Origin::Default => "default",
    }
}

/// As [`object`], with the value.
pub(super) fn object_with_value(config: &v1::Config) -> Map<String, Value> {
    let mut object = object(config);
    let (name, value) = match std::str::from_utf8(&config.value) {
        Ok(text) => ("value", json!(text)),
        Err(_) => ("value_base64", json!(STANDARD.encode(&config.value))),
    };
    object.insert(name.to_owned(), value);
    object
}

/// An object as one line.
pub(super) fn print(object: Map<String, Value>) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{}", Value::Object(object))?)
}

/// When it was written, for people: to the second, for the rest is noise to them.
pub(super) fn time(config: &v1::Config) -> String {
    let mut time = config.update_time.map(|time| time.to_string()).unwrap_or_default();
    time.truncate(19);
    time
}

/// A configuration without its value, as a line for people.
pub(super) fn print_line(config: &v1::Config) -> Result<(), Failure> {
    Ok(writeln!(
        io::stdout(),
        "{:<48} v{:<5} {} {}",
        config.key,
        config.version,
        time(config),
        config.updated_by
    )?)
}

/// How far a long command is, on a terminal's stderr: of so many bytes, or of nobody knows how many lines.
pub(super) fn progress(bytes: Option<u64>) -> ProgressBar {
    match bytes {
        Some(bytes) => ProgressBar::new(bytes),
        None => ProgressBar::new_spinner(),
    }
}

/// Runs a command that waits for answers. While it prints, reads or runs something it does not give way: what keeps its connection alive
/// has a thread of its own.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(command)
}
