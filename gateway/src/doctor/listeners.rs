//! Addresses to listen on: whether they can be had, and who has those that cannot.

use std::io::ErrorKind;
use std::net::SocketAddr;

use procfs::net::{TcpState, tcp, tcp6};
use procfs::process::{FDTarget, Process, all_processes};

use super::{Check, Examined, Finding};
use crate::app;

/// What a gateway's process is called.
const GATEWAY: &str = "tagway";

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let server = &of.settings.server;
    let admin = server
        .admin_listen
        .address()
        .filter(|_| !server.admin_is_with_tenants());
    let addresses = [
        ("server.listen", Some(server.listen)),
        ("server.admin_listen", admin),
        ("server.ops_listen", server.ops_listen.address()),
    ];
    let checks = addresses.into_iter().filter_map(|(key, address)| {
        let address = address?;
        Some(Check::blocking(key, move || vec![look(key, address)]))
    });
    checks.collect()
}

fn look(key: &str, address: SocketAddr) -> Finding {
    let another = format!("set {key} to another address");
    match app::bound(address).map_err(|error| (error.kind(), error)) {
        Ok(_) => Finding::ok(key, format!("{address} is free")),
        Err((ErrorKind::AddrInUse, _)) => match holder(address) {
            Some((process, name)) if name == GATEWAY => Finding::ok(
                key,
                format!("{address}: a gateway that runs has it (process {process})"),
            ),
            Some((process, name)) => Finding::fail(
                key,
                format!("{address}: {name} has it (process {process})"),
                format!("kill {process}, or {another}"),
            ),
            None => Finding::warn(
                key,
                format!("{address}: somebody has it, and this user may not know who: a gateway that runs?"),
                format!("see who it is (ss -ltnp, as root); if it is no gateway, stop it or {another}"),
            ),
        },
        Err((ErrorKind::PermissionDenied, error)) => {
            let fix = format!("{another}: those below 1024 are for root");
            Finding::fail(key, format!("{address}: {error}"), fix)
        }
        Err((_, error)) => Finding::fail(
            key,
            format!("{address}: {error}"),
            format!("{another} of this machine's"),
        ),
    }
}

/// Which process listens there, as far as this user may know.
fn holder(address: SocketAddr) -> Option<(i32, String)> {
    let listens = |entry: &procfs::net::TcpNetEntry| {
        let (theirs, ours) = (entry.local_address.ip(), address.ip());
        let is_there = theirs == ours || theirs.is_unspecified() || ours.is_unspecified();
        entry.state == TcpState::Listen && entry.local_address.port() == address.port() && is_there
    };
    let sockets = tcp().into_iter().chain(tcp6()).flatten();
    let inodes: Vec<u64> = sockets.filter(listens).map(|entry| entry.inode).collect();
    let holds = |process: &Process| {
        let descriptors = process.fd().into_iter().flatten().flatten();
        descriptors
            .map(|descriptor| descriptor.target)
            .any(|target| matches!(target, FDTarget::Socket(inode) if inodes.contains(&inode)))
    };
    let process = all_processes().ok()?.flatten().find(holds)?;
    Some((process.pid, process.stat().ok()?.comm))
}
