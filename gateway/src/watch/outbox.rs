//! What is on its way to one client: bounded in bytes, so that who does not read costs that and no more. Whoever has
//! something to send waits for room, and they take turns.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes on the way.
const BYTES: u32 = 64 << 10;
/// What a message takes besides what it holds.
const PER_MESSAGE: u32 = 512;
/// What the largest message takes: it leaves room for one that is not there yet, or whoever holds that would keep it waiting.
const LARGEST: u32 = BYTES - 2 * PER_MESSAGE;

/// Where messages go in.
#[derive(Debug)]
pub struct Outbox<T> {
    messages: mpsc::UnboundedSender<(T, Room)>,
    room: Arc<Semaphore>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            room: Arc::clone(&self.room),
        }
    }
}

/// Where they come out.
#[derive(Debug)]
pub struct Outgoing<T>(mpsc::UnboundedReceiver<(T, Room)>);

/// Room for one message, until it is out. None: it goes however full it is.
#[derive(Debug)]
pub struct Room {
    _until_dropped: Option<OwnedSemaphorePermit>,
}

/// Room of its own for what is yet to be said of each of so many things: it is there however full the outbox is, until all
/// of it is on the way to who does not read.
#[derive(Debug)]
pub struct Reserve(Arc<Semaphore>);

impl Reserve {
    /// Room for so many messages.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self(Arc::new(Semaphore::new(messages)))
    }

    /// Waits until there is room for one.
    pub async fn room(&self) -> Room {
        // It is never closed.
        Room {
            _until_dropped: Arc::clone(&self.0).acquire_owned().await.ok(),
        }
    }
}

/// One for one client.
#[must_use]
pub fn outbox<T>() -> (Outbox<T>, Outgoing<T>) {
    let (messages, outgoing) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(BYTES as usize));
    (Outbox { messages, room }, Outgoing(outgoing))
}

impl<T> Outbox<T> {
    /// Waits until there is room for a message of so many bytes, in the order of asking.
    pub async fn room(&self, bytes: usize) -> Room {
        let room = Arc::clone(&self.room).acquire_many_owned(need(bytes));
        // It is never closed.
        Room {
            _until_dropped: room.await.ok(),
        }
    }

    /// Room for a message of so many bytes, if there is.
    #[must_use]
    pub fn try_room(&self, bytes: usize) -> Option<Room> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(need(bytes));
        Some(Room {
            _until_dropped: Some(room.ok()?),
        })
    }

    /// Sends it, unless nobody is there any more.
    pub fn send(&self, message: T, room: Room) {
        _ = self.messages.send((message, room));
    }

    /// Sends it, whether or not there is room: for what is sent once.
    pub fn send_anyway(&self, message: T) {
        self.send(message, Room { _until_dropped: None });
    }

    /// Waits until nobody is there any more.
    pub async fn closed(&self) {
        self.messages.closed().await;
    }
}

impl<T> Outgoing<T> {
    /// The next message. None: there will be none.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context).map(|next| next.map(|(message, _)| message))
    }

    /// Nobody is there any more.
    pub fn close(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

fn need(bytes: usize) -> u32 {
    let bytes = u32::try_from(bytes).unwrap_or(LARGEST);
    bytes.saturating_add(PER_MESSAGE).min(LARGEST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn it_takes_so_much_and_then_one_waits_for_who_reads() {
        let (outbox, mut outgoing) = outbox();
        let mut sent = 0;
        while let Some(room) = outbox.try_room(1000) {
            outbox.send(sent, room);
            sent += 1;
        }
        assert_eq!(sent, BYTES / 1512);
        let mut waits = Box::pin(outbox.room(1000));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(poll_fn(|context| outgoing.poll_next(context)).await, Some(0));
        outbox.send(sent, waits.await);
        outbox.send_anyway(sent + 1);
        for expected in 1..=sent + 1 {
            assert_eq!(poll_fn(|context| outgoing.poll_next(context)).await, Some(expected));
        }
    }

    #[tokio::test]
    async fn the_largest_message_goes_though_room_is_held_for_an_answer() {
        let (outbox, _outgoing) = outbox::<()>();
        let _held = outbox.room(0).await;
        assert!(outbox.room(usize::MAX).now_or_never().is_some());
    }
}
