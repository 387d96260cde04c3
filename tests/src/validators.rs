//! Promises of README.md, each as somebody small who is told what was seen and says what broke it. They ask nobody and keep no time of
//! their own, so that each can be shown a history that breaks its promise.

pub mod agreement;
pub mod durability;
pub mod isolation;
pub mod ledger;
pub mod lost_update;
pub mod order;
pub mod read_your_write;
pub mod staleness;
pub mod timeline;
pub mod unfailing;

/// So many breaches are told word for word; the others are counted.
const TOLD: usize = 20;

/// What is to be said of one promise.
#[derive(Debug)]
pub struct Verdict {
    /// As README.md calls it.
    pub promise: &'static str,
    /// Observations that could have broken it.
    pub judged: u64,
    /// Those that did.
    pub broken: u64,
    /// What the first of them were.
    pub evidence: Vec<String>,
}

impl Verdict {
    /// Nothing yet.
    #[must_use]
    pub const fn on(promise: &'static str) -> Self {
        Self {
            promise,
            judged: 0,
            broken: 0,
            evidence: Vec::new(),
        }
    }

    /// One more observation, and how it breaks the promise, if it does.
    pub fn judge(&mut self, breach: Option<String>) {
        self.judged += 1;
        let Some(breach) = breach else {
            return;
        };
        self.broken += 1;
        if self.evidence.len() < TOLD {
            self.evidence.push(breach);
        }
    }
}
