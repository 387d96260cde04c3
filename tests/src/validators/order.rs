//! Order: within a subscription a key never goes back. Etags tell the order of states in all stores, Parameter Store's too, where
//! every state has a life of its own.

use std::collections::HashMap;

use super::Verdict;
use super::ledger::State;

/// Follows streams.
pub struct Order {
    /// What is to be said so far.
    pub verdict: Verdict,
    streams: HashMap<u64, HashMap<String, State>>,
    opened: u64,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("Order"),
            streams: HashMap::new(),
            opened: 0,
        }
    }
}

impl Order {
    /// A subscription begins. Returns its number.
    pub fn begins(&mut self) -> u64 {
        self.opened += 1;
        self.streams.insert(self.opened, HashMap::new());
        self.opened
    }

    /// It was told that this is the state of `key`. That a key was removed in between makes no earlier state good.
    pub fn told(&mut self, stream: u64, key: &str, state: State) {
        let Some(states) = self.streams.get_mut(&stream) else {
            return;
        };
        let went_back = states.get(key).filter(|before| !before.is_before(&state));
        let breach = went_back.map(|before| format!("stream {stream}: {key} went to {state} from {before}"));
        self.verdict.judge(breach);
        states.insert(key.to_owned(), state);
    }

    /// It has ended.
    pub fn ends(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: &str = "01JD8Z6M3V5T1RQWERTY012345";

    #[test]
    fn a_key_that_goes_back_is_noticed() {
        let mut order = Order::default();
        let (one, other) = (order.begins(), order.begins());
        let state = |version: u64| State::of(&format!("{LIFE}-{version}"));
        order.told(one, "t_a", state(1));
        order.told(one, "t_a", state(3));
        order.told(one, "t_b", state(2));
        order.told(other, "t_a", state(2));
        order.told(one, "t_a", State::of("01JD8Z6M3W5T1RQWERTY012345-1"));
        assert_eq!((order.verdict.judged, order.verdict.broken), (5, 0));
        order.told(one, "t_a", state(3));
        assert_eq!(order.verdict.broken, 1, "to an earlier life");
        order.told(other, "t_a", state(1));
        order.told(other, "t_a", state(1));
        assert_eq!(
            order.verdict.broken, 3,
            "to an earlier version, and to the same once more"
        );
    }

    #[test]
    fn what_comes_after_a_reconnection_is_another_subscription() {
        let mut order = Order::default();
        let first = order.begins();
        order.told(first, "t_a", State::of(&format!("{LIFE}-2")));
        order.ends(first);
        let second = order.begins();
        order.told(second, "t_a", State::of(&format!("{LIFE}-2")));
        assert_eq!((order.verdict.judged, order.verdict.broken), (2, 0));
    }
}
