//! What listens: the gRPC services under their layers, and the operators' HTTP.

mod admin_service;
mod around;
mod audited;
mod authenticate;
mod backup;
mod config_service;
mod connection;
mod deadline;
mod door;
mod fields;
mod in_flight;
mod measured;
mod ops;
mod peer;
mod shape;
mod status;
mod strategies;
mod taken;
mod traced;
mod watch;
mod within_quota;

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1::admin_service_server::AdminServiceServer;
#[cfg(feature = "internals")]
use tagway_proto::v1::config_service_server::ConfigService;
use tagway_proto::v1::config_service_server::ConfigServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::LayerExt as _;
use tonic_health::ServingStatus;
use tower::{Service, ServiceBuilder};

use crate::audit::Audit;
use crate::clock::jittered;
use crate::config::Configs;
use crate::identity::Verifier;
use crate::quota::Quotas;
use crate::settings::{LimitSettings, ServerSettings};
use crate::watch::Hub;
use admin_service::AdminServiceImpl;
use around::AroundLayer;
use authenticate::{Authenticate, AuthenticateAdmin};
use config_service::ConfigServiceImpl;
use deadline::Deadline;
use in_flight::InFlight;
use measured::Measured;
use peer::LASTING;
use shape::Shape;
use traced::Traced;
use within_quota::WithinQuota;

pub(crate) use watch::Watches;

pub use admin_service::Admin;
pub use door::{ConnectionMetrics, Door};
pub use measured::RequestMetrics;
pub use ops::{Readiness, serve_ops};

/// The service alone, without what stands around it.
#[cfg(feature = "internals")]
pub(crate) fn config_service(configs: Arc<Configs>, watches: Arc<Watches>, quotas: Arc<Quotas>) -> impl ConfigService {
    ConfigServiceImpl::new(configs, watches, quotas, Arc::new(Audit::none()))
}

/// What health checks may ask for: everything, and the one service.
const HEALTH_NAMES: [&str; 2] = ["", "tagway.v1.ConfigService"];
/// Most calls of `AdminService` at once.
const ADMINS: u32 = 16;
/// Of one of them, at most.
const ACTIVATION: Duration = Duration::from_mins(2);
/// Of one of their messages: the largest component that settings allow, and room for the rest.
const COMPONENT_BYTES: usize = 33 << 20;
/// Requests at once of who needs no token, such as health checks, and bytes of each message.
const ANYBODY: u32 = 1024;
const ANYBODY_BYTES: usize = 4 << 10;
/// Of one connection, at once.
const STREAMS: u32 = 200;
/// Of one request's metadata. More than the longest token, so that one is told that it is too long.
const HEADER_BYTES: u32 = 32 << 10;

/// What is served.
pub struct Services {
    /// Whose tokens are believed.
    pub verifier: Arc<Verifier>,
    /// What tenants ask for.
    pub configs: Arc<Configs>,
    /// What they watch.
    pub hub: Arc<Hub>,
    /// What each of them may ask for.
    pub quotas: Arc<Quotas>,
    /// What is counted.
    pub metrics: RequestMetrics,
    /// Where it is written down.
    pub audit: Arc<Audit>,
    /// What operators ask for, where they ask at the same address.
    pub admin: Option<Administration>,
}

/// What operators ask for, and whose tokens are believed that say so.
#[derive(Clone)]
pub struct Administration {
    /// What they ask for.
    pub admin: Arc<Admin>,
    /// Whose tokens.
    pub verifier: Arc<Verifier>,
    /// What is counted.
    pub metrics: RequestMetrics,
    in_flight: InFlight,
}

/// Serves `AdminService` alone on `listener` until `stop`; then finishes what is under way.
pub async fn serve_admin(
    listener: TcpListener,
    door: Door,
    server: &ServerSettings,
    limits: &LimitSettings,
    administration: Administration,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    transport(server)
        .add_service(administration.service(limits))
        .add_optional_service(reflection(server, limits))
        // It drains when nobody comes any more.
        .serve_with_incoming_shutdown(door.accept(listener, stop), pending())
        .await
}

impl Administration {
    /// That, for these.
    #[must_use]
    pub fn new(admin: Arc<Admin>, verifier: Arc<Verifier>, metrics: RequestMetrics) -> Self {
        Self {
            admin,
            verifier,
            metrics,
            in_flight: InFlight::new(ADMINS, ADMINS as usize),
        }
    }

    /// Waits until nothing that operators asked for is under way.
    pub async fn ended(&self) {
        self.in_flight.ended().await;
    }

    /// The service in its layers. Its calls are few, and apart from the tenants', so that these cannot keep it from being
    /// answered.
    fn service(self, limits: &LimitSettings) -> impl Mounted {
        ServiceBuilder::new()
            .layer(AroundLayer(Measured(self.metrics)))
            .layer(AroundLayer(Traced))
            .layer(AroundLayer(self.in_flight))
            // A version that is to be taken up may take its time.
            .layer(AroundLayer(Deadline {
                at_most: limits.request_timeout.max(ACTIVATION),
            }))
            .layer(AroundLayer(AuthenticateAdmin {
                verifier: self.verifier,
                audit: Arc::clone(&self.admin.audit),
            }))
            .layer(AroundLayer(Shape))
            .named_layer(
                AdminServiceServer::new(AdminServiceImpl(self.admin)).max_decoding_message_size(COMPONENT_BYTES),
            )
    }
}

/// What all listeners have in common.
fn transport(server: &ServerSettings) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(server.keepalive.interval))
        .http2_keepalive_timeout(Some(server.keepalive.timeout))
        .max_concurrent_streams(STREAMS)
        // The longest token there is, in base64 or not, and room for the rest.
        .http2_max_header_list_size(HEADER_BYTES)
        // tonic's grace would cut the connection instead of telling it to go (0.14.9); without one it is told, and its
        // requests end within their own deadlines.
        .max_connection_age(jittered(server.max_connection_age))
}

/// What services there are, for clients that ask.
fn reflection(server: &ServerSettings, limits: &LimitSettings) -> Option<impl Mounted> {
    let described = tonic_reflection::server::Builder::configure();
    let described = described.register_encoded_file_descriptor_set(tagway_proto::DESCRIPTORS);
    // What the build wrote can be read.
    let service = server.reflection.then(|| described.build_v1().ok()).flatten()?;
    Some(for_anybody(limits, service.max_decoding_message_size(ANYBODY_BYTES)))
}

/// A service for who has no token, bounded so that nobody needs to know who they are.
fn for_anybody(limits: &LimitSettings, service: impl Mounted) -> impl Mounted {
    ServiceBuilder::new()
        // Of answers without an end half of what all connections could have: who would use them up has to have half of those.
        .layer(AroundLayer(InFlight::new(
            ANYBODY,
            limits.connections as usize * LASTING / 2,
        )))
        .layer(AroundLayer(Deadline {
            at_most: limits.request_timeout,
        }))
        .named_layer(service)
}

/// A service as tonic takes it.
trait Mounted:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Mounted for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves gRPC on `listener` until `stop`; then finishes what is under way.
pub async fn serve_grpc(
    listener: TcpListener,
    door: Door,
    server: &ServerSettings,
    limits: &LimitSettings,
    services: Services,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let Services {
        verifier,
        configs,
        hub,
        quotas,
        metrics,
        audit,
        admin,
    } = services;
    let (mut health, health_service) = tonic_health::server::health_reporter();
    let in_flight = InFlight::new(limits.in_flight, 0);
    let watches = Watches::new(
        Arc::clone(&configs),
        Arc::clone(&verifier),
        hub,
        Arc::clone(&quotas),
        server,
        limits,
        stop.clone(),
    );
    let service = ConfigServiceServer::new(ConfigServiceImpl::new(
        configs,
        Arc::clone(&watches),
        Arc::clone(&quotas),
        Arc::clone(&audit),
    ))
    .max_decoding_message_size(usize::try_from(limits.request_bytes.0).unwrap_or(usize::MAX));
    // From the socket inwards. Each layer stands where it is for a reason.
    let service = ServiceBuilder::new()
        // Around all, so that whatever becomes of a request is counted.
        .layer(AroundLayer(Measured(metrics)))
        .layer(AroundLayer(Traced))
        // Before anything is done, so that a request too many costs next to nothing.
        .layer(AroundLayer(in_flight.clone()))
        // Around everything that can wait, the issuer's keys included.
        .layer(AroundLayer(Deadline {
            at_most: limits.request_timeout,
        }))
        // The first wall. Behind it there is a verified tenant, before it nothing that knows of any.
        .layer(AroundLayer(Authenticate {
            verifier,
            quotas: Arc::clone(&quotas),
            audit: Arc::clone(&audit),
        }))
        // As soon as it is known whose request it is.
        .layer(AroundLayer(WithinQuota {
            quotas,
            in_flight: in_flight.clone(),
        }))
        // Around nothing but tonic's own service, whose errors it mends.
        .layer(AroundLayer(Shape))
        .named_layer(service);
    for name in HEALTH_NAMES {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let close = CancellationToken::new();
    let transport = transport(server)
        .add_service(service)
        .add_optional_service(admin.map(|administration| administration.service(limits)))
        // Without a token: who probes has none.
        .add_service(for_anybody(
            limits,
            health_service.max_decoding_message_size(ANYBODY_BYTES),
        ))
        .add_optional_service(reflection(server, limits))
        // It drains when nobody comes any more.
        .serve_with_incoming_shutdown(door.accept(listener, close.clone()), pending());
    tokio::select! {
        ended = transport => ended,
        () = async {
            stop.cancelled().await;
            // Who asks learns it before the connection is told to go, and who watches learns it and is let go: a stream
            // without an end would keep its connection, and that the process.
            for name in HEALTH_NAMES {
                health.set_service_status(name, ServingStatus::NotServing).await;
                health.clear_service_status(name).await;
            }
            close.cancel();
            // Peers that never say anything do not keep it: what counts is that no request is under way.
            watches.ended().await;
            in_flight.ended().await;
        } => Ok(()),
    }
}
