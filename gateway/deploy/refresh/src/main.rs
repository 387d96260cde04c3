//! For fleets whose replicas have no queues: a Lambda function that takes EventBridge's events and hands each to every replica,
//! by `AdminService.RefreshConfigs`. It reads nothing in them: what they mean, and whether to believe them, is the gateway's matter.
//!
//! It is told by its environment where replicas are and who it is:
//!
//! - `TAGWAY_REPLICAS`: addresses of `AdminService`, separated by commas, each a host and a port. A host that has several
//!   addresses, as a headless service in Kubernetes has, is as many replicas; it is looked up for each event.
//! - `TAGWAY_TOKEN`: a token with the permission `admin`.
//!
//! If any replica was not reached the invocation fails and says which, so that it is made again.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};
use tagway_proto::v1::RefreshConfigsRequest;
use tagway_proto::v1::admin_service_client::AdminServiceClient;
use tokio::net::lookup_host;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

/// Of one replica. All are called at once, so the function's own timeout is to be longer than this.
const CALL: Duration = Duration::from_secs(5);

/// Who is called, and by whom.
struct Fleet {
    replicas: Vec<String>,
    authorization: MetadataValue<Ascii>,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let fleet = Fleet::from_environment()?;
    run(service_fn(async |event: LambdaEvent<Value>| {
        fleet.refresh(&event.payload).await
    }))
    .await
}

impl Fleet {
    fn from_environment() -> Result<Self, Error> {
        let variable = |name: &str| env::var(name).map_err(|_| format!("the variable {name} is not set"));
        let replicas = variable("TAGWAY_REPLICAS")?;
        let replicas: Vec<String> = replicas
            .split(',')
            .map(|replica| replica.trim().to_owned())
            .filter(|replica| !replica.is_empty())
            .collect();
        if replicas.is_empty() {
            return Err(
                "TAGWAY_REPLICAS names no replica: hosts and ports, as in 10.0.0.1:50052,10.0.0.2:50052".into(),
            );
        }
        let authorization = format!("Bearer {}", variable("TAGWAY_TOKEN")?.trim());
        let mut authorization: MetadataValue<Ascii> = authorization.parse().map_err(|_| "TAGWAY_TOKEN is no token")?;
        authorization.set_sensitive(true);
        Ok(Self {
            replicas,
            authorization,
        })
    }

    /// Has every replica look again at what `event` names. An error names those that were not reached.
    async fn refresh(&self, event: &Value) -> Result<Value, Error> {
        let (addresses, mut problems) = self.addresses().await;
        let told = join_all(addresses.iter().map(|address| self.tell(*address, event))).await;
        let mut refreshed = 0;
        for (address, told) in addresses.iter().zip(told) {
            match told {
                Ok(places) => refreshed += places,
                Err(problem) => problems.push(format!("{address}: {problem}")),
            }
        }
        if problems.is_empty() {
            Ok(json!({ "replicas": addresses.len(), "refreshed": refreshed }))
        } else {
            Err(format!("not every replica was told: {}", problems.join("; ")).into())
        }
    }

    /// Each replica once; and which hosts have none.
    async fn addresses(&self) -> (BTreeSet<SocketAddr>, Vec<String>) {
        let mut addresses = BTreeSet::new();
        let mut problems = Vec::new();
        for replica in &self.replicas {
            match lookup_host(replica).await {
                Ok(found) => addresses.extend(found),
                Err(error) => problems.push(format!("{replica}: {error}")),
            }
        }
        (addresses, problems)
    }

    async fn tell(&self, address: SocketAddr, event: &Value) -> Result<u64, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let endpoint = endpoint.connect_timeout(CALL).timeout(CALL);
        let channel = endpoint.connect().await.map_err(|error| causes(&error))?;
        let mut request = Request::new(RefreshConfigsRequest {
            event: event.to_string(),
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        match AdminServiceClient::new(channel).refresh_configs(request).await {
            Ok(answer) => Ok(answer.into_inner().refreshed),
            // It would not be understood any better next time.
            Err(status) if status.code() == Code::InvalidArgument => Ok(0),
            Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
        }
    }
}

/// tonic's own word for it says nothing of why.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
