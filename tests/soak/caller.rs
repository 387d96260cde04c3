//! A tenant's client of one replica, whichever process that is at the time. Each of its requests is judged by how it ends.

use std::collections::HashMap;
use std::error::Error;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::batch_get_configs_response::{Result as Answer, result::Outcome as Found};
use tagway_tests::client::{Client, Door, Walk, get};
use tagway_tests::validators::timeline::{Call, Outcome, Store};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::Soak;

/// How long it waits for a replica that is away before it looks again.
const AWAY: Duration = Duration::from_millis(100);

/// One of them.
pub(super) struct Caller {
    pub(super) tenant: &'static str,
    pub(super) replica: usize,
    soak: Arc<Soak>,
    door: watch::Receiver<Door>,
    token: String,
    client: Option<Client>,
    /// When its last request was sent.
    pub(super) sent: Instant,
}

impl Caller {
    /// One that may read and write.
    pub(super) fn new(soak: &Arc<Soak>, tenant: &'static str, replica: usize) -> Self {
        Self {
            tenant,
            replica,
            soak: Arc::clone(soak),
            door: soak.fleet.door(replica),
            token: soak.fleet.token(tenant, "read write"),
            client: None,
            sent: Instant::now(),
        }
    }

    /// A connection to the replica, as soon as it is there.
    pub(super) async fn client(&mut self) -> Client {
        loop {
            if let Some(client) = self.client.clone()
                && !self.door.has_changed().unwrap_or(false)
            {
                return client;
            }
            let address = self.door.borrow_and_update().address.clone();
            self.client = Client::try_connect(&address, Some(&self.token)).await.ok();
            if self.client.is_none() {
                _ = timeout(AWAY, self.door.changed()).await;
            }
        }
    }

    /// Sends a request, which has to look into these stores. What its connection gives back unsent is sent again.
    pub(super) async fn call<T, Sent>(
        &mut self,
        what: &str,
        stores: &[Store],
        request: impl Fn(Client) -> Sent,
    ) -> Result<T, Status>
    where
        Sent: Future<Output = Result<T, Status>> + Send,
    {
        loop {
            let client = self.client().await;
            self.sent = Instant::now();
            let result = request(client).await;
            let outcome = result.as_ref().err().map_or(Outcome::Answered, outcome);
            let call = Call {
                what: format!("{what} of {}", self.tenant),
                replica: self.replica,
                stores: stores.to_owned(),
                sent: self.sent,
                done: Instant::now(),
                outcome,
            };
            self.soak.judges.bench().ended(&call);
            match call.outcome {
                Outcome::Unsent => {}
                Outcome::Unreached => {
                    self.client = None;
                    return result;
                }
                _ => return result,
            }
        }
    }

    /// `GetConfig`; none: no such key.
    pub(super) async fn get(
        &mut self,
        key: &str,
        store: Store,
        is_latest: bool,
    ) -> Result<Option<(v1::Config, v1::Freshness)>, Status> {
        let consistency = consistency(is_latest).into();
        let message = v1::GetConfigRequest {
            consistency,
            ..get(key)
        };
        let answer = self
            .call(&format!("Get {key}"), &[store], |client| {
                let message = message.clone();
                async move { client.get_with(message).await }
            })
            .await;
        match answer {
            Ok(answer) => Ok(Some((
                answer.config.expect("a configuration"),
                answer.freshness.expect("how true it is"),
            ))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// `BatchGetConfigs`, all of it or an error.
    pub(super) async fn batch(
        &mut self,
        keys: &[String],
        stores: &[Store],
        is_latest: bool,
    ) -> Result<Vec<(String, Option<(v1::Config, v1::Freshness)>)>, Status> {
        let message = v1::BatchGetConfigsRequest {
            keys: keys.to_owned(),
            consistency: consistency(is_latest).into(),
            ..v1::BatchGetConfigsRequest::default()
        };
        self.call("BatchGet", stores, |client| {
            let request = client.request(message.clone());
            let mut grpc = client.grpc.clone();
            async move {
                let answer = grpc.batch_get_configs(request).await?.into_inner();
                answer.results.into_iter().map(of_batch).collect()
            }
        })
        .await
    }

    /// `ListConfigs`, from page to page.
    pub(super) async fn list(
        &mut self,
        prefix: &'static str,
        stores: &[Store],
        page_size: i32,
    ) -> Result<Walk, Status> {
        let what = format!("List {prefix}");
        self.call(
            &what,
            stores,
            |client| async move { client.walk(prefix, page_size).await },
        )
        .await
    }
}

fn consistency(is_latest: bool) -> v1::Consistency {
    if is_latest {
        v1::Consistency::Latest
    } else {
        v1::Consistency::Cached
    }
}

fn of_batch(answer: Answer) -> Result<(String, Option<(v1::Config, v1::Freshness)>), Status> {
    match answer.outcome.expect("an outcome") {
        Found::Config(config) => {
            let freshness = answer.freshness.expect("how true it is");
            Ok((answer.key, Some((config, freshness))))
        }
        Found::Failure(failure) if failure.reason == "NOT_FOUND" => Ok((answer.key, None)),
        Found::Failure(failure) => {
            let details = ErrorDetails::with_error_info(failure.reason, "tagway", HashMap::new());
            let message = format!("{}: {}", answer.key, failure.message);
            Err(Status::with_error_details(failure.code.into(), message, details))
        }
    }
}

/// How a request ended that was not answered well.
fn outcome(status: &Status) -> Outcome {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        let told = format!("{status:?}");
        return match status.code() {
            Code::Cancelled if status.message() == "operation was canceled" => Outcome::Unsent,
            _ if is_refused_by_goaway(status) => Outcome::Unsent,
            Code::Unavailable if told.contains("ConnectionRefused") => Outcome::Unreached,
            // Nothing of the API answers so: it is the listener for probes of the next process, which got the port of the one that went.
            Code::Unimplemented if status.message().contains("HTTP status code 404") => Outcome::Unreached,
            _ => Outcome::Failed(told),
        };
    };
    let told = || format!("{:?} {}: {}", status.code(), info.reason, status.message());
    match (status.code(), info.reason.as_str()) {
        (Code::NotFound, "NOT_FOUND") | (Code::Aborted, "CHANGED") => Outcome::Answered,
        (Code::Unavailable, "BACKEND_UNAVAILABLE" | "BACKEND_BUSY") | (Code::DeadlineExceeded, _) => {
            Outcome::Unavailable(told())
        }
        _ => Outcome::Failed(told()),
    }
}

/// What h2 fails so was never sent, or has a higher number than the last that the replica says it takes: it was not processed (RFC 9113,
/// section 6.8), and gRPC libraries send such a request again by themselves. tonic leaves that to its caller.
fn is_refused_by_goaway(status: &Status) -> bool {
    let mut causes = successors(status.source(), |&error| error.source());
    causes.any(|error| {
        error.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        })
    })
}
