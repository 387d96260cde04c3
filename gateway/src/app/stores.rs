//! The stores that settings name, and what is kept near of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::StartError;
use crate::backend::dynamodb::DynamoDb;
use crate::backend::embedded::{Backups, Embedded};
use crate::backend::ssm::{ParameterSettings, ParameterStore};
use crate::backend::{AwsSettings, Backend, BackendMetrics, Catalog, Observed};
use crate::cache::{Cache, Sharing, Snapshot};
use crate::clock::Clock;
use crate::folder::PrivateFolder;
use crate::placement::CachePolicy;
use crate::settings::{BackendKind, BackendSettings, CacheSettings, Settings};
use crate::status::Parts;

/// Opens all of them, and says which can be backed up.
pub(super) async fn open_catalog(
    settings: &Settings,
    parts: &Parts,
    metrics: &BackendMetrics,
    clock: &Clock,
) -> Result<(Catalog, Backups), StartError> {
    let mut backends: BTreeMap<Arc<str>, Arc<dyn Backend>> = BTreeMap::new();
    let mut backups = Backups::new(clock.clone());
    for (id, backend) in &settings.backends {
        let store: Arc<dyn Backend> = if backend.kind == BackendKind::Embedded {
            let store = open_embedded(id, backend, clock)?;
            backups.add(id, &store, backend.backups.as_deref());
            store
        } else {
            open(id, backend, settings.limits.tenants, clock).await?
        };
        let part = parts.part(&format!("backend:{id}"), true, "");
        let id: Arc<str> = id.as_str().into();
        let observed = Observed::new(Arc::clone(&id), store, part, metrics.clone());
        backends.insert(id, Arc::new(observed));
    }
    Ok((Catalog::new(backends), backups))
}

fn open_embedded(id: &str, backend: &BackendSettings, clock: &Clock) -> Result<Arc<Embedded>, StartError> {
    let path = backend.path.as_deref().unwrap_or(Path::new(""));
    let store = Embedded::open(path, backend.history(), clock.clone());
    let store = store.map_err(|error| StartError::Store {
        id: id.to_owned(),
        path: path.to_owned(),
        error,
    })?;
    Ok(Arc::new(store))
}

/// One at AWS.
async fn open(
    id: &str,
    backend: &BackendSettings,
    tenants: u32,
    clock: &Clock,
) -> Result<Arc<dyn Backend>, StartError> {
    let no_region = |error| StartError::Region {
        id: id.to_owned(),
        error,
    };
    match (backend.kind, &backend.table) {
        (BackendKind::DynamoDb, Some(table)) => {
            let store = DynamoDb::open(at_aws(id, backend, tenants), table, backend.history_ttl, clock.clone());
            Ok(Arc::new(store.await.map_err(no_region)?))
        }
        (BackendKind::Ssm, ..) => {
            let parameters = ParameterSettings {
                root: backend.root().to_owned(),
                kms_key: backend.kms_key.clone(),
                requests_per_second: backend.requests_per_second(),
                list_names: backend.list_names(),
            };
            let store = ParameterStore::open(at_aws(id, backend, tenants), parameters);
            Ok(Arc::new(store.await.map_err(no_region)?))
        }
        // Settings that lack what their kind needs do not resolve.
        (kind, ..) => Err(StartError::Machine(format!(
            "backends.{id}: a store of the kind {kind} lacks its place"
        ))),
    }
}

/// How a backend at AWS is reached, for so many tenants.
#[must_use]
pub fn at_aws(id: &str, backend: &BackendSettings, tenants: u32) -> AwsSettings {
    AwsSettings {
        id: id.into(),
        region: backend.region.clone(),
        endpoint_url: backend.endpoint_url.clone(),
        sts_endpoint_url: backend.sts_endpoint_url.clone(),
        tenant_role: backend.tenant_role.clone(),
        timeout: backend.timeout(),
        in_flight: backend.in_flight(),
        tenants,
    }
}

pub(super) fn cache(settings: &Settings) -> Arc<Cache> {
    let CacheSettings {
        ttl,
        stale,
        negative,
        max_ttl,
        max_stale,
        ..
    } = settings.cache;
    let otherwise = CachePolicy { ttl, stale, negative };
    let most = CachePolicy {
        ttl: max_ttl,
        stale: max_stale,
        negative: max_ttl,
    };
    let sharing = Sharing {
        look_again: Some(settings.events.sweep),
        tells: settings.events.publish(),
    };
    Cache::shared(settings.cache.max_bytes.0, otherwise, most, sharing)
}

/// What was last known good, in `cache`, if settings say where it is.
pub(super) fn snapshot(settings: &Settings, cache: &Cache, clock: &Clock) -> Result<Option<Snapshot>, StartError> {
    let Some(folder) = settings.cache.snapshot() else {
        return Ok(None);
    };
    let of_store = |(id, backend): (&String, &BackendSettings)| {
        let BackendSettings { kind, path, table, .. } = backend;
        let at = (&backend.region, &backend.endpoint_url, backend.root());
        format!("{id} {kind} {path:?} {table:?} {at:?}\n")
    };
    let shape: String = settings.backends.iter().map(of_store).collect();
    let private = PrivateFolder::open(folder).map_err(|error| StartError::Folder {
        key: "cache.snapshot",
        folder: folder.to_owned(),
        error,
    })?;
    let snapshot = Snapshot::new(private, &shape, clock.clone());
    match snapshot.restore(cache) {
        Ok(places) => tracing::info!(places, "what was last known good is there, should a store be away"),
        Err(error) => tracing::warn!(folder = %folder.display(), %error, "cache.snapshot is ignored"),
    }
    Ok(Some(snapshot))
}
