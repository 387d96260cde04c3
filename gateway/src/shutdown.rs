//! What the operating system asks of the process: to stop, and to read its settings again.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What is asked by signals, from here on.
pub struct Asked {
    /// Cancelled at the first SIGTERM or SIGINT. The second ends the process: who asks twice means now.
    pub stop: CancellationToken,
    /// Told at each SIGHUP.
    pub reload: Arc<Notify>,
}

/// Listens. Once a process.
pub fn on_signal() -> io::Result<Asked> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reload = Arc::new(Notify::new());
    let asked = Arc::clone(&reload);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            asked.notify_one();
        }
    });
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: finishing what is under way");
        token.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopping at once");
        std::process::exit(1);
    });
    Ok(Asked { stop, reload })
}
