//! The table over real sockets: Amazon's semantics as two servers understand them.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod conformance;
mod items;
mod lag;
mod model;
mod proxy;
mod tenants;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::Client;
use tagway_servers::{Ministack, Roto};

use super::{Aws, AwsSettings, DynamoDb, PageRequest, PhysicalName, Table, client};
use crate::clock::Clock;

const TABLE: &str = "tagway";

/// A server that speaks DynamoDB. It runs as long as this lives.
enum Server {
    Ministack(Ministack),
    Roto(Roto),
}

impl Server {
    fn both() -> [Self; 2] {
        [Self::Ministack(Ministack::start()), Self::Roto(Roto::start())]
    }

    /// The faster one.
    fn roto() -> Self {
        Self::Roto(Roto::start())
    }

    fn endpoint(&self) -> &str {
        match self {
            Self::Ministack(server) => server.endpoint(),
            Self::Roto(server) => server.endpoint(),
        }
    }
}

/// Somebody's way to a server.
struct At {
    settings: AwsSettings,
    config: SdkConfig,
}

impl At {
    async fn new(endpoint: &str) -> Self {
        let settings = AwsSettings {
            id: "hot".into(),
            region: Some("eu-west-1".to_owned()),
            endpoint_url: Some(endpoint.to_owned()),
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

    /// Without anything of ours in between.
    fn client(&self) -> Client {
        Client::new(&self.config)
    }

    async fn provision(&self) {
        let table = Table::over(self.client(), TABLE);
        for step in table.lacks().await.unwrap() {
            table.take(step).await.unwrap();
        }
    }

    fn store(&self) -> DynamoDb {
        self.store_at(&Clock::system())
    }

    fn store_at(&self, clock: &Clock) -> DynamoDb {
        self.store_keeping(None, clock)
    }

    fn store_keeping(&self, history_ttl: Option<Duration>, clock: &Clock) -> DynamoDb {
        let aws = Aws::new(self.settings.clone(), self.config.clone(), client);
        DynamoDb::over(aws, TABLE, history_ttl, clock.clone())
    }
}

/// The first so many names of a name's range.
fn page(name: &PhysicalName, entries: usize) -> PageRequest<'_> {
    PageRequest {
        range: name.range(),
        prefix: "",
        after: "",
        entries,
        bytes: 1 << 20,
        keys_only: false,
    }
}
