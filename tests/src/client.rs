//! A client that says who it is with every call, and errors as tests look at them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::config_service_client::ConfigServiceClient;
use tagway_proto::v1::freshness::Source;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::issuer::{Key, claims};

/// Where a gateway is, and what signs the tokens that it believes.
#[derive(Clone)]
pub struct Door {
    /// Its address for gRPC.
    pub address: String,
    /// The issuer's.
    pub key: Arc<Key>,
}

impl Door {
    /// A client with a token that may read and write for `tenant`.
    pub async fn client(&self, tenant: &str) -> Client {
        Client::connect(&self.address, Some(&self.key.token(&claims(tenant)))).await
    }

    /// The same, if somebody is behind it.
    pub async fn try_client(&self, tenant: &str) -> Result<Client, tonic::transport::Error> {
        Client::try_connect(&self.address, Some(&self.key.token(&claims(tenant)))).await
    }
}

/// One caller.
#[derive(Clone)]
pub struct Client {
    /// For calls that have no short form here.
    pub grpc: ConfigServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Connects, with or without a token.
    pub async fn connect(address: &str, token: Option<&str>) -> Self {
        Self::try_connect(address, token).await.expect("the gateway listens")
    }

    /// The same, if the gateway listens.
    pub async fn try_connect(address: &str, token: Option<&str>) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Ok(Self::over(endpoint.connect().await?, token))
    }

    /// One over this connection, with or without a token.
    #[must_use]
    pub fn over(channel: Channel, token: Option<&str>) -> Self {
        Self {
            grpc: ConfigServiceClient::new(channel),
            authorization: token.map(|token| format!("Bearer {token}").parse().expect("ASCII")),
            tenant: None,
        }
    }

    /// The same connection with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            authorization: Some(format!("Bearer {token}").parse().expect("ASCII")),
            ..self.clone()
        }
    }

    /// The same caller for one of its tenants.
    #[must_use]
    pub fn for_tenant(&self, tenant: &str) -> Self {
        Self {
            tenant: Some(tenant.parse().expect("ASCII")),
            ..self.clone()
        }
    }

    /// A request with this caller's metadata.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert("x-tagway-tenant", tenant.clone());
        }
        request
    }

    /// `GetConfig` with everything.
    pub async fn get_with(&self, message: v1::GetConfigRequest) -> Result<v1::GetConfigResponse, Status> {
        let answer = self.grpc.clone().get_config(self.request(message)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// `GetConfig`.
    pub async fn get(&self, key: &str) -> Result<v1::Config, Status> {
        let answer = self.get_with(get(key)).await?;
        Ok(answer.config.expect("an answer holds a configuration"))
    }

    /// `PutConfig` with everything.
    pub async fn put_with(&self, message: v1::PutConfigRequest) -> Result<v1::Config, Status> {
        let answer = self.grpc.clone().put_config(self.request(message)).await?;
        Ok(answer.into_inner().config.expect("an answer holds a configuration"))
    }

    /// `PutConfig`.
    pub async fn put(&self, key: &str, value: &str) -> Result<v1::Config, Status> {
        self.put_with(put(key, value)).await
    }

    /// `DeleteConfig` with everything.
    pub async fn delete_with(&self, message: v1::DeleteConfigRequest) -> Result<(), Status> {
        let answer = self.grpc.clone().delete_config(self.request(message)).await;
        answer.map(drop)
    }

    /// `DeleteConfig`.
    pub async fn delete(&self, key: &str) -> Result<(), Status> {
        self.delete_with(delete(key)).await
    }

    /// `ListConfigs` with everything: one page.
    pub async fn page(&self, message: v1::ListConfigsRequest) -> Result<v1::ListConfigsResponse, Status> {
        let answer = self.grpc.clone().list_configs(self.request(message)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// `ListConfigs`: all pages, each of at most `page_size`.
    pub async fn list(&self, prefix: &str, page_size: i32) -> Result<Vec<v1::Config>, Status> {
        self.walk(prefix, page_size).await.map(|walk| walk.configs)
    }

    /// As [`Self::list`]; and how old its pages were.
    pub async fn walk(&self, prefix: &str, page_size: i32) -> Result<Walk, Status> {
        let mut request = list(prefix);
        request.page_size = page_size;
        let sent = Instant::now();
        let mut page = self.page(request.clone()).await?;
        // A store that was asked for it was asked after that.
        let is_asked = page
            .freshness
            .is_some_and(|freshness| freshness.source() == Source::Backend);
        let since = if is_asked { sent } else { sent - age(&page) };
        let mut oldest = Instant::now() - age(&page);
        let mut configs = page.configs;
        while !page.next_page_token.is_empty() {
            request.page_token = page.next_page_token;
            page = self.page(request.clone()).await?;
            oldest = oldest.min(Instant::now() - age(&page));
            configs.extend(page.configs);
        }
        Ok(Walk { configs, since, oldest })
    }

    /// As [`Self::list`], just the keys.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, Status> {
        let configs = self.list(prefix, 0).await?;
        Ok(configs.into_iter().map(|config| config.key).collect())
    }
}

/// A list, from page to page.
pub struct Walk {
    /// What is on them.
    pub configs: Vec<v1::Config>,
    /// The first page shows what stood then, or later.
    pub since: Instant,
    /// The oldest page shows what stood then, or earlier. A list whose pages do not fit shows something from before `since`.
    pub oldest: Instant,
}

fn age(page: &v1::ListConfigsResponse) -> Duration {
    let age = page.freshness.and_then(|freshness| freshness.age?.try_into().ok());
    age.expect("a list tells its age")
}

/// A plain request.
#[must_use]
pub fn get(key: &str) -> v1::GetConfigRequest {
    v1::GetConfigRequest {
        key: key.to_owned(),
        ..Default::default()
    }
}

/// A plain request.
#[must_use]
pub fn put(key: &str, value: &str) -> v1::PutConfigRequest {
    v1::PutConfigRequest {
        key: key.to_owned(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

/// A plain request.
#[must_use]
pub fn delete(key: &str) -> v1::DeleteConfigRequest {
    v1::DeleteConfigRequest {
        key: key.to_owned(),
        ..Default::default()
    }
}

/// A plain request.
#[must_use]
pub fn list(prefix: &str) -> v1::ListConfigsRequest {
    v1::ListConfigsRequest {
        prefix: prefix.to_owned(),
        ..Default::default()
    }
}

/// Only if it still has this etag.
#[must_use]
pub fn if_match(etag: &str) -> Option<v1::Precondition> {
    Some(v1::Precondition {
        kind: Some(v1::precondition::Kind::IfMatch(etag.to_owned())),
    })
}

/// Only if there is none.
#[must_use]
pub fn if_absent() -> Option<v1::Precondition> {
    Some(v1::Precondition {
        kind: Some(v1::precondition::Kind::IfAbsent(true)),
    })
}

/// A context of one dimension.
#[must_use]
pub fn context(name: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(name.to_owned(), value.to_owned())])
}

/// What an error says, as the head of `config.proto` promises it of every error.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// gRPC's code.
    pub code: Code,
    /// `ErrorInfo.reason`.
    pub reason: String,
    /// The field that `BadRequest` names.
    pub field: Option<String>,
}

/// Takes an error apart; it must have the one shape.
#[must_use]
pub fn refused(status: &Status) -> Refused {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!(info.domain, "tagway");
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    Refused {
        code: status.code(),
        reason: info.reason.clone(),
        field: violations.first().map(|violation| violation.field.clone()),
    }
}

/// The code and the reason of an error.
pub fn why<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let refused = refused(&result.expect_err("it must not pass"));
    (refused.code, refused.reason)
}
