//! How many requests there are, how they end, and how long they take. No tenant is in it.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::around::{Around, Next};
use super::taken::{self, Lasts};
use crate::telemetry::{Durations, durations};

/// All methods. What is none of them is counted together, for anybody may make up names.
const METHODS: [&str; 17] = [
    "/tagway.v1.ConfigService/GetConfig",
    "/tagway.v1.ConfigService/BatchGetConfigs",
    "/tagway.v1.ConfigService/ListConfigs",
    "/tagway.v1.ConfigService/PutConfig",
    "/tagway.v1.ConfigService/DeleteConfig",
    "/tagway.v1.ConfigService/ListConfigVersions",
    "/tagway.v1.ConfigService/RollbackConfig",
    "/tagway.v1.ConfigService/ExplainRoute",
    "/tagway.v1.ConfigService/WatchConfigs",
    "/tagway.v1.AdminService/GetStatus",
    "/tagway.v1.AdminService/ListStrategies",
    "/tagway.v1.AdminService/ActivateStrategy",
    "/tagway.v1.AdminService/RollbackStrategy",
    "/tagway.v1.AdminService/SetStrategyMode",
    "/tagway.v1.AdminService/RefreshConfigs",
    "/tagway.v1.AdminService/ListWatchers",
    "/tagway.v1.AdminService/BackupStore",
];

/// What is counted of all requests.
#[derive(Clone)]
pub struct RequestMetrics(Arc<Counts>);

struct Counts {
    ended: Family<[(&'static str, Cow<'static, str>); 3], Counter>,
    took: Durations<[(&'static str, &'static str); 1]>,
    under_way: Gauge,
    at_most: Gauge,
}

impl RequestMetrics {
    /// Of a replica that takes so many requests of tenants at once.
    #[must_use]
    pub fn new(in_flight: u32) -> Self {
        let at_most = Gauge::default();
        at_most.set(in_flight.into());
        Self(Arc::new(Counts {
            ended: Family::default(),
            took: Durations::new_with_constructor(durations),
            under_way: Gauge::default(),
            at_most,
        }))
    }

    /// Has `registry` tell them.
    pub fn register(&self, registry: &mut Registry) {
        let Counts {
            ended,
            took,
            under_way,
            at_most,
        } = &*self.0;
        let help = "Requests, by how they ended: the code of gRPC, and the reason of an error";
        registry.register("requests", help, ended.clone());
        let help = "From a request to its answer; of a watch, to its beginning";
        registry.register_with_unit("request_duration", help, Unit::Seconds, took.clone());
        let help = "Requests whose answers have not been taken yet";
        registry.register("requests_in_flight", help, under_way.clone());
        let help = "Requests of tenants that are taken at once (limits.in_flight)";
        registry.register("requests_in_flight_limit", help, at_most.clone());
    }
}

/// Counts what passes.
#[derive(Clone)]
pub(super) struct Measured(pub(super) RequestMetrics);

impl Around for Measured {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        let lasts = Lasts::of(&request);
        let counted = UnderWay::new(&self.0.0.under_way);
        let mut end = End {
            counts: &self.0.0,
            method: method(request.uri().path()),
            began: Instant::now(),
            // Unless an answer comes.
            how: (name(Code::Cancelled), String::new()),
        };
        let answer = next.run(request).await;
        end.how = ending(&answer);
        drop(end);
        match lasts {
            Lasts::OnItsOwn => answer,
            Lasts::Shortly | Lasts::Long => taken::hold(answer, counted),
        }
    }
}

/// How a request ended, counted when this is dropped: with its answer, or where its client left before there was one.
struct End<'c> {
    counts: &'c Counts,
    method: &'static str,
    began: Instant,
    how: (&'static str, String),
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let took = self.counts.took.get_or_create(&[("method", self.method)]);
        took.observe(self.began.elapsed().as_secs_f64());
        let (code, reason) = std::mem::take(&mut self.how);
        let labels = [
            ("method", self.method.into()),
            ("code", code.into()),
            ("reason", reason.into()),
        ];
        self.counts.ended.get_or_create(&labels).inc();
    }
}

/// One more, as long as it lives.
struct UnderWay(Gauge);

impl UnderWay {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Without the package, which is one.
pub(super) fn method(path: &str) -> &'static str {
    let known = METHODS.into_iter().find(|known| *known == path);
    known.map_or("unknown", |known| known.trim_start_matches("/tagway.v1."))
}

/// The code of an answer, and the reason that an error gives.
pub(super) fn ending(answer: &Response<Body>) -> (&'static str, String) {
    match Status::from_header_map(answer.headers()) {
        // What goes well says so behind its message.
        None => (name(Code::Ok), String::new()),
        Some(error) => {
            let info = error.get_details_error_info();
            (name(error.code()), info.map(|info| info.reason).unwrap_or_default())
        }
    }
}

/// As gRPC's specification writes it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_contract_has_its_name() {
        let described = FileDescriptorSet::decode(tagway_proto::DESCRIPTORS).unwrap();
        let files = described.file.iter().filter(|file| file.package() == "tagway.v1");
        let mut methods: Vec<String> = files
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                let path = |method: &prost_types::MethodDescriptorProto| {
                    format!("/tagway.v1.{}/{}", service.name(), method.name())
                };
                service.method.iter().map(path)
            })
            .collect();
        methods.sort();
        let mut named = METHODS;
        named.sort_unstable();
        assert_eq!(methods, named);
        assert_eq!(method("/tagway.v1.ConfigService/GetConfig"), "ConfigService/GetConfig");
        assert_eq!(method("/x/y"), "unknown");
    }
}
