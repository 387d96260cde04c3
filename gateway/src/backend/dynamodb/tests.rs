//! The table over real sockets: Amazon's semantics as two servers understand them.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod conformance;
mod items;
mod lag;
mod model;
mod tenants;

use std::time::Duration;

use aws_sdk_dynamodb::Client;

use super::{Aws, DynamoDb, PageRequest, PhysicalName, Table, client};
use crate::backend::Urgency;
use crate::backend::aws::stand_in::{At, Server};
use crate::clock::Clock;

const TABLE: &str = "tagway";

impl At {
    /// Without anything of ours in between.
    fn client(&self) -> Client {
        Client::new(&self.config)
    }

    pub(in crate::backend) async fn provision(&self) {
        let table = Table::over(self.client(), TABLE);
        for step in table.lacks().await.unwrap() {
            table.take(step).await.unwrap();
        }
    }

    pub(in crate::backend) fn store(&self) -> DynamoDb {
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
        since: None,
        entries,
        bytes: 1 << 20,
        keys_only: false,
        urgency: Urgency::Asked,
    }
}
