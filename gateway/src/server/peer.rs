//! Who is at the other end of a connection, and what there is between it and the gateway.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::quota::{Connected as CountedConnection, Share};

/// Answers without an end of one connection, at once: a client watches the health of what it calls.
pub(super) const LASTING: usize = 4;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// When it came.
    pub(super) since: Instant,
    places: Arc<Semaphore>,
    dealings: Arc<Dealings>,
}

impl Peer {
    /// One that came to where there are these places.
    pub(super) fn new(address: SocketAddr, places: &Arc<Semaphore>) -> Self {
        Self {
            address,
            since: Instant::now(),
            places: Arc::clone(places),
            dealings: Arc::default(),
        }
    }

    /// One more answer is on its way there, until this is dropped.
    pub(super) fn answer(&self) -> Answer {
        let half = self.dealings.half.load(Ordering::Relaxed);
        self.dealings.answers[half].fetch_add(1, Ordering::Relaxed);
        Answer {
            dealings: Arc::clone(&self.dealings),
            half,
        }
    }

    /// One more answer without an end, until this is dropped. None: it has as many as anybody may.
    pub(super) fn lasting(&self) -> Option<Lasting> {
        let lasting = Lasting(Arc::clone(&self.dealings));
        let before = self.dealings.lasting.fetch_add(1, Ordering::Relaxed);
        (before < LASTING).then_some(lasting)
    }

    /// It has shown whose it is. It is that tenant's as far as that one has not more of them than are left for others.
    pub(super) fn is_of(&self, share: impl FnOnce() -> Arc<Share>) {
        if self.dealings.known.load(Ordering::Relaxed) {
            return;
        }
        if let Some(connection) = share().connection(self.places.available_permits() as u64)
            && self.dealings.tenant.set(connection).is_ok()
        {
            self.dealings.known.store(true, Ordering::Relaxed);
        }
    }

    /// It has shown that it may administrate.
    pub(super) fn is_an_operators(&self) {
        self.dealings.known.store(true, Ordering::Relaxed);
    }

    /// Whether it had answers to take at the last look that it has yet to take now; and looks.
    pub(super) fn takes_no_answers(&self) -> bool {
        self.dealings.are_not_taken()
    }

    /// Whether it has to make room for another. If not, who waits is told when it has.
    pub(super) fn has_to_go(&self, context: &Context<'_>) -> bool {
        self.dealings.connection.register(context.waker());
        self.dealings.is_evicted()
    }

    /// Waits until it has to.
    pub(super) async fn until_evicted(&self) {
        poll_fn(|context| {
            if self.has_to_go(context) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// What there is between a peer and the gateway.
#[derive(Debug, Default)]
struct Dealings {
    /// Answers that the peer has yet to take, in two halves: those that began since the last look, and those before.
    answers: [AtomicUsize; 2],
    half: AtomicUsize,
    /// Answers without an end.
    lasting: AtomicUsize,
    known: AtomicBool,
    /// Whose it is, while it is counted.
    tenant: OnceLock<CountedConnection>,
    /// It has to make room.
    evicted: AtomicBool,
    connection: AtomicWaker,
}

impl Dealings {
    /// Whether some were there at the last look already; and looks.
    fn are_not_taken(&self) -> bool {
        let before = 1 - self.half.load(Ordering::Relaxed);
        if self.answers[before].load(Ordering::Relaxed) > 0 {
            return true;
        }
        self.half.store(before, Ordering::Relaxed);
        false
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.connection.wake();
    }

    /// Whether it has to make room. Who has shown meanwhile whose it is has not.
    fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire) && !self.known.load(Ordering::Relaxed)
    }
}

/// Those who have not shown yet whose they are, the longest there first.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<VecDeque<Weak<Dealings>>>);

impl Strangers {
    /// One more, among as many as there are places.
    pub(super) fn add(&self, peer: &Peer, at_most: usize) {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= 2 * at_most {
            strangers.retain(|stranger| {
                stranger
                    .upgrade()
                    .is_some_and(|stranger| !stranger.known.load(Ordering::Relaxed))
            });
        }
        strangers.push_back(Arc::downgrade(&peer.dealings));
    }

    /// Has the one that was there for longest go. False: there is none.
    pub(super) fn evict_one(&self) -> bool {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(stranger) = strangers.pop_front() {
            if let Some(stranger) = stranger
                .upgrade()
                .filter(|stranger| !stranger.known.load(Ordering::Relaxed))
            {
                stranger.evict();
                return true;
            }
        }
        false
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    dealings: Arc<Dealings>,
    half: usize,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.dealings.answers[self.half].fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer without an end.
#[derive(Debug)]
pub(super) struct Lasting(Arc<Dealings>);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.lasting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_missed_at_the_second_look() {
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), &Arc::new(Semaphore::new(1)));
        let answers = Arc::clone(&peer.dealings);
        assert!(!answers.are_not_taken());
        let slow = peer.answer();
        assert!(!answers.are_not_taken(), "it may have begun just now");
        for _ in 0..3 {
            drop(peer.answer());
        }
        assert!(answers.are_not_taken());
        drop(slow);
        assert!(!answers.are_not_taken());
        // Each is taken before the second look.
        let mut last = peer.answer();
        for _ in 0..5 {
            assert!(!answers.are_not_taken());
            last = peer.answer();
        }
        drop(last);
    }
}
