//! Stand-ins for AWS, for the tests of all stores there: servers that others wrote, and an endpoint in front of them.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

pub(in crate::backend) mod proxy;
pub(in crate::backend) mod sts;

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use tagway_servers::{Ministack, Roto};

use super::AwsSettings;
use crate::backend::Backend;

/// A server that speaks as AWS does. It runs as long as this lives.
pub(in crate::backend) enum Server {
    Ministack(Ministack),
    Roto(Roto),
}

impl Server {
    pub(in crate::backend) fn both() -> [Self; 2] {
        [Self::Ministack(Ministack::start()), Self::Roto(Roto::start())]
    }

    /// The faster one.
    pub(in crate::backend) fn roto() -> Self {
        Self::Roto(Roto::start())
    }

    pub(in crate::backend) fn endpoint(&self) -> &str {
        match self {
            Self::Ministack(server) => server.endpoint(),
            Self::Roto(server) => server.endpoint(),
        }
    }
}

/// A table of its own there.
pub(crate) async fn dynamodb(endpoint: &str) -> Arc<dyn Backend> {
    let at = At::new(endpoint).await;
    at.provision().await;
    Arc::new(at.store())
}

/// Its parameters.
pub(crate) async fn parameter_store(endpoint: &str) -> Arc<dyn Backend> {
    Arc::new(At::new(endpoint).await.parameters())
}

/// Somebody's way to a server.
pub(in crate::backend) struct At {
    pub(in crate::backend) settings: AwsSettings,
    pub(in crate::backend) config: SdkConfig,
}

impl At {
    pub(in crate::backend) async fn new(endpoint: &str) -> Self {
        let settings = AwsSettings {
            id: "hot".into(),
            region: Some("eu-west-1".to_owned()),
            endpoint_url: Some(endpoint.to_owned()),
            sts_endpoint_url: Some(endpoint.to_owned()),
            tenant_role: None,
            // Machines that test are busy.
            timeout: Duration::from_secs(20),
            in_flight: 64,
            tenants: 100,
        };
        let credentials = Credentials::new("test", "test", None, None, "tests");
        let config = settings.load().await.unwrap().to_builder();
        let config = config.credentials_provider(SharedCredentialsProvider::new(credentials));
        Self {
            settings,
            config: config.build(),
        }
    }
}
