//! Tables: whether each is what `tagway provision` would make of it, and whether a tenant's items may be read.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;

use super::aws::{self, as_tenant, brief, no_region};
use super::{Check, Examined, Finding};
use crate::app;
use crate::backend::dynamodb::{ProvisionError, Step, Table};
use crate::backend::{AwsSettings, NoRegion, failure};
use crate::settings::BackendSettings;

/// A table by its name, in commands and in what is found.
struct Named<'n> {
    subject: String,
    name: &'n str,
    provision: String,
}

pub(super) fn check(of: &Examined, id: &str, backend: &BackendSettings, name: &str) -> Check {
    let settings = brief(app::at_aws(id, backend, 1));
    let (subject, name) = (format!("backends.{id}.table"), name.to_owned());
    let provision = format!("tagway provision {}", of.file);
    Check::new(subject.clone(), async move {
        let named = Named {
            subject,
            name: &name,
            provision,
        };
        look(&settings, &named).await
    })
    .asks_aws()
}

async fn look(settings: &AwsSettings, named: &Named<'_>) -> Vec<Finding> {
    let config = match settings.load().await {
        Ok(config) => config,
        Err(NoRegion) => return vec![no_region(&format!("backends.{}.region", settings.id))],
    };
    let table = Table::over(Client::new(&config), named.name);
    let (lacks, (mut findings, read)) = tokio::join!(Box::pin(table.lacks()), read(settings, &config, named.name));
    findings.push(named.judge(lacks, read));
    findings
}

/// What was found on the way to a read; and what became of it, if it came to one.
async fn read(
    settings: &AwsSettings,
    config: &SdkConfig,
    name: &str,
) -> (Vec<Finding>, Option<Result<(), SdkError<GetItemError>>>) {
    let (config, findings) = as_tenant(settings, config).await;
    let (Some(config), Some(tenant)) = (config, aws::tenant()) else {
        return (findings, None);
    };
    let table = Table::over(Client::new(&config), name);
    (findings, Some(Box::pin(table.try_read(&tenant)).await))
}

impl Named<'_> {
    fn judge(
        &self,
        lacks: Result<Vec<Step>, ProvisionError>,
        read: Option<Result<(), SdkError<GetItemError>>>,
    ) -> Finding {
        let Self { subject, name, .. } = self;
        // One that is not there is not read either.
        if lacks.as_ref().is_ok_and(|lacks| lacks.contains(&Step::Table)) {
            return self.missing();
        }
        let was_read = match read {
            Some(Err(error)) if lacks.is_err() && is_missing(&error) => return self.missing(),
            Some(Err(error)) if is_missing(&error) => {
                let found = format!("{name} is there, and for a tenant it is not: {}", failure::what(&error));
                return Finding::fail(
                    subject,
                    found,
                    "set tenant_role to a role of the account that the table is in",
                );
            }
            Some(Err(error)) => {
                let found = format!("{name}: a tenant's items cannot be read: {}", failure::what(&error));
                return Finding::fail(subject, found, failure::fix(&error));
            }
            Some(Ok(())) => "a tenant's items can be read",
            None => "nothing was read",
        };
        match lacks {
            Ok(lacks) if lacks.is_empty() => Finding::ok(subject, format!("{name} is as it has to be; {was_read}")),
            Ok(lacks) => {
                let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
                let found = format!("{name}: still to be done: {}; {was_read}", lacks.join("; "));
                Finding::warn(subject, found, &self.provision)
            }
            Err(ProvisionError::Denied(_)) => Finding::warn(
                subject,
                format!("{name}: {was_read}; whether it is as it has to be may not be looked at"),
                format!(
                    "let somebody who may run `{} --dry-run`, or allow dynamodb:DescribeTable, \
                     dynamodb:DescribeContinuousBackups and dynamodb:DescribeTimeToLive",
                    self.provision
                ),
            ),
            // They serve all the same.
            Err(error @ (ProvisionError::Stream(..) | ProvisionError::TimeToLive(..))) => {
                Finding::warn(subject, error.to_string(), &self.provision)
            }
            Err(error @ ProvisionError::Another(_)) => {
                let fix = format!("set {subject} to another name, and run `{}`", self.provision);
                Finding::fail(subject, error.to_string(), fix)
            }
            Err(error) => {
                let found = format!("{name}: {was_read}; whether it is as it has to be was not told: {error}");
                Finding::warn(subject, found, format!("{} --dry-run", self.provision))
            }
        }
    }

    fn missing(&self) -> Finding {
        let found = format!("there is no table {} in this account and region", self.name);
        Finding::fail(&self.subject, found, &self.provision)
    }
}

fn is_missing(error: &SdkError<GetItemError>) -> bool {
    error
        .as_service_error()
        .is_some_and(GetItemError::is_resource_not_found_exception)
}
