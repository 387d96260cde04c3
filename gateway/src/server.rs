//! What listens: the gRPC services under their layers, and the operators' HTTP.

mod config_service;
mod deadline;
mod in_flight;
mod ops;
pub(crate) mod status;

use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1::config_service_server::ConfigServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::LayerExt as _;
use tonic::transport::server::TcpIncoming;
use tower::ServiceBuilder;

use crate::config::Configs;
use crate::identity::{Authenticate, Identity};
use crate::settings::{LimitSettings, ServerSettings};
use config_service::ConfigServiceImpl;
use deadline::DeadlineLayer;
use in_flight::InFlightLayer;

pub use ops::{Readiness, serve_ops};

/// Of one request's metadata. More than the longest token, so that one is told that it is too long.
const HEADER_BYTES: u32 = 32 << 10;

/// Serves gRPC on `listener` until `stop`; then finishes what is under way.
pub async fn serve_grpc(
    listener: TcpListener,
    server: &ServerSettings,
    limits: &LimitSettings,
    identity: Arc<Identity>,
    configs: Arc<Configs>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let service = ConfigServiceServer::new(ConfigServiceImpl::new(configs))
        .max_decoding_message_size(usize::try_from(limits.request_bytes.0).unwrap_or(usize::MAX));
    // From the socket inwards. Each layer stands where it is for a reason.
    let service = ServiceBuilder::new()
        // First of all, so that a request too many costs next to nothing.
        .layer(InFlightLayer::new(limits.in_flight))
        // Around everything that can wait, the issuer's keys included.
        .layer(DeadlineLayer::new(limits.request_timeout))
        // The first wall. Behind it there is a verified tenant, before it nothing that knows of any.
        .layer(Authenticate::new(identity, status::refuse))
        .named_layer(service);
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    health
        .set_service_status("tagway.v1.ConfigService", tonic_health::ServingStatus::Serving)
        .await;
    let draining = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            // Who asks learns it before the connection is told to go.
            for name in ["", "tagway.v1.ConfigService"] {
                health
                    .set_service_status(name, tonic_health::ServingStatus::NotServing)
                    .await;
            }
        }
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(server.keepalive.interval))
        .http2_keepalive_timeout(Some(server.keepalive.timeout))
        // The longest token there is, in base64 or not, and room for the rest.
        .http2_max_header_list_size(HEADER_BYTES)
        .max_connection_age(jittered(server.max_connection_age))
        .max_connection_age_grace(server.max_connection_grace)
        .add_service(service)
        // Without a token: who probes has none.
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, draining)
        .await
}

/// Up to a tenth sooner, so that replicas that started together do not send their clients away together.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(fastrand::f64().mul_add(-0.1, 1.0))
}
