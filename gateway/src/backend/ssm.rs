//! AWS Systems Manager Parameter Store: for what is hierarchical and versioned, and read by other programs too.
//!
//! A key is a parameter, and its physical name the path. Versions and history are Parameter Store's own. An account has
//! few requests a second, so reads go together and every call waits for its turn.

mod calls;
mod list;
mod parameter;
mod path;
mod quota;
mod reads;
mod text;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::retry::RetryPartition;
use aws_sdk_ssm::operation::delete_parameter::DeleteParameterError;
use aws_sdk_ssm::operation::get_parameter_history::GetParameterHistoryError;

use super::aws::{Aws, AwsSettings, NoRegion, Traced};
use super::{
    Access, Backend, BackendError, Capabilities, Compared, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page,
    PageRequest, Precondition, ReadMany, WriteError, scope_root,
};
use crate::identity::VerifiedTenant;
use crate::placement::{PhysicalName, PhysicalRange};
use calls::{Calls, Repeat};
use list::Lists;
use reads::{Reads, Wanted};

/// Most versions of one answer (API reference, `GetParameterHistory`).
const HISTORY: i32 = 50;

/// What it can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    max_value_bytes: write::VALUE_BYTES,
    if_match: false,
    if_absent: true,
    request_id: false,
    history: true,
    deleted_history: false,
    secret: true,
    updated_by: false,
    reads_lag: true,
    others_write: true,
};

/// How Parameter Store is used, besides what all stores at AWS have: `[backends.<id>]`.
#[derive(Debug, Clone)]
pub struct ParameterSettings {
    /// What every parameter's name begins with: `/`, and no `/` at its end.
    pub root: String,
    /// With which secrets are encrypted. None: the account's own key for Parameter Store.
    pub kms_key: Option<String>,
    /// Calls a second.
    pub requests_per_second: u32,
    /// Most keys that a list looks through.
    pub list_names: u32,
}

/// The parameters under one root.
pub struct ParameterStore {
    root: String,
    kms_key: Option<String>,
    calls: Arc<Calls>,
    reads: Reads,
    lists: Arc<Lists>,
}

impl ParameterStore {
    /// Prepares it; nobody is asked yet.
    pub async fn open(settings: AwsSettings, parameters: ParameterSettings) -> Result<Self, NoRegion> {
        let config = settings.load().await?;
        Ok(Self::over(Aws::new(settings, config, client), parameters))
    }

    fn over(aws: Aws<Client>, parameters: ParameterSettings) -> Self {
        let calls = Calls::new(aws, parameters.requests_per_second);
        Self {
            root: parameters.root,
            kms_key: parameters.kms_key,
            reads: Reads::new(Arc::clone(&calls)),
            lists: Lists::new(Arc::clone(&calls), parameters.list_names as usize),
            calls,
        }
    }

    fn wanted(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: Option<u64>,
    ) -> Result<Option<Wanted>, BackendError> {
        let parameter = path::parameter(&self.root, tenant, name, Access::Read)?;
        // Nothing stands at a name that would be refused.
        let is_one = path::levels(&parameter) <= path::LEVELS;
        Ok(is_one.then_some(Wanted { parameter, version }))
    }

    async fn client(&self, tenant: &VerifiedTenant, range: &PhysicalRange, access: Access) -> Client {
        self.calls.aws().client(tenant, range.space(), access).await
    }

    /// All that stands and stood, the newest first.
    async fn past(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Vec<Entry>, BackendError> {
        let Some(Wanted { parameter, .. }) = self.wanted(tenant, name, None)? else {
            return Ok(Vec::new());
        };
        let client = self.client(tenant, name.range(), Access::Read).await;
        let mut past = Vec::new();
        let mut next = None;
        loop {
            let send = || {
                let call = client.get_parameter_history().name(&parameter);
                let call = call.with_decryption(true).max_results(HISTORY);
                call.set_next_token(next.clone()).send()
            };
            let answer = match self.calls.call(tenant, Repeat::Always, send).await {
                Ok(answer) => answer,
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(GetParameterHistoryError::is_parameter_not_found) =>
                {
                    return Ok(Vec::new());
                }
                Err(error) => return Err(self.calls.failed("GetParameterHistory", &error)),
            };
            for parameter in answer.parameters() {
                past.push(parameter::earlier(parameter)?);
            }
            next = answer.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                past.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.etag.version));
                return Ok(past);
            }
        }
    }
}

fn client(config: &SdkConfig, retries: RetryPartition) -> Client {
    let config = aws_sdk_ssm::config::Builder::from(config)
        .retry_partition(retries)
        .interceptor(Traced)
        // What is tried again takes a turn too, which only `Calls` know of.
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

#[async_trait]
impl Backend for ParameterStore {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        let Some(wanted) = self.wanted(tenant, name, None)? else {
            return Ok(None);
        };
        self.reads.one(tenant, wanted).await
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        let Some(wanted) = self.wanted(tenant, name, Some(version))? else {
            return Ok(None);
        };
        self.reads.one(tenant, wanted).await
    }

    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        bytes: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        let places: Vec<_> = names.iter().map(|name| self.wanted(tenant, name, None)).collect();
        let wanted = places.iter().filter_map(|place| place.as_ref().ok()?.clone());
        let answers = self.reads.all(tenant, wanted.collect()).await;
        let mut answers = answers.into_iter();
        let mut together = 0;
        places
            .into_iter()
            .map(|place| {
                if place?.is_none() {
                    return Ok(ReadMany::Nothing);
                }
                let Some(entry) = answers.next().unwrap_or(Ok(None))? else {
                    return Ok(ReadMany::Nothing);
                };
                if together >= bytes {
                    return Ok(ReadMany::Unread);
                }
                together += entry.value.len();
                Ok(ReadMany::Found(entry))
            })
            .collect()
    }

    async fn compare(&self, tenant: &VerifiedTenant, names: &[&PhysicalName]) -> Vec<Result<Compared, BackendError>> {
        let places: Vec<_> = names.iter().map(|name| self.wanted(tenant, name, None)).collect();
        let wanted = places.iter().filter_map(|place| place.as_ref().ok()?.clone());
        let answers = self.reads.at_leisure(tenant, wanted.collect()).await;
        let mut answers = answers.into_iter();
        let compared = places.into_iter().map(|place| {
            if place?.is_none() {
                return Ok(Compared::Nothing);
            }
            let found = answers.next().unwrap_or(Ok(None))?;
            Ok(found.map_or(Compared::Nothing, |entry| Compared::Stands(entry.etag)))
        });
        compared.collect()
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        let before: Option<u64> = match after {
            "" => None,
            after => Some(
                after
                    .parse()
                    .map_err(|_| BackendError::Damaged("a position in a history that is none".to_owned()))?,
            ),
        };
        let mut past = self.calls.within(self.past(tenant, name)).await?;
        past.retain(|entry| before.is_none_or(|before| entry.etag.version < before));
        let mut together = 0;
        let fits = past.iter().take(entries).take_while(|entry| {
            let fits = together < bytes;
            together += entry.value.len();
            fits
        });
        let fits = fits.count();
        let is_all = fits == past.len();
        past.truncate(fits);
        let next = past
            .last()
            .filter(|_| !is_all)
            .map(|last| last.etag.version.to_string());
        Ok(HistoryPage { entries: past, next })
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        let folder = path::folder(&self.root, tenant, request.range, Access::Read)?;
        // As long as the caller waits: each of its calls has its own time.
        self.lists.page(tenant, &folder, &request).await
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        let parameter = path::parameter(&self.root, tenant, name, Access::Write)?;
        let client = self.client(tenant, name.range(), Access::Write).await;
        let _change = self.lists.change(&parameter);
        let sent = AtomicBool::new(false);
        let put = self.put(tenant, &client, &parameter, entry, conditions.precondition, &sent);
        match self.calls.within(put).await {
            // It waited for a turn to be read back, and not to be done.
            Err(WriteError::Backend(BackendError::Busy { problem, .. })) if sent.load(Ordering::Relaxed) => {
                let problem = format!("{parameter} may have been written, and could not be read back: {problem}");
                Err(BackendError::Away(problem).into())
            }
            answer => answer,
        }
    }

    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError> {
        let parameter = path::parameter(&self.root, tenant, name, Access::Write)?;
        match conditions.precondition {
            Precondition::None => {}
            // Nothing is deleted, whatever comes after this look.
            Precondition::Absent if self.read(tenant, name).await?.is_none() => {
                return Ok(Deleted::nothing(elsewhere));
            }
            Precondition::Absent | Precondition::Match(_) | Precondition::Never => {
                return Err(WriteError::PreconditionFailed);
            }
        }
        if path::levels(&parameter) > path::LEVELS {
            return Ok(Deleted::nothing(elsewhere));
        }
        let client = self.client(tenant, name.range(), Access::Write).await;
        let _change = self.lists.change(&parameter);
        let send = || client.delete_parameter().name(&parameter).send();
        let delete = async {
            match self.calls.call(tenant, Repeat::IfNotDone, send).await {
                Ok(_) => Ok(Deleted::Stood(None)),
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(DeleteParameterError::is_parameter_not_found) =>
                {
                    Ok(Deleted::nothing(elsewhere))
                }
                Err(error) => Err(self.calls.failed("DeleteParameter", &error)),
            }
        };
        Ok(self.calls.within(delete).await?)
    }
}

#[cfg(test)]
mod tests;
