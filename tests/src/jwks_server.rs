//! Serves an issuer's keys over HTTP, and changes them, and fails, as told.

use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::DATE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::watch;

/// A server that runs until the tests end.
pub struct JwksServer {
    /// Where.
    pub url: String,
    answer: Arc<Mutex<Result<String, StatusCode>>>,
    date: Arc<Mutex<Option<String>>>,
    asked: watch::Receiver<u64>,
}

#[derive(Clone)]
struct Shared {
    answer: Arc<Mutex<Result<String, StatusCode>>>,
    date: Arc<Mutex<Option<String>>>,
    asked: watch::Sender<u64>,
}

impl JwksServer {
    /// Serves `keys`, from a thread of its own: a test that waits for a gateway to start does not keep it from being
    /// asked.
    #[must_use]
    pub fn start(keys: &Value) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let url = format!("http://{}/keys.json", listener.local_addr().expect("bound"));
        let answer = Arc::new(Mutex::new(Ok(keys.to_string())));
        let date = Arc::default();
        let (sender, asked) = watch::channel(0);
        let shared = Shared {
            answer: Arc::clone(&answer),
            date: Arc::clone(&date),
            asked: sender,
        };
        let routes = Router::new().route("/keys.json", get(serve)).with_state(shared);
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a socket of ours");
                axum::serve(listener, routes).await
            })
        });
        Self {
            url,
            answer,
            date,
            asked,
        }
    }

    /// From here on it says that it is that time, as HTTP writes it.
    pub fn set_date(&self, date: &str) {
        *self.date.lock().expect("no panic under the lock") = Some(date.to_owned());
    }

    /// From here on it answers this.
    pub fn set(&self, answer: Result<String, StatusCode>) {
        *self.answer.lock().expect("no panic under the lock") = answer;
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> u64 {
        *self.asked.borrow()
    }

    /// Waits until it was asked twice more: then the first of the two answers has been taken in.
    pub async fn asked_twice_more(&mut self) {
        let before = self.asked();
        self.asked
            .wait_for(|asked| *asked >= before + 2)
            .await
            .expect("the server runs");
    }
}

async fn serve(State(shared): State<Shared>) -> Response {
    shared.asked.send_modify(|asked| *asked += 1);
    let answer = shared.answer.lock().expect("no panic under the lock").clone();
    let mut response = answer.into_response();
    let date = shared.date.lock().expect("no panic under the lock").clone();
    if let Some(date) = date {
        let date = date.parse().expect("a header");
        response.headers_mut().insert(DATE, date);
    }
    response
}
