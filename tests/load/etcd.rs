//! etcd, as far as it is compared: a write of a key and a watch of it, in the few fields of its API that they take.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio_stream::StreamExt as _;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Whatever it says.
#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

/// `etcdserverpb.WatchRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create_request: Option<WatchCreateRequest>,
}

/// `etcdserverpb.WatchCreateRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// `etcdserverpb.WatchResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

/// `mvccpb.Event`
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

/// `mvccpb.KeyValue`
#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

/// One server of its own.
pub(super) struct Etcd {
    pub(super) address: String,
    process: Child,
    _folder: TempDir,
}

impl Etcd {
    /// None: it is not on the path.
    pub(super) async fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        // etcd takes no port 0. Two that are free now are free in a moment, most likely.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (clients, peers) = (free(), free());
        let address = clients.local_addr().unwrap().to_string();
        let peer = format!("http://{}", peers.local_addr().unwrap());
        let client = format!("http://{address}");
        drop((clients, peers));
        let process = Command::new("etcd")
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
            .arg(folder.path())
            .args(["--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let etcd = Self {
            address,
            process,
            _folder: folder,
        };
        let client = loop {
            if let Ok(channel) = Endpoint::from_shared(client.clone()).unwrap().connect().await {
                break Client(channel);
            }
            tokio::task::yield_now().await;
        };
        client.put("warm", "up").await;
        Some(etcd)
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Already gone is as good.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A connection.
pub(super) struct Client(Channel);

impl Client {
    pub(super) async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self(endpoint.connect().await.unwrap())
    }

    pub(super) async fn put(&self, key: &str, value: &str) {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
        };
        let codec: ProstCodec<PutRequest, Anything> = ProstCodec::default();
        grpc.unary(Request::new(request), path, codec).await.unwrap();
    }

    pub(super) async fn watch(&self, key: &str, ready: impl FnOnce(), mut changed: impl FnMut(&[u8]) -> bool) {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let create = WatchRequest {
            create_request: Some(WatchCreateRequest { key: key.into() }),
        };
        let requests = tokio_stream::once(create).chain(tokio_stream::pending());
        let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
        let answers = grpc.streaming(Request::new(requests), path, codec).await.unwrap();
        let mut answers = answers.into_inner();
        let mut ready = Some(ready);
        while let Some(answer) = answers.message().await.unwrap() {
            if answer.created {
                ready.take().into_iter().for_each(|ready| ready());
            }
            for kv in answer.events.into_iter().filter_map(|event| event.kv) {
                if !changed(&kv.value) {
                    return;
                }
            }
        }
    }
}
