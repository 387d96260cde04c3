//! An operator of a gateway.

use tagway_proto::v1;
use tagway_proto::v1::admin_service_client::AdminServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::gateway::Gateway;
use crate::issuer::claims;

/// One that says who it is.
pub type Admin = AdminServiceClient<InterceptedService<Channel, Bearer>>;

/// Whose token goes with every request.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Gateway {
    /// An operator, who may administrate.
    pub async fn admin(&self) -> Admin {
        self.admin_who_may("admin").await
    }

    /// One with other permissions.
    pub async fn admin_who_may(&self, scope: &str) -> Admin {
        let mut claims = claims("acme");
        claims["scope"] = scope.into();
        let token = self.key.token(&claims);
        connect(&self.admin, &token).await.expect("the gateway listens")
    }
}

/// One with this token, if the gateway listens.
pub async fn connect(address: &str, token: &str) -> Result<Admin, tonic::transport::Error> {
    let bearer = format!("Bearer {token}").parse().expect("ASCII");
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await?;
    Ok(AdminServiceClient::with_interceptor(channel, Bearer(bearer)).max_encoding_message_size(64 << 20))
}

/// An activation of these bytes, or of what the source holds.
#[must_use]
pub fn activate(name: &str, component: Option<Vec<u8>>) -> v1::ActivateStrategyRequest {
    v1::ActivateStrategyRequest {
        name: name.to_owned(),
        kind: component.map(v1::activate_strategy_request::Kind::Component),
        ..v1::ActivateStrategyRequest::default()
    }
}

/// The same component with another digest: a custom section at its end, which nothing reads.
#[must_use]
pub fn distinct(component: &[u8], number: u32) -> Vec<u8> {
    let content = [b"\x08distinct".as_slice(), &number.to_le_bytes()].concat();
    // Its length is less than 128, so it is one byte.
    let length = u8::try_from(content.len()).expect("a short section");
    [component, &[0, length], &content].concat()
}
