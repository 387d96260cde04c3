//! Replicas of the table that are behind: what is acknowledged is what is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use super::{At, Server};
use crate::backend::aws::stand_in::proxy::{Proxy, answered};
use crate::backend::conformance::keeps_every_promise;

/// How far behind.
const LAG: Duration = Duration::from_secs(2);

/// When an answer was given, and which.
type Seen = (Instant, Arc<[u8]>);

/// An endpoint that answers a read with what it answered to the same read before, if that is less than [`LAG`] ago; but
/// for reads that ask to be consistent, if it honours those.
async fn lagging(upstream: &str, honours_consistency: bool) -> Proxy {
    let http = reqwest::Client::new();
    let seen = Mutex::new(HashMap::<String, Seen>::new());
    let upstream_of_reads = upstream.to_owned();
    Proxy::start(upstream, move |call| {
        let mut body = call.body.clone();
        let object = body.as_object_mut()?;
        let tables = object
            .get_mut("RequestItems")
            .and_then(|tables| tables.get_mut(super::TABLE));
        let consistent = match tables {
            Some(asked) => asked.as_object_mut()?.remove("ConsistentRead"),
            None => object.remove("ConsistentRead"),
        };
        if !matches!(call.operation.as_str(), "GetItem" | "Query" | "BatchGetItem")
            || (honours_consistency && consistent == Some(Value::Bool(true)))
        {
            return None;
        }
        let key = format!("{} {body}", call.operation);
        let known = seen.lock().unwrap().get(&key).cloned();
        let answer = known.filter(|(at, _)| at.elapsed() < LAG).map(|(_, answer)| answer);
        let answer = answer.unwrap_or_else(|| {
            // A judge is no future; what it asks for, it waits for.
            let request = http
                .post(&upstream_of_reads)
                .header("x-amz-target", format!("DynamoDB_20120810.{}", call.operation))
                .header("content-type", "application/x-amz-json-1.0")
                .header(
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/dynamodb/aws4_request",
                )
                .body(call.body.to_string());
            let sent = async { request.send().await.unwrap().bytes().await.unwrap() };
            let fresh = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(sent));
            let fresh: Arc<[u8]> = fresh.to_vec().into();
            seen.lock().unwrap().insert(key, (Instant::now(), Arc::clone(&fresh)));
            fresh
        });
        Some(answered(StatusCode::OK, answer.to_vec()))
    })
    .await
}

async fn survives(honours_consistency: bool) -> bool {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = lagging(server.endpoint(), honours_consistency).await;
    let at = At::new(&proxy.endpoint()).await;
    tokio::spawn(keeps_every_promise(Arc::new(at.store()))).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_reads_yesterday_is_not_asked() {
    assert!(survives(true).await);
}

/// The endpoint can be noticed: where it lies to consistent reads too, promises break.
#[tokio::test(flavor = "multi_thread")]
async fn yesterday_would_be_noticed() {
    assert!(!survives(false).await);
}
