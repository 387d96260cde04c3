//! Parameter Store: whether a tenant's parameters may be read.

use aws_sdk_ssm::Client;

use super::aws::{as_tenant, brief, failed, no_region, tenant};
use super::{Check, Finding};
use crate::app;
use crate::backend::{AwsSettings, NoRegion};
use crate::settings::BackendSettings;

pub(super) fn check(id: &str, backend: &BackendSettings) -> Check {
    let settings = brief(app::at_aws(id, backend, 1));
    let subject = format!("backends.{id}.root");
    let (root, kms_key) = (backend.root().to_owned(), backend.kms_key.clone());
    Check::new(subject.clone(), async move {
        let mut findings = look(&settings, &subject, &root).await;
        findings.extend(kms_key.map(|key| {
            let found = format!("{key} was not tried: only who writes a secret uses it");
            Finding::ok(format!("backends.{}.kms_key", settings.id), found)
        }));
        findings
    })
    .asks_aws()
}

async fn look(settings: &AwsSettings, subject: &str, root: &str) -> Vec<Finding> {
    let config = match settings.load().await {
        Ok(config) => config,
        Err(NoRegion) => return vec![no_region(&format!("backends.{}.region", settings.id))],
    };
    let (config, mut findings) = as_tenant(settings, &config).await;
    let (Some(config), Some(tenant)) = (config, tenant()) else {
        let fix = "mend tenant_role, and run this again";
        findings.push(Finding::warn(subject, "nothing was read", fix));
        return findings;
    };
    let read = Client::new(&config)
        .get_parameters()
        .names(format!("{root}/{tenant}/none"));
    findings.push(match Box::pin(read.send()).await {
        Ok(_) => Finding::ok(subject, format!("{root}: a tenant's parameters can be read")),
        Err(error) => failed(subject, "ssm:GetParameters", &error),
    });
    findings
}
