//! Several gateways on one root, and somebody else.

use std::sync::Arc;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::ParameterType;

use super::{At, Server};
use crate::backend::conformance::walk::{Behind, agrees_with_a_map};
use crate::identity::VerifiedTenant;
use crate::key::Etag;
use crate::placement::PhysicalName;

/// Somebody with the SDK.
struct Somebody(Client);

impl Behind for Somebody {
    async fn change(&self, _: &VerifiedTenant, name: &PhysicalName, stands: Option<Etag>, value: Option<&str>) {
        let parameter = format!("/tagway/{name}");
        match value {
            Some(value) => {
                let put = self.0.put_parameter().name(parameter).value(value);
                let put = put.r#type(ParameterType::String).overwrite(true);
                put.send().await.unwrap();
            }
            None if stands.is_some() => _ = self.0.delete_parameter().name(parameter).send().await.unwrap(),
            None => {}
        }
    }
}

#[tokio::test]
async fn two_gateways_and_somebody_else_agree_with_a_map() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        let somebody = Somebody(Client::new(&at.config));
        for seed in [1, fastrand::u64(..)] {
            let gateways =
                [at.parameters(), at.parameters()].map(|store| -> Arc<dyn crate::backend::Backend> { Arc::new(store) });
            agrees_with_a_map(gateways, &somebody, seed, 200).await;
        }
    }
}
