//! What every store owes to those above it, on two servers that others wrote.

use std::sync::Arc;

use super::{At, Server};
use crate::backend::conformance::keeps_every_promise;

#[tokio::test]
async fn dynamodb_keeps_every_promise() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        at.provision().await;
        keeps_every_promise(Arc::new(at.store())).await;
    }
}
