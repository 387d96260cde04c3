//! Traces: each request is a span of its caller's trace, with what it took time for, and stores are told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tagway_tests::authority::Authority;
use tagway_tests::client::{Client, get};
use tagway_tests::gateway::{Gateway, binary, settings, settings_over_dynamodb, settings_over_parameter_store};
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const KEY: &str = "tenant_config_a";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    more: Arc<Notify>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans);
        self.spans.lock().unwrap().extend(spans);
        self.more.notify_one();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Begins one. Returns it, and where it is.
    async fn start() -> (Self, String) {
        let (collector, address) = Self::start_as(Server::builder()).await;
        (collector, format!("http://{address}"))
    }

    /// The same, served so.
    async fn start_as(mut server: Server) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Self::default();
        let server = server.add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    /// The spans of a trace, by name, when that one is among them.
    async fn spans_with(&self, trace: &str, name: &str) -> HashMap<String, Span> {
        let found = async {
            loop {
                let spans = self.spans.lock().unwrap().clone();
                let of_trace = spans.into_iter().filter(|span| hex(&span.trace_id) == trace);
                let by_name: HashMap<String, Span> = of_trace.map(|span| (span.name.clone(), span)).collect();
                if by_name.contains_key(name) {
                    return by_name;
                }
                self.more.notified().await;
            }
        };
        timeout(PATIENCE, found).await.expect("it is sent")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn text(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|found| found.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// A read within a trace.
async fn get_within(client: &Client, key: &str, traceparent: &str) -> Result<(), Status> {
    let mut request = client.request(get(key));
    request
        .metadata_mut()
        .insert("traceparent", traceparent.parse().unwrap());
    client.grpc.clone().get_config(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_of_its_callers_trace_with_what_it_took_time_for() {
    let (collector, endpoint) = Collector::start().await;
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\ntrace_share = 0.0");
    let gateway = Gateway::start_with(&telemetry);
    let client = gateway.client("acme").await;
    // Nobody decided, and none of these is traced.
    client.put(KEY, "a value").await.unwrap();
    // A caller that decided against it.
    get_within(&client, KEY, &format!("00-{}-{PARENT}-00", TRACE.replace('4', "5")))
        .await
        .unwrap();
    let other = "tenant_config_never";
    let missing = get_within(&client, other, &format!("00-{TRACE}-{PARENT}-01"))
        .await
        .unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);

    let spans = collector.spans_with(TRACE, "ConfigService/GetConfig").await;
    let request = &spans["ConfigService/GetConfig"];
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!(text(request, "rpc.response.status_code"), "NOT_FOUND");
    assert_eq!(text(request, "error.type"), "NOT_FOUND");
    assert_eq!(text(request, "tagway.tenant"), "acme");
    for (name, parent) in [
        ("auth", "ConfigService/GetConfig"),
        ("decision", "ConfigService/GetConfig"),
        ("cache", "ConfigService/GetConfig"),
        ("read", "cache"),
    ] {
        let span = spans
            .get(name)
            .unwrap_or_else(|| panic!("{name} in {:?}", spans.keys()));
        assert_eq!(hex(&span.parent_span_id), hex(&spans[parent].span_id), "{name}");
    }
    assert_eq!(text(&spans["decision"], "tagway.strategy"), "tag-prefix");
    assert_eq!(text(&spans["read"], "tagway.backend"), "local");
    let sent = collector.spans.lock().unwrap().clone();
    assert!(
        sent.iter().all(|span| hex(&span.trace_id) == TRACE),
        "nothing else was traced"
    );
    let all = format!("{sent:?}");
    assert!(
        !all.contains("a value") && !all.contains("Bearer"),
        "neither values nor tokens: {all}"
    );
    // Nonsense is no parent, and no error.
    for nonsense in ["", "00-zz-zz-01", &"x".repeat(5000)] {
        get_within(&client, KEY, nonsense).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_told_which_trace_it_is() {
    let (collector, endpoint) = Collector::start().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let store = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::clone(&heard);
        let hear = async move |headers: HeaderMap| {
            if let Some(traceparent) = headers.get("traceparent") {
                heard.lock().unwrap().push(traceparent.to_str().unwrap().to_owned());
            }
            StatusCode::BAD_REQUEST
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(hear)).await });
        address
    };
    let key = Key::ed("first");
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let telemetry = format!("\n[telemetry]\notlp_endpoint = \"{endpoint}\"\n");
    let settings = settings_over_dynamodb("file:keys.json", &store, "") + &telemetry;
    let gateway = Gateway::start_in(Arc::new(folder), key.into(), &settings);
    let client = gateway.client("acme").await;
    _ = get_within(&client, KEY, &format!("00-{TRACE}-{PARENT}-01")).await;
    let spans = collector.spans_with(TRACE, "ConfigService/GetConfig").await;
    let span = hex(&spans["read"].span_id);
    let heard = heard.lock().unwrap().clone();
    assert!(heard.contains(&format!("00-{TRACE}-{span}-01")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_sent_when_it_ends_and_nobody_waits_for_a_collector_that_is_away() {
    let (collector, endpoint) = Collector::start().await;
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\ntrace_share = 1.0");
    let mut gateway = Gateway::start_with(&telemetry);
    gateway.client("acme").await.put(KEY, "x").await.unwrap();
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    let sent = collector.spans.lock().unwrap().clone();
    assert!(
        sent.iter().any(|span| span.name == "ConfigService/PutConfig"),
        "{sent:?}"
    );

    let away = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:1\"\ntrace_share = 1.0";
    let mut gateway = Gateway::start_with(away);
    gateway.client("acme").await.put(KEY, "x").await.unwrap();
    assert!(gateway.logs("BatchSpanProcessor.ExportError"), "{}", gateway.log());
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_a_certificate_that_this_machine_trusts_is_sent_to() {
    let authority = Authority::new();
    let tls = ServerTlsConfig::new().identity(authority.sign().identity());
    let (collector, address) = Collector::start_as(Server::builder().tls_config(tls).unwrap()).await;
    let folder = TempDir::new().unwrap();
    let key = Key::ed("first");
    std::fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    std::fs::write(folder.path().join("roots.pem"), authority.pem()).unwrap();
    let mut program = Command::new(binary());
    program.env("SSL_CERT_FILE", folder.path().join("roots.pem"));
    let telemetry = format!("[telemetry]\notlp_endpoint = \"https://{address}\"");
    let gateway = Gateway::start_by(
        program,
        folder.into(),
        key.into(),
        &settings("file:keys.json", &telemetry),
    );
    let client = gateway.client("acme").await;
    _ = get_within(&client, KEY, &format!("00-{TRACE}-{PARENT}-01")).await;
    collector.spans_with(TRACE, "ConfigService/GetConfig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_most_talkative_the_log_holds_no_value_and_no_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = format!("http://{}", listener.local_addr().unwrap());
    let refuse = Router::new().fallback(async || StatusCode::BAD_REQUEST);
    tokio::spawn(async move { axum::serve(listener, refuse).await });
    let key = Key::ed("first");
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let settings = settings_over_parameter_store("file:keys.json", &store, "") + "\n[telemetry]\nlog = \"trace\"\n";
    let gateway = Gateway::start_in(Arc::new(folder), key.into(), &settings);
    let client = gateway.client("acme").await;
    client
        .put("param_config_a", "a value that is secret")
        .await
        .unwrap_err();
    assert!(gateway.logs("a backend is out of reach"));
    let log = gateway.log();
    assert!(log.contains("\"level\":\"TRACE\""), "it is talkative");
    assert!(!log.contains("that is secret"), "{log}");
    let request = client.request(get("param_config_a"));
    let token = request.metadata().get("authorization").unwrap().to_str().unwrap();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!log.contains(signature), "{log}");
}
