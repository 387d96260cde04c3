//! For fleets whose replicas have no queues: a Lambda function that takes EventBridge's events and hands each to every replica,
//! by `AdminService.RefreshConfigs`. It reads nothing in them: what they mean, and whether to believe them, is the gateway's matter.
//!
//! It is told by its environment where replicas are and who it is:
//!
//! - `TAGWAY_REPLICAS`: addresses of `AdminService`, separated by commas, each a host and a port, with `https://` before it where
//!   replicas speak TLS (`server.tls`). A host that has several addresses, as a headless service in Kubernetes has, is as many
//!   replicas; it is looked up for each event. A replica's certificate has to name that host.
//! - `TAGWAY_TOKEN`: a token with the permission `admin`.
//! - `TAGWAY_TLS_CA`: a file in PEM with who signs the certificates of replicas; without it who the machine trusts.
//! - `TAGWAY_TLS_CERT`, `TAGWAY_TLS_KEY`: files in PEM with a certificate of its own, for replicas that ask for one.
//!
//! If any replica was not reached the invocation fails and says which, so that it is made again.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::{env, fs};

use futures_util::future::join_all;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};
use tagway_proto::v1::RefreshConfigsRequest;
use tagway_proto::v1::admin_service_client::AdminServiceClient;
use tokio::net::lookup_host;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

/// Of one replica. All are called at once, so the function's own timeout is to be longer than this.
const CALL: Duration = Duration::from_secs(5);

/// Who is called, and by whom.
struct Fleet {
    replicas: Vec<Replicas>,
    tls: ClientTlsConfig,
    authorization: MetadataValue<Ascii>,
}

/// A host with a port, and whether what listens there speaks TLS.
struct Replicas {
    address: String,
    is_encrypted: bool,
}

impl Replicas {
    fn at(text: &str) -> Self {
        let (address, is_encrypted) = match text.strip_prefix("https://") {
            Some(address) => (address, true),
            None => (text.strip_prefix("http://").unwrap_or(text), false),
        };
        Self {
            address: address.trim_end_matches('/').to_owned(),
            is_encrypted,
        }
    }

    /// The name that its certificate has to be for.
    fn certified(&self) -> Option<&str> {
        let (host, _) = self.address.rsplit_once(':')?;
        self.is_encrypted.then(|| host.trim_matches(['[', ']']))
    }
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
        let replicas = replicas.split(',').map(str::trim).filter(|replica| !replica.is_empty());
        let replicas: Vec<Replicas> = replicas.map(Replicas::at).collect();
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
            tls: tls()?,
            authorization,
        })
    }

    /// Has every replica look again at what `event` names. An error names those that were not reached.
    async fn refresh(&self, event: &Value) -> Result<Value, Error> {
        let (addresses, mut problems) = self.addresses().await;
        let calls = addresses
            .iter()
            .map(|(address, name)| self.tell(*address, *name, event));
        let told = join_all(calls).await;
        let mut refreshed = 0;
        for (address, told) in addresses.keys().zip(told) {
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

    /// Each replica once, with the name that its certificate has to be for, if it has one; and which hosts have none.
    async fn addresses(&self) -> (BTreeMap<SocketAddr, Option<&str>>, Vec<String>) {
        let mut addresses = BTreeMap::new();
        let mut problems = Vec::new();
        for replica in &self.replicas {
            match lookup_host(&replica.address).await {
                Ok(found) => addresses.extend(found.map(|address| (address, replica.certified()))),
                Err(error) => problems.push(format!("{}: {error}", replica.address)),
            }
        }
        (addresses, problems)
    }

    async fn tell(&self, address: SocketAddr, name: Option<&str>, event: &Value) -> Result<u64, String> {
        let scheme = if name.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| error.to_string())?;
        let endpoint = match name {
            Some(name) => endpoint.tls_config(self.tls.clone().domain_name(name)),
            None => Ok(endpoint),
        };
        let endpoint = endpoint.map_err(|error| causes(&error))?;
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

/// Whom it trusts, and who it is.
fn tls() -> Result<ClientTlsConfig, Error> {
    let file = |name: &str| match env::var(name) {
        Ok(file) => fs::read(&file)
            .map(Some)
            .map_err(|error| format!("{name} = {file}: {error}")),
        Err(_) => Ok(None),
    };
    let tls = match file("TAGWAY_TLS_CA")? {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (file("TAGWAY_TLS_CERT")?, file("TAGWAY_TLS_KEY")?) {
        (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(cert, key))),
        (None, None) => Ok(tls),
        _ => Err("TAGWAY_TLS_CERT and TAGWAY_TLS_KEY go together".into()),
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
