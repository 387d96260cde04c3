//! Few requests for many reads, and for everybody a turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{At, Server, entry, put};
use crate::backend::aws::stand_in::proxy::Proxy;
use crate::backend::conformance::names;
use crate::backend::ssm::ParameterStore;
use crate::backend::{Backend, BackendError, Conditions, ReadMany, WriteError};
use crate::identity::VerifiedTenant;
use crate::placement::PhysicalName;

/// Parameter Store in memory, where time stands still while it does not answer: every name holds its own text.
#[derive(Debug, Clone, Default)]
struct InMemory(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Names of each call, and when it came.
    calls: Mutex<Vec<(Instant, Vec<String>)>>,
    throttles: AtomicBool,
    fails: AtomicUsize,
}

impl HttpConnector for InMemory {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let asked: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        let names = match &asked["Names"] {
            Value::Array(names) => names.iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
            _ => vec![asked["Name"].as_str().unwrap().to_owned()],
        };
        let parameter = |name: &String| json!({"Name": name, "Type": "String", "Value": name, "Version": 1, "LastModifiedDate": 1.5});
        let parameters: Vec<Value> = names.iter().map(parameter).collect();
        let (status, body) = if self.0.throttles.load(Ordering::SeqCst) {
            (
                400,
                json!({"__type": "ThrottlingException", "message": "Rate exceeded"}),
            )
        } else if self
            .0
            .fails
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            (500, json!({"__type": "InternalServerError"}))
        } else {
            (200, json!({ "Parameters": parameters }))
        };
        self.0.calls.lock().unwrap().push((Instant::now(), names));
        HttpConnectorFuture::new(async move {
            sleep(Duration::from_millis(10)).await;
            Ok(HttpResponse::new(status.try_into().unwrap(), body.to_string().into()))
        })
    }
}

impl InMemory {
    async fn store(&self, requests_per_second: u32, timeout: Duration) -> Arc<ParameterStore> {
        let mut at = At::new("http://in.memory").await;
        at.settings.timeout = timeout;
        let connector = SharedHttpConnector::new(self.clone());
        let client = http_client_fn(move |_, _| connector.clone());
        at.config = at.config.to_builder().http_client(client).build();
        Arc::new(at.parameters_at(requests_per_second))
    }

    fn calls(&self) -> Vec<(Instant, Vec<String>)> {
        std::mem::take(&mut self.0.calls.lock().unwrap())
    }
}

fn name(tenant: &VerifiedTenant, key: &str) -> PhysicalName {
    let [own, _] = names(tenant, "ns", key);
    own
}

fn tenant(id: &str) -> VerifiedTenant {
    VerifiedTenant::for_tests(id)
}

/// Reads so many distinct parameters at once, of so many tenants.
async fn read_at_once(store: &Arc<ParameterStore>, reads: usize, tenants: usize) {
    let reads: Vec<_> = (0..reads)
        .map(|i| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let tenant = tenant(&format!("tenant-{}", i % tenants));
                let name = name(&tenant, &format!("t_{i}"));
                let found = store.read(&tenant, &name).await.unwrap();
                assert!(found.is_none_or(|found| found.value.ends_with(format!("/{i}").as_bytes())));
            })
        })
        .collect();
    for read in reads {
        read.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn reads_of_a_moment_go_together_in_tens() {
    for tenants in [1, 7, 200] {
        let server = InMemory::default();
        let store = server.store(40, Duration::from_secs(2)).await;
        read_at_once(&store, 200, tenants).await;
        let calls = server.calls();
        assert_eq!(calls.len(), 20, "of {tenants} tenants");
        assert!(calls.iter().all(|(_, names)| names.len() == 10));
    }
}

#[tokio::test]
async fn reads_over_a_socket_go_together() {
    let server = Server::roto();
    let proxy = Proxy::start(server.endpoint(), |_| None).await;
    let store = Arc::new(At::new(&proxy.endpoint()).await.parameters());
    read_at_once(&store, 200, 20).await;
    let calls = proxy.take().len();
    println!("200 reads of distinct parameters: {calls} GetParameters");
    assert!((20..=40).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn the_same_parameter_is_asked_for_once() {
    let server = InMemory::default();
    let store = server.store(40, Duration::from_secs(2)).await;
    let acme = tenant("acme");
    let name = name(&acme, "t_hot");
    let reads = (0..1000).map(|_| store.read(&acme, &name));
    let found = futures_util::future::join_all(reads).await;
    assert!(found.into_iter().all(|found| found.unwrap().is_some()));
    // What stands and what stood are two questions, and in one call their answers would be one.
    let (now, then) = tokio::join!(store.read(&acme, &name), store.read_version(&acme, &name, 1));
    assert!(
        now.unwrap().is_some() && then.unwrap().is_none(),
        "this server knows no versions"
    );
    let asked: Vec<usize> = server.calls().iter().map(|(_, names)| names.len()).collect();
    assert_eq!(asked, [1, 1, 1]);
}

/// Who asks for 10 000 parameters, at once or one after the other, delays another's single read by two periods at most.
#[tokio::test(start_paused = true)]
async fn who_asks_for_much_waits_for_its_own() {
    const PERIOD: Duration = Duration::from_millis(100);
    let server = InMemory::default();
    let store = server.store(10, Duration::from_hours(1)).await;
    let (much, other) = (tenant("much"), tenant("other"));
    let asking = {
        let (store, much) = (Arc::clone(&store), much.clone());
        tokio::spawn(async move {
            let names: Vec<_> = (0..10_000).map(|i| name(&much, &format!("t_{i}"))).collect();
            store.read_many(&much, &names.iter().collect::<Vec<_>>(), 1 << 20).await
        })
    };
    sleep(Duration::from_secs(5)).await;
    for i in 0..20 {
        let began = Instant::now();
        store.read(&other, &name(&other, &format!("t_{i}"))).await.unwrap();
        let took = began.elapsed();
        assert!(took <= 2 * PERIOD + Duration::from_millis(20), "{took:?}");
        sleep(Duration::from_millis(33 * i)).await;
    }
    // A write too.
    let began = Instant::now();
    let name = name(&other, "t_a");
    store.delete(&other, &name, false, Conditions::default()).await.unwrap();
    assert!(began.elapsed() <= 2 * PERIOD + Duration::from_millis(20));
    let found = asking.await.unwrap();
    assert!(found.iter().all(|found| matches!(found, Ok(ReadMany::Found(_)))));
    let calls = server.calls();
    assert!(calls.len() <= 1000 + 21);
    let took = calls.last().unwrap().0 - calls[0].0;
    assert!(took > Duration::from_secs(98), "no faster than the quota: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_in_time_says_when_to_try_again() {
    let server = InMemory::default();
    let store = server.store(1, Duration::from_secs(2)).await;
    let acme = tenant("acme");
    let names: Vec<_> = (0..10_000).map(|i| name(&acme, &format!("t_{i}"))).collect();
    let began = Instant::now();
    let found = store.read_many(&acme, &names.iter().collect::<Vec<_>>(), 1 << 20).await;
    assert!(began.elapsed() <= Duration::from_millis(2010), "{:?}", began.elapsed());
    let mut done = 0;
    for found in found {
        match found {
            Ok(ReadMany::Found(_)) => done += 1,
            Err(BackendError::Busy { problem, retry }) => {
                assert!(problem.contains("requests_per_second") && !retry.is_zero(), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((20..=30).contains(&done), "{done}");
    // Who does not wait any more is not asked for.
    sleep(Duration::from_mins(1)).await;
    assert!(server.calls().len() <= 4);
    store.read(&acme, &names[0]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_throttled_store_is_asked_less_and_then_as_before() {
    let server = InMemory::default();
    let store = server.store(100, Duration::from_secs(2)).await;
    let acme = tenant("acme");
    let mut number = 0;
    let mut read_for = async |time: Duration| {
        let until = Instant::now() + time;
        let mut failed = 0;
        while Instant::now() < until {
            let reads = (0..20).map(|_| {
                number += 1;
                let (store, acme) = (Arc::clone(&store), acme.clone());
                let name = name(&acme, &format!("t_{number}"));
                async move { store.read(&acme, &name).await }
            });
            let answers = futures_util::future::join_all(reads).await;
            failed += answers.iter().filter(|answer| answer.is_err()).count();
            for answer in answers {
                assert!(
                    matches!(answer, Ok(Some(_)) | Err(BackendError::Busy { .. })),
                    "{answer:?}"
                );
            }
        }
        failed
    };
    assert_eq!(read_for(Duration::from_secs(2)).await, 0);
    server.0.throttles.store(true, Ordering::SeqCst);
    assert!(read_for(Duration::from_secs(20)).await > 0);
    server.calls();
    let began = Instant::now();
    assert!(read_for(Duration::from_secs(10)).await > 0);
    let throttled = server.calls().len() / usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(throttled < 25, "{throttled} calls a second");
    server.0.throttles.store(false, Ordering::SeqCst);
    read_for(Duration::from_secs(15)).await;
    assert_eq!(read_for(Duration::from_secs(2)).await, 0);
    println!("throttled: {throttled} calls a second of 100");
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_asked_again_and_what_may_be_done_is_not() {
    let server = InMemory::default();
    let store = server.store(100, Duration::from_secs(2)).await;
    let acme = tenant("acme");
    let name = name(&acme, "t_a");
    server.0.fails.store(2, Ordering::SeqCst);
    assert!(store.read(&acme, &name).await.unwrap().is_some());
    assert_eq!(server.calls().len(), 3);
    server.0.fails.store(1, Ordering::SeqCst);
    let refused = store.delete(&acme, &name, false, Conditions::default()).await;
    assert!(
        matches!(refused, Err(WriteError::Backend(BackendError::Away(_)))),
        "{refused:?}"
    );
    assert_eq!(server.calls().len(), 1, "it may have been done");
}

/// A write is read back, whoever else reads meanwhile.
#[tokio::test]
async fn many_tenants_at_once_get_their_own() {
    let server = Server::roto();
    let store = Arc::new(At::new(server.endpoint()).await.parameters());
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let tenant = tenant(&format!("tenant-{i}"));
                let mut held = BTreeMap::new();
                for round in 0..20 {
                    let key = format!("t_{}", round % 5);
                    let value = format!("{i}.{round}");
                    let name = name(&tenant, &key);
                    let written = put(&store, &tenant, &name, entry(&value, "text/plain")).await.unwrap();
                    held.insert(key, (written.etag, value));
                    for (key, (etag, value)) in &held {
                        let found = store.read(&tenant, &self::name(&tenant, key)).await.unwrap().unwrap();
                        assert_eq!((&found.etag, found.value.as_ref()), (etag, value.as_bytes()));
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
