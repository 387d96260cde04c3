//! Peers that connect and say nothing, half of something, or watch and never read.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tagway_tests::validators::timeline::Trouble;
use tagway_tests::watcher::{Watcher, to_prefix};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::fleet::HANDSHAKE;
use crate::{REPLICAS, Soak, TENANTS};

/// Of each kind.
const PEERS: usize = 8;
/// By then a peer is let go, on a machine that is busy with everything else.
const KEPT: Duration = HANDSHAKE.saturating_add(Duration::from_secs(5));

/// All of them, at one replica, until it has let the silent ones go.
pub(crate) async fn run(soak: Arc<Soak>, mut random: fastrand::Rng) {
    let replica = random.usize(..REPLICAS);
    soak.judges.bench().timeline.begins(Trouble::Peers);
    let mut caller = Caller::new(&soak, TENANTS[1], replica);
    let client = caller.client().await;
    let mut unread = Vec::new();
    for _ in 0..PEERS {
        if let Ok(watcher) = Watcher::open(&client).await {
            watcher.subscribe(to_prefix("unread", ""));
            unread.push(watcher);
        }
    }
    let address = soak.fleet.door(replica).borrow().address.clone();
    let mut silent = JoinSet::new();
    for number in 0..PEERS {
        let said: &'static [u8] = if number % 2 == 0 { b"" } else { b"PRI * HTTP/2.0\r\n" };
        let address = address.clone();
        silent.spawn_blocking(move || kept(&address, said));
    }
    while let Some(kept) = silent.join_next().await {
        if let Some(kept) = kept.expect("it waits for nothing else") {
            let breach = || format!("replica {replica} kept a peer for {kept:.1?} that said nothing");
            soak.judges.bench().peers.held((kept >= KEPT).then(breach));
        }
    }
    soak.judges.bench().timeline.ends(Trouble::Peers);
}

/// How long a peer that says this and no more is kept, of the time that it may be; none: nobody is there to keep it.
fn kept(address: &str, said: &[u8]) -> Option<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(said).ok()?;
    stream.set_read_timeout(Some(KEPT)).ok()?;
    let mut heard = [0; 1024];
    // Its settings may come, which say nothing yet.
    while began.elapsed() < KEPT && matches!(stream.read(&mut heard), Ok(1..)) {}
    Some(began.elapsed())
}
