//! What every store owes to those above it, on two servers that others wrote.

use std::sync::Arc;

use super::{At, Server};
use crate::backend::conformance::keeps_every_promise;

#[tokio::test]
async fn parameter_store_keeps_every_promise() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        keeps_every_promise(Arc::new(at.parameters())).await;
    }
}
