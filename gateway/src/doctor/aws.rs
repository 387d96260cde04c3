//! Whose credentials the gateway has at AWS, if it needs any, and what it may do with them for a tenant.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials as Keys;
use aws_credential_types::credential_feature::AwsCredentialFeature as Feature;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};
use humantime::format_rfc3339_seconds;
use tokio::time::timeout;

use super::clock::{Told, compared};
use super::{Examined, Finding, LIMIT};
use crate::app;
use crate::backend::{AwsSettings, failure};
use crate::key::TenantId;
use crate::settings::{BackendKind, EventsKind, Settings, Source};

/// Of one call, retries included. A check has time for some of them.
const CALL: Duration = Duration::from_secs(3);
/// Where STS is asked who we are, if nobody says where anything is.
const ANYWHERE: &str = "us-east-1";
/// Whom the doctor takes itself for. Nobody has anything under that name.
const TENANT: &str = "tagway-doctor";

const SUBJECT: &str = "credentials";

/// Whether there are any, and what was found out about them.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    pub(super) are_there: bool,
    pub(super) findings: Vec<Finding>,
}

/// Looks for them where the gateway would, if it has a use for any.
pub(super) async fn credentials(of: Examined) -> Credentials {
    let Some(settings) = needed(&of.settings) else {
        return Credentials::default();
    };
    match timeout(LIMIT, find(&of, settings)).await {
        Ok(credentials) => credentials,
        Err(_) => none(&format!("whoever gives them does not answer within {LIMIT:?}")),
    }
}

/// Whether the gateway speaks to AWS at all.
pub(super) fn is_needed(settings: &Settings) -> bool {
    needed(settings).is_some()
}

/// How AWS is reached by whatever needs it first.
fn needed(settings: &Settings) -> Option<AwsSettings> {
    let stores = settings
        .backends
        .iter()
        .filter(|(_, backend)| backend.kind != BackendKind::Embedded);
    // One that says where STS is, if any does.
    let store = stores
        .clone()
        .find(|(_, backend)| backend.sts_endpoint_url.is_some())
        .or_else(|| stores.clone().next());
    if let Some((id, backend)) = store {
        return Some(brief(app::at_aws(id, backend, 1)));
    }
    if settings.events.kind == EventsKind::Sqs {
        return Some(brief(app::events_at_aws(&settings.events)));
    }
    let sources = settings.strategies.values();
    let object = sources
        .clone()
        .find(|strategy| matches!(strategy.source, Source::S3(_)))?;
    Some(AwsSettings {
        region: object.region.clone(),
        ..brief(app::events_at_aws(&settings.events))
    })
}

/// The same, in the time of a check.
pub(super) fn brief(settings: AwsSettings) -> AwsSettings {
    AwsSettings {
        timeout: CALL,
        ..settings
    }
}

async fn find(of: &Examined, mut settings: AwsSettings) -> Credentials {
    let mut loaded = settings.load().await;
    if loaded.is_err() {
        // That no region is known is told where it matters.
        settings.region = Some(ANYWHERE.to_owned());
        loaded = settings.load().await;
    }
    let config = match loaded {
        Ok(config) => config,
        Err(error) => return none(&error.to_string()),
    };
    let keys = match keys(&config).await {
        Ok(keys) => keys,
        Err(why) => return none(&why),
    };
    let from = provider(&keys)
        .map(|provider| format!(", from {provider}"))
        .unwrap_or_default();
    let until = keys
        .expiry()
        .map(|expiry| format!(", good until {}", format_rfc3339_seconds(expiry)));
    let until = until.unwrap_or_default();
    let time = Dated::default();
    let sts = aws_sdk_sts::config::Builder::from(&settings.sts(&config)).interceptor(time.clone());
    let sts = aws_sdk_sts::Client::from_conf(sts.build());
    let asked = of.clock.now();
    let told = Box::pin(sts.get_caller_identity().send()).await;
    let heard = of.clock.now();
    let found = match told {
        Ok(caller) => {
            let arn = caller.arn().unwrap_or_default();
            Finding::ok(SUBJECT, format!("{arn}{from}{until}"))
        }
        Err(error) if error.as_service_error().is_some() && !failure::is_denied(&error) => {
            let found = format!(
                "there are some{from}{until}, and AWS refuses them: {}",
                failure::what(&error)
            );
            Finding::fail(SUBJECT, found, failure::fix(&error))
        }
        Err(error) => Finding::warn(
            SUBJECT,
            format!(
                "there are some{from}{until}; whose is not known: {}",
                failure::what(&error)
            ),
            failure::fix(&error),
        ),
    };
    let told = time.date().map(|date| Told { date, asked, heard });
    Credentials {
        are_there: true,
        findings: vec![found, compared("AWS", told, of.settings.identity.leeway)],
    }
}

fn none(why: &str) -> Credentials {
    let fix =
        "give this machine, task or pod a role; or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
    Credentials {
        are_there: false,
        findings: vec![Finding::fail(SUBJECT, format!("none: {why}"), fix)],
    }
}

async fn keys(config: &SdkConfig) -> Result<Keys, String> {
    let provider = config.credentials_provider().ok_or("nobody gives any")?;
    let keys = provider.provide_credentials().await;
    keys.map_err(|error| failure::chain(&error))
}

/// Where AWS's chain found them, if it says so.
fn provider(keys: &Keys) -> Option<&'static str> {
    let features = keys.get_property::<Vec<Feature>>()?;
    features.iter().find_map(|feature| {
        Some(match feature {
            Feature::CredentialsEnvVars => "variables",
            Feature::CredentialsEnvVarsStsWebIdToken => "a web identity token",
            Feature::CredentialsHttp => "the container's own endpoint",
            Feature::CredentialsImds => "this machine's role",
            Feature::CredentialsProcess | Feature::CredentialsProfileProcess => "a process that a profile names",
            Feature::CredentialsProfileSso | Feature::CredentialsSso => "a profile with single sign-on",
            Feature::CredentialsProfile
            | Feature::CredentialsProfileLogin
            | Feature::CredentialsProfileNamedProvider
            | Feature::CredentialsProfileSourceProfile
            | Feature::CredentialsProfileStsWebIdToken => "a profile",
            _ => return None,
        })
    })
}

/// What a store is asked with on behalf of a tenant, as the gateway would ask it; none if that cannot be had. And what was
/// found about it.
pub(super) async fn as_tenant(settings: &AwsSettings, config: &SdkConfig) -> (Option<SdkConfig>, Vec<Finding>) {
    let Some(role) = &settings.tenant_role else {
        return (Some(config.clone()), Vec::new());
    };
    let subject = format!("backends.{}.tenant_role", settings.id);
    let Some(tenant) = tenant() else {
        return (None, Vec::new());
    };
    let config = settings.as_tenant(config, role, &tenant).await;
    match keys(&config).await {
        Ok(_) => {
            let found = format!("{role} was assumed for the tenant {TENANT}, who has nothing");
            (Some(config), vec![Finding::ok(subject, found)])
        }
        Err(why) => {
            let fix = "let the gateway's role do sts:AssumeRole and sts:TagSession with it, and let it trust the gateway's role, \
                       as gateway/deploy/cloudformation.yaml does";
            let found = format!("{role} cannot be assumed: {why}");
            (None, vec![Finding::fail(subject, found, fix)])
        }
    }
}

/// Who has nothing anywhere.
pub(super) fn tenant() -> Option<TenantId> {
    TENANT.parse().ok()
}

/// Nobody says where a store or a queue is.
pub(super) fn no_region(setting: &str) -> Finding {
    let fix = format!("set {setting}, or AWS_REGION");
    Finding::fail(setting, "no region is named, here or in the environment", fix)
}

/// A call that should go well, and did not. `what` is the action that the gateway's role needs for it.
pub(super) fn failed<E>(subject: &str, what: &str, error: &SdkError<E>) -> Finding
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    Finding::fail(
        subject,
        format!("{what}: {}", failure::what(error)),
        failure::fix(error),
    )
}

/// What time it was at AWS when it answered last.
#[derive(Debug, Clone, Default)]
struct Dated(Arc<Mutex<Option<SystemTime>>>);

impl Dated {
    fn date(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Dated {
    fn name(&self) -> &'static str {
        "Dated"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date.and_then(|date| date.try_into().ok());
        Ok(())
    }
}
