//! Where a component's bytes come from.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::backend::{AwsSettings, describe_failure};
use crate::settings::{Source, StrategySettings};

/// The default strategy, as this gateway's own build made it.
const TAG_PREFIX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tag-prefix.wasm"));
/// Of one fetch, retries included.
const FETCH: Duration = Duration::from_secs(30);

/// What fetches components.
#[derive(Default)]
pub(super) struct Sources {
    clients: Mutex<HashMap<Location, Client>>,
}

/// Where buckets are, as far as settings say.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Location {
    region: Option<String>,
    endpoint_url: Option<String>,
}

impl Sources {
    /// The bytes behind the source of a strategy; of what is too large only so many that this shows.
    pub(super) async fn fetch(&self, settings: &StrategySettings) -> io::Result<Vec<u8>> {
        // Whatever comes slowly, and however. The SDK's futures are large.
        let fetched = timeout(FETCH, Box::pin(self.fetch_at_all(settings))).await;
        fetched.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("not within {FETCH:?}"))))
    }

    async fn fetch_at_all(&self, settings: &StrategySettings) -> io::Result<Vec<u8>> {
        let limit = settings.limits.component.0;
        match &settings.source {
            Source::Builtin(name) if name == "tag-prefix" => Ok(TAG_PREFIX.to_vec()),
            Source::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read(&path, limit)).await?
            }
            source => {
                let unsupported = || {
                    io::Error::new(
                        io::ErrorKind::Unsupported,
                        format!("no component can be had from {source}"),
                    )
                };
                let (bucket, key) = source.s3().ok_or_else(unsupported)?;
                let client = self.client(settings).await?;
                download(&client, bucket, key, limit).await
            }
        }
    }

    async fn client(&self, settings: &StrategySettings) -> io::Result<Client> {
        let location = Location {
            region: settings.region.clone(),
            endpoint_url: settings.endpoint_url.clone(),
        };
        let known = self.clients().get(&location).cloned();
        if let Some(client) = known {
            return Ok(client);
        }
        let Location { region, endpoint_url } = location.clone();
        let is_elsewhere = endpoint_url.is_some();
        let aws = AwsSettings {
            id: "strategies".into(),
            region,
            endpoint_url,
            sts_endpoint_url: None,
            tenant_role: None,
            timeout: FETCH,
            in_flight: 1,
            tenants: 1,
        };
        let config = aws.load().await.map_err(io::Error::other)?;
        let config = aws_sdk_s3::config::Builder::from(&config)
            // Servers of another address seldom have a name for each bucket.
            .force_path_style(is_elsewhere)
            .build();
        let client = Client::from_conf(config);
        // Somebody else's, if that was as quick, is as good.
        Ok(self.clients().entry(location).or_insert(client).clone())
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Location, Client>> {
        // Each change of it is one step.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn download(client: &Client, bucket: &str, key: &str, limit: u64) -> io::Result<Vec<u8>> {
    let object = client.get_object().bucket(bucket).key(key).send().await;
    let object = object.map_err(|error| io::Error::other(describe_failure(&error)))?;
    let mut bytes = Vec::new();
    object
        .body
        .into_async_read()
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .await?;
    Ok(bytes)
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // A pipe or a device may never end, or never begin.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
