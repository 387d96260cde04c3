//! An endpoint in front of a server: it sees each call, and may answer it itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;

/// One call, as the endpoint sees it.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Call {
    /// As in `GetItem`, or `AssumeRole`.
    pub(in crate::backend) operation: String,
    /// What was asked. A string for STS, which takes forms.
    pub(in crate::backend) body: Value,
    /// Whose signature it carries.
    pub(in crate::backend) access_key: String,
    /// Bytes of the answer.
    pub(in crate::backend) answer: usize,
}

type Judge = dyn Fn(&Call) -> Option<Response<Body>> + Send + Sync;

/// A proxy that runs until this is dropped.
pub(in crate::backend) struct Proxy {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Relay {
    upstream: String,
    http: reqwest::Client,
    calls: Arc<Mutex<Vec<Call>>>,
    peers: Arc<Mutex<BTreeSet<SocketAddr>>>,
    judge: Arc<Judge>,
}

impl Proxy {
    /// In front of `upstream`. What `judge` answers does not reach it.
    pub(in crate::backend) async fn start(
        upstream: &str,
        judge: impl Fn(&Call) -> Option<Response<Body>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::default();
        let peers = Arc::default();
        let relay = Relay {
            upstream: upstream.to_owned(),
            http: reqwest::Client::new(),
            calls: Arc::clone(&calls),
            peers: Arc::clone(&peers),
            judge: Arc::new(judge),
        };
        let routes = Router::new().fallback(pass).with_state(relay);
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            address,
            calls,
            peers,
            serving,
        }
    }

    pub(in crate::backend) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections that were ever used.
    pub(in crate::backend) fn connections(&self) -> usize {
        self.peers.lock().unwrap().len()
    }

    /// The calls since this was asked last.
    pub(in crate::backend) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(
    State(relay): State<Relay>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    relay.peers.lock().unwrap().insert(peer);
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let text = String::from_utf8(body.to_vec()).unwrap();
    let target = header("x-amz-target");
    let operation = target.map_or("AssumeRole".to_owned(), |target| {
        target.split('.').next_back().unwrap().to_owned()
    });
    let signed = header("authorization").unwrap_or_default();
    let access_key = signed.split("Credential=").nth(1).unwrap_or_default();
    let mut call = Call {
        operation,
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        access_key: access_key.split('/').next().unwrap_or_default().to_owned(),
        answer: 0,
    };
    if let Some(answer) = (relay.judge)(&call) {
        relay.calls.lock().unwrap().push(call);
        return answer;
    }
    let mut request = relay.http.post(&relay.upstream).body(body);
    for name in ["content-type", "x-amz-target", "authorization", "x-amz-date"] {
        if let Some(value) = header(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body = answer.bytes().await.unwrap();
    call.answer = body.len();
    relay.calls.lock().unwrap().push(call);
    answered(status, body)
}

/// An answer as DynamoDB gives it.
pub(in crate::backend) fn answered(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.0");
    answer.body(body.into()).unwrap()
}
