//! What is under way at one place, and what of it may be kept. A plain state machine: no clock, no lock, no store.
//!
//! A read that began before something changed may bring back what stood before, and a write that another one ran beside
//! does not know which of the two stands. Neither is kept.

/// What is under way at one place. `F` is a read that others may wait for.
#[derive(Debug)]
pub(super) struct Fence<F> {
    /// Counts what makes the reads before it worthless.
    generation: u64,
    /// Reads that ever began.
    begun: u64,
    /// Of those whose answer may be kept, the one that began last.
    kept: u64,
    reads: u32,
    writes: u32,
    /// A read that began after all that is known to have changed, and which it is.
    flight: Option<(u64, F)>,
}

/// A read that is under way.
#[derive(Debug)]
#[must_use = "a read that began has to end"]
pub(super) struct ReadTicket {
    generation: u64,
    /// Which it is: reads that began later have more.
    number: u64,
}

/// A write or a delete that is under way.
#[derive(Debug)]
#[must_use = "a write that began has to end"]
pub(super) struct WriteTicket {
    generation: u64,
    is_alone: bool,
}

impl<F> Default for Fence<F> {
    fn default() -> Self {
        Self {
            generation: 0,
            begun: 0,
            kept: 0,
            reads: 0,
            writes: 0,
            flight: None,
        }
    }
}

impl<F> Fence<F> {
    /// The store is about to be asked.
    pub(super) fn begin_read(&mut self) -> ReadTicket {
        self.reads += 1;
        self.begun += 1;
        ReadTicket {
            generation: self.generation,
            number: self.begun,
        }
    }

    /// The store has answered. True if what it said may be kept: nothing is known to have changed since it was asked, and
    /// nobody who asked later has had an answer.
    pub(super) fn end_read(&mut self, ticket: ReadTicket) -> bool {
        let may_keep = ticket.generation == self.generation && self.writes == 0 && ticket.number > self.kept;
        if may_keep {
            self.kept = ticket.number;
        }
        self.give_up_read(ticket);
        may_keep
    }

    /// The store has not answered.
    #[expect(clippy::needless_pass_by_value, reason = "a read ends once")]
    pub(super) fn give_up_read(&mut self, ticket: ReadTicket) {
        self.reads -= 1;
        if self.flight.as_ref().is_some_and(|(number, _)| *number == ticket.number) {
            self.flight = None;
        }
    }

    /// Something is about to be written.
    pub(super) fn begin_write(&mut self) -> WriteTicket {
        let is_alone = self.writes == 0;
        self.writes += 1;
        self.doubt();
        WriteTicket {
            generation: self.generation,
            is_alone,
        }
    }

    /// It is written, or nobody knows. True if what was written is what stands, as far as this gateway knows.
    #[expect(clippy::needless_pass_by_value, reason = "a write ends once")]
    pub(super) fn end_write(&mut self, ticket: WriteTicket) -> bool {
        self.writes -= 1;
        let nothing_since = ticket.is_alone && ticket.generation == self.generation;
        self.doubt();
        nothing_since
    }

    /// Something may have changed: what is under way does not know of it.
    pub(super) fn doubt(&mut self) {
        self.generation += 1;
        self.flight = None;
    }

    /// A read that who comes now may wait for.
    pub(super) fn flight(&self) -> Option<&F> {
        self.flight.as_ref().map(|(_, flight)| flight)
    }

    /// Lets others wait for the read that began last.
    pub(super) fn let_wait(&mut self, flight: F) {
        self.flight = Some((self.begun, flight));
    }

    /// Something new was seen: nobody who comes now waits for a read that may not have seen it.
    pub(super) fn let_nobody_wait(&mut self) {
        self.flight = None;
    }

    /// Whether something is being written.
    pub(super) fn is_written(&self) -> bool {
        self.writes > 0
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.reads == 0 && self.writes == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One place in a store, a cache of it, and whoever reads and writes: the least that can go wrong.
    #[derive(Default)]
    struct World {
        fence: Fence<()>,
        /// Writes that are done, in order.
        store: u32,
        /// Acknowledged.
        acknowledged: u32,
        kept: Option<u32>,
        reads: Vec<(ReadTicket, Option<u32>)>,
        writes: Vec<(WriteTicket, Option<u32>)>,
    }

    impl World {
        /// One step of somebody's. `which` picks who goes on.
        fn step(&mut self, step: u8, which: usize) {
            match step {
                0 if self.reads.len() < 4 => self.reads.push((self.fence.begin_read(), None)),
                1 if self.writes.len() < 3 => self.writes.push((self.fence.begin_write(), None)),
                // The store looks.
                2 => {
                    if let Some((_, seen)) = pick(&mut self.reads, which) {
                        seen.get_or_insert(self.store);
                    }
                }
                // The store writes.
                3 => {
                    if let Some((_, done @ None)) = pick(&mut self.writes, which) {
                        self.store += 1;
                        *done = Some(self.store);
                    }
                }
                // The answer to a read arrives.
                4 => {
                    let ready: Vec<_> = positions(&self.reads, Option::is_some);
                    if let Some(&at) = ready.get(which % ready.len().max(1)) {
                        let (ticket, seen) = self.reads.remove(at);
                        if self.fence.end_read(ticket) {
                            self.kept = seen;
                        }
                    }
                }
                // The answer to a write arrives, or never does: the store may have done it, or will not.
                _ if !self.writes.is_empty() => {
                    let (ticket, done) = self.writes.remove(which % self.writes.len());
                    let told = step == 5 && done.is_some();
                    let keeps = self.fence.end_write(ticket) && told;
                    self.kept = done.filter(|_| keeps);
                    if told {
                        self.acknowledged = self.acknowledged.max(done.unwrap_or_default());
                    }
                }
                _ => {}
            }
        }
    }

    fn pick<T>(all: &mut [T], which: usize) -> Option<&mut T> {
        let len = all.len().max(1);
        all.get_mut(which % len)
    }

    fn positions<T>(all: &[(T, Option<u32>)], is: impl Fn(&Option<u32>) -> bool) -> Vec<usize> {
        (0..all.len()).filter(|at| is(&all[*at].1)).collect()
    }

    proptest! {
        /// Whatever the order: what is kept is never older than what was acknowledged.
        #[test]
        fn what_is_kept_is_no_older_than_what_was_acknowledged(steps in proptest::collection::vec((0u8..7, 0usize..4), 0..200)) {
            let mut world = World::default();
            for (step, which) in steps {
                world.step(step, which);
                if let Some(kept) = world.kept {
                    prop_assert!(kept >= world.acknowledged, "{kept} is kept, {} acknowledged", world.acknowledged);
                }
            }
            let World { mut fence, reads, writes, .. } = world;
            for (ticket, _) in reads {
                fence.end_read(ticket);
            }
            for (ticket, _) in writes {
                fence.end_write(ticket);
            }
            prop_assert!(fence.is_idle());
        }
    }

    /// The same with threads, wherever they are interrupted.
    #[test]
    fn threads_keep_nothing_older_than_what_was_acknowledged() {
        shuttle::check_random(threads, 20_000);
        shuttle::check_pct(threads, 20_000, 3);
    }

    /// What they share.
    #[derive(Default)]
    struct Near {
        fence: Fence<()>,
        kept: Option<u64>,
    }

    fn threads() {
        use shuttle::sync::atomic::{AtomicU64, Ordering};
        use shuttle::sync::{Arc, Mutex};
        use shuttle::thread;

        let near = Arc::new(Mutex::new(Near::default()));
        let (store, acknowledged) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let readers = (0..2).map(|_| {
            let (near, store) = (Arc::clone(&near), Arc::clone(&store));
            thread::spawn(move || {
                let ticket = near.lock().unwrap().fence.begin_read();
                let seen = store.load(Ordering::SeqCst);
                let mut near = near.lock().unwrap();
                if near.fence.end_read(ticket) {
                    near.kept = Some(seen);
                }
            })
        });
        let writers = (0..2).map(|writer| {
            let (near, store, acknowledged) = (Arc::clone(&near), Arc::clone(&store), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let ticket = near.lock().unwrap().fence.begin_write();
                let done = store.fetch_add(1, Ordering::SeqCst) + 1;
                let mut near = near.lock().unwrap();
                // One of them never hears what came of it.
                let is_told = writer == 0;
                let may_keep = near.fence.end_write(ticket);
                near.kept = Some(done).filter(|_| may_keep && is_told);
                if is_told {
                    acknowledged.fetch_max(done, Ordering::SeqCst);
                }
            })
        });
        let watcher = {
            let (near, acknowledged) = (Arc::clone(&near), Arc::clone(&acknowledged));
            thread::spawn(move || {
                for _ in 0..2 {
                    let newest = acknowledged.load(Ordering::SeqCst);
                    if let Some(kept) = near.lock().unwrap().kept {
                        assert!(kept >= newest, "{kept} is kept, {newest} was acknowledged");
                    }
                }
            })
        };
        for thread in readers.chain(writers).chain([watcher]).collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        let near = near.lock().unwrap();
        assert!(near.fence.is_idle());
        assert!(near.kept.is_none_or(|kept| kept >= acknowledged.load(Ordering::SeqCst)));
    }

    #[test]
    fn who_comes_after_a_change_waits_for_no_read_from_before() {
        let mut fence = Fence::default();
        let before = fence.begin_read();
        fence.let_wait("before");
        assert_eq!(fence.flight(), Some(&"before"));
        fence.doubt();
        assert_eq!(fence.flight(), None);
        let after = fence.begin_read();
        fence.let_wait("after");
        assert!(!fence.end_read(before), "it may bring back what stood before");
        assert_eq!(fence.flight(), Some(&"after"));
        assert!(fence.end_read(after));
        assert!(fence.flight().is_none() && fence.is_idle());
    }

    #[test]
    fn an_answer_is_not_kept_over_that_of_who_asked_later() {
        let mut fence = Fence::default();
        let (first, second, third) = (fence.begin_read(), fence.begin_read(), fence.begin_read());
        fence.let_wait("third");
        assert!(fence.end_read(second));
        assert_eq!(fence.flight(), Some(&"third"), "it goes on");
        assert!(!fence.end_read(first));
        fence.give_up_read(third);
        assert!(fence.flight().is_none() && fence.is_idle());
    }
}
