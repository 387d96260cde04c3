//! Serves an issuer's keys over HTTP, and changes them, and fails, as told.

use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
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
    asked: watch::Receiver<u64>,
}

#[derive(Clone)]
struct Shared {
    answer: Arc<Mutex<Result<String, StatusCode>>>,
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
        let (sender, asked) = watch::channel(0);
        let shared = Shared {
            answer: Arc::clone(&answer),
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
        Self { url, answer, asked }
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

async fn serve(State(shared): State<Shared>) -> Result<String, StatusCode> {
    shared.asked.send_modify(|asked| *asked += 1);
    shared.answer.lock().expect("no panic under the lock").clone()
}
