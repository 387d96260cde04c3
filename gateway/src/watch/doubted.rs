//! Places that are looked at again by and by: a store may be behind, or a write that was cut off may yet arrive there.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::clock::until;
use crate::key::Etag;
use crate::placement::{Place, Space};

/// When a place is looked at again of which nobody knows whether it has changed, or is yet to: what was cut off may still
/// arrive at a store.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// Places that are looked at again, at once; of one tenant at most as many as there is room left for others. Where a tenant has more, all of
/// that tenant's are.
const DOUBTED: usize = 10_000;

/// Places that are looked at again, each as often as [`AGAIN`] says since it was last doubted.
#[derive(Default)]
pub(super) struct Doubted {
    queue: DelayQueue<(Place, usize, Option<Etag>)>,
    waiting: HashMap<Place, Waiting>,
    /// How many of them there are of each tenant.
    of_each: HashMap<Space, usize>,
    /// Of those there were more than there was room for.
    everything_at: HashMap<Space, Everything>,
}

struct Everything {
    at: Instant,
    /// There were others since: what is cut off now may arrive after that.
    more: bool,
}

struct Waiting {
    key: delay_queue::Key,
    until: Option<Etag>,
}

impl Default for Everything {
    fn default() -> Self {
        let [.., last] = AGAIN;
        Self {
            at: Instant::now() + last,
            more: false,
        }
    }
}

/// What is looked at again.
pub(super) enum Due {
    /// Until something newer than that has been seen there, if that can be told.
    Place(Place, Option<Etag>),
    Everything(Space),
}

impl Doubted {
    pub(super) fn insert(&mut self, place: Place, until: Option<Etag>) {
        let before = self.forget(&place);
        if let Some(before) = &before {
            self.queue.remove(&before.key);
        }
        // What may arrive at any time is waited for to the end, whatever else is seen meanwhile.
        let until = before.map_or(until, |before| until.filter(|_| before.until.is_some()));
        let space = place.name.range().space();
        let own = self.of_each.get(space).copied().unwrap_or_default();
        if own < DOUBTED.saturating_sub(self.waiting.len()) {
            self.wait(place, 0, until);
        } else {
            let everything = self.everything_at.entry(space.clone());
            everything.and_modify(|everything| everything.more = true).or_default();
        }
    }

    pub(super) fn remove(&mut self, place: &Place) {
        if let Some(Waiting { key, .. }) = self.forget(place) {
            self.queue.remove(&key);
        }
    }

    fn forget(&mut self, place: &Place) -> Option<Waiting> {
        let waiting = self.waiting.remove(place)?;
        let space = place.name.range().space();
        if let Some(own) = self.of_each.get_mut(space) {
            *own -= 1;
            if *own == 0 {
                self.of_each.remove(space);
            }
        }
        Some(waiting)
    }

    fn wait(&mut self, place: Place, time: usize, until: Option<Etag>) {
        if let Some(wait) = AGAIN.get(time) {
            let key = self.queue.insert((place.clone(), time, until), *wait);
            *self.of_each.entry(place.name.range().space().clone()).or_default() += 1;
            self.waiting.insert(place, Waiting { key, until });
        }
    }

    /// Waits for what is next.
    pub(super) async fn due(&mut self) -> Due {
        let first = self.everything_at.iter().min_by_key(|(_, everything)| everything.at);
        let first = first.map(|(space, everything)| (everything.at, space.clone()));
        tokio::select! {
            Some(due) = self.queue.next(), if !self.queue.is_empty() => {
                let (place, time, until) = due.into_inner();
                self.forget(&place);
                self.wait(place.clone(), time + 1, until);
                Due::Place(place, until)
            }
            () = until(first.as_ref().map(|(at, _)| *at)) => {
                let space = first.map_or(Space::Shared, |(_, space)| space);
                if self.everything_at.remove(&space).is_some_and(|everything| everything.more) {
                    self.everything_at.insert(space.clone(), Everything::default());
                }
                Due::Everything(space)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use tokio::time::timeout;

    use super::*;
    use crate::backend::conformance::names;
    use crate::identity::VerifiedTenant;

    fn place(tenant: &str, number: usize) -> Place {
        let [own, _] = names(&VerifiedTenant::for_tests(tenant), "ns", &format!("t_{number}"));
        Place {
            backend: "store".into(),
            name: own,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_too_many_has_all_of_its_own_looked_at_and_nobody_elses() {
        let mut doubted = Doubted::default();
        for number in 0..2 * DOUBTED {
            doubted.insert(place("acme", number), None);
        }
        doubted.insert(place("globex", 0), None);
        let (mut of_globex, mut everything) = (0, Vec::new());
        while let Ok(due) = timeout(Duration::from_mins(1), doubted.due()).await {
            match due {
                Due::Place(at, _) => of_globex += usize::from(at == place("globex", 0)),
                Due::Everything(space) => everything.push(space),
            }
        }
        assert_eq!(of_globex, AGAIN.len(), "it is looked at as often as ever");
        // Once more, for what was cut off last.
        let acme = Space::Tenant("acme".parse().unwrap());
        assert_eq!(everything, [acme.clone(), acme]);
        assert!(doubted.waiting.is_empty() && doubted.of_each.is_empty() && doubted.everything_at.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_arrive_at_any_time_is_waited_for_whatever_else_is_seen() {
        let etag: Etag = "01JD8Z6M3V5T1RQWERTY012345-1".parse().unwrap();
        let mut doubted = Doubted::default();
        doubted.insert(place("acme", 0), None);
        doubted.insert(place("acme", 0), Some(etag));
        assert!(matches!(doubted.due().await, Due::Place(_, None)));
        doubted.remove(&place("acme", 0));
        doubted.insert(place("acme", 0), Some(etag));
        assert!(matches!(doubted.due().await, Due::Place(_, Some(_))));
    }
}
