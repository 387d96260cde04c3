//! Where the gateway listens: bound before anything starts, so that a port in use is told first.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::settings::{Listen, ServerSettings};

/// All of them.
pub(super) struct Listeners {
    pub(super) grpc: TcpListener,
    /// None where operators call at the tenants' address, or nowhere.
    pub(super) admin: Option<TcpListener>,
    pub(super) ops: Option<TcpListener>,
}

impl Listeners {
    pub(super) async fn bind(server: &ServerSettings) -> Result<Self, StartError> {
        Ok(Self {
            grpc: bind("server.listen", server.listen).await?,
            ops: bind_if("server.ops_listen", server.ops_listen).await?,
            // The same address is the same listener.
            admin: if server.admin_is_with_tenants() {
                None
            } else {
                bind_if("server.admin_listen", server.admin_listen).await?
            },
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Tells that it serves, and where.
    pub(super) fn tell(&self) {
        let address = |listener: Option<&TcpListener>| {
            let address = listener.and_then(|listener| listener.local_addr().ok());
            address.map(|address| address.to_string())
        };
        tracing::info!(
            address = address(Some(&self.grpc)),
            ops = address(self.ops.as_ref()).unwrap_or_default(),
            admin = address(self.admin.as_ref()),
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Bind { key, address, error })
}

async fn bind_if(key: &'static str, listen: Listen) -> Result<Option<TcpListener>, StartError> {
    match listen {
        Listen::Nowhere => Ok(None),
        Listen::At(address) => Ok(Some(bind(key, address).await?)),
    }
}
