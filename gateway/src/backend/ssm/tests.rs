//! Parameters over real sockets: Amazon's semantics as two servers understand them.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod conformance;
mod lists;
mod model;
mod others;
mod tenants;
mod thrift;

use super::{Aws, ParameterSettings, ParameterStore, client};
use crate::backend::aws::stand_in::{At, Server};
use crate::backend::{Backend as _, Conditions, Entry, NewEntry, WriteError};
use crate::identity::VerifiedTenant;
use crate::placement::PhysicalName;

impl At {
    pub(in crate::backend) fn parameters(&self) -> ParameterStore {
        self.parameters_at(10_000)
    }

    fn parameters_at(&self, requests_per_second: u32) -> ParameterStore {
        let parameters = ParameterSettings {
            root: "/tagway".to_owned(),
            kms_key: Some("alias/tagway".to_owned()),
            requests_per_second,
            list_names: 100,
        };
        let aws = Aws::new(self.settings.clone(), self.config.clone(), client);
        ParameterStore::over(aws, parameters)
    }
}

fn entry(value: &str, content_type: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: content_type.to_owned(),
        secret: false,
    }
}

/// Writes, whatever stands there.
async fn put(
    store: &ParameterStore,
    tenant: &VerifiedTenant,
    name: &PhysicalName,
    entry: NewEntry,
) -> Result<Entry, WriteError> {
    store.write(tenant, name, entry, Conditions::default()).await
}
