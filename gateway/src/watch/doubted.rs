//! Places that are looked at again by and by: a store may be behind, or a write that was cut off may yet arrive there.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::clock::until;
use crate::key::Etag;
use crate::placement::Place;

/// When a place is looked at again of which nobody knows whether it has changed, or is yet to: what was cut off may still
/// arrive at a store.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// Places that are looked at again, at once. Where there are more, everything is.
const DOUBTED: usize = 10_000;

/// Places that are looked at again, each as often as [`AGAIN`] says since it was last doubted.
#[derive(Default)]
pub(super) struct Doubted {
    queue: DelayQueue<(Place, usize, Option<Etag>)>,
    waiting: HashMap<Place, delay_queue::Key>,
    /// There were more than there was room for.
    everything_at: Option<Instant>,
}

/// What is looked at again.
pub(super) enum Due {
    /// Until something newer than that has been seen there, if that can be told.
    Place(Place, Option<Etag>),
    Everything,
}

impl Doubted {
    pub(super) fn insert(&mut self, place: Place, until: Option<Etag>) {
        self.remove(&place);
        if self.waiting.len() < DOUBTED {
            self.wait(place, 0, until);
        } else {
            let [.., last] = AGAIN;
            self.everything_at.get_or_insert_with(|| Instant::now() + last);
        }
    }

    pub(super) fn remove(&mut self, place: &Place) {
        if let Some(key) = self.waiting.remove(place) {
            self.queue.remove(&key);
        }
    }

    fn wait(&mut self, place: Place, time: usize, until: Option<Etag>) {
        if let Some(wait) = AGAIN.get(time) {
            let key = self.queue.insert((place.clone(), time, until), *wait);
            self.waiting.insert(place, key);
        }
    }

    /// Waits for what is next.
    pub(super) async fn due(&mut self) -> Due {
        tokio::select! {
            Some(due) = self.queue.next(), if !self.queue.is_empty() => {
                let (place, time, until) = due.into_inner();
                self.waiting.remove(&place);
                self.wait(place.clone(), time + 1, until);
                Due::Place(place, until)
            }
            () = until(self.everything_at) => {
                self.everything_at = None;
                Due::Everything
            }
        }
    }
}
