//! Where the gateway listens: bound before anything starts, so that a port in use is told first.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::StartError;
use crate::settings::{Listen, ServerSettings};

/// Connections that wait in the system to be taken: as many as come at once after a restart, as far as the system allows.
const BACKLOG: u32 = 4096;

/// All of them.
pub(super) struct Listeners {
    pub(super) grpc: TcpListener,
    /// None where operators call at the tenants' address, or nowhere.
    pub(super) admin: Option<TcpListener>,
    pub(super) ops: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(server: &ServerSettings) -> Result<Self, StartError> {
        Ok(Self {
            grpc: bind("server.listen", server.listen)?,
            ops: bind_if("server.ops_listen", server.ops_listen)?,
            // The same address is the same listener.
            admin: if server.admin_is_with_tenants() {
                None
            } else {
                bind_if("server.admin_listen", server.admin_listen)?
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

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = bound(address).and_then(|socket| socket.listen(BACKLOG));
    listener.map_err(|error| StartError::Bind { key, address, error })
}

/// A socket that has the address, and does not listen yet.
pub(crate) fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // As every server does, so that a restart need not wait for what is left of the connections before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bind_if(key: &'static str, listen: Listen) -> Result<Option<TcpListener>, StartError> {
    match listen {
        Listen::Nowhere => Ok(None),
        Listen::At(address) => Ok(Some(bind(key, address)?)),
    }
}
