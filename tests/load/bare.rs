//! A bare tonic server of the same API, which does nothing but pass bytes on; what is written is on disk before it does.

use std::sync::Mutex;

use redb::{Database, TableDefinition};
use tagway_proto::v1;
use tagway_proto::v1::config_service_server::{ConfigService, ConfigServiceServer};
use tagway_proto::v1::watch_configs_response::{Kind, Synced};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A bare server that answers every Get with `answer` and tells every watcher of every Put; where it listens.
pub(super) async fn serve(answer: v1::GetConfigResponse) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let bare = Bare {
        answer,
        watchers: Mutex::default(),
        store: Store::new(),
    };
    // A process's worth of threads of its own, as the gateway has.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tonic::transport::Server::builder()
                .add_service(ConfigServiceServer::new(bare))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
    });
    address
}

struct Bare {
    answer: v1::GetConfigResponse,
    watchers: Mutex<Vec<Watcher>>,
    store: Store,
}

/// A file, and nothing around it.
struct Store {
    database: Database,
    _folder: TempDir,
}

const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");

impl Store {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self {
            database: Database::create(folder.path().join("bare.redb")).unwrap(),
            _folder: folder,
        }
    }

    /// As safely as the gateway does.
    fn put(&self, key: &str, value: &[u8]) {
        let mut transaction = self.database.begin_write().unwrap();
        transaction.set_two_phase_commit(true);
        transaction.open_table(VALUES).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    }
}

type Message = Result<v1::WatchConfigsResponse, Status>;
type Watcher = mpsc::UnboundedSender<Message>;

/// The methods that are measured; the others are no part of it.
#[tonic::async_trait]
impl ConfigService for Bare {
    async fn get_config(&self, _: Request<v1::GetConfigRequest>) -> Result<Response<v1::GetConfigResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn batch_get_configs(
        &self,
        _: Request<v1::BatchGetConfigsRequest>,
    ) -> Result<Response<v1::BatchGetConfigsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_configs(
        &self,
        _: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn put_config(
        &self,
        request: Request<v1::PutConfigRequest>,
    ) -> Result<Response<v1::PutConfigResponse>, Status> {
        let v1::PutConfigRequest { key, value, .. } = request.into_inner();
        tokio::task::block_in_place(|| self.store.put(&key, &value));
        let config = v1::Config {
            key,
            value,
            ..self.answer.config.clone().unwrap_or_default()
        };
        for watcher in &*self.watchers.lock().unwrap() {
            // Who has gone is told in vain.
            _ = watcher.send(Ok(message(Kind::Put(config.clone()))));
        }
        Ok(Response::new(v1::PutConfigResponse { config: Some(config) }))
    }

    async fn delete_config(
        &self,
        _: Request<v1::DeleteConfigRequest>,
    ) -> Result<Response<v1::DeleteConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_config_versions(
        &self,
        _: Request<v1::ListConfigVersionsRequest>,
    ) -> Result<Response<v1::ListConfigVersionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rollback_config(
        &self,
        _: Request<v1::RollbackConfigRequest>,
    ) -> Result<Response<v1::RollbackConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn explain_route(
        &self,
        _: Request<v1::ExplainRouteRequest>,
    ) -> Result<Response<v1::ExplainRouteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchConfigsStream = UnboundedReceiverStream<Message>;

    async fn watch_configs(
        &self,
        _: Request<tonic::Streaming<v1::WatchConfigsRequest>>,
    ) -> Result<Response<Self::WatchConfigsStream>, Status> {
        let (watcher, messages) = mpsc::unbounded_channel();
        _ = watcher.send(Ok(message(Kind::Synced(Synced::default()))));
        self.watchers.lock().unwrap().push(watcher);
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }
}

fn message(kind: Kind) -> v1::WatchConfigsResponse {
    v1::WatchConfigsResponse {
        subscription_id: "load".to_owned(),
        kind: Some(kind),
    }
}
