//! Disturbances, one file a kind. Each says in the timeline when it begins and ends.

pub(super) mod faults;
pub(super) mod hostile;
pub(super) mod peers;
pub(super) mod restart;
pub(super) mod swaps;

use self::faults::Fault;

/// One that is to come. Strategies are replaced all the while besides.
#[derive(Clone, Copy)]
pub(super) enum Card {
    /// AWS fails.
    Fault(Fault),
    /// Watchers hang up and come back.
    Leave,
    /// A strategy misbehaves.
    Hostile,
    /// Peers say nothing, or read nothing.
    Peers,
    /// A replica is told to go, and started again.
    Drain,
    /// A replica is killed, and started again.
    Kill,
}

impl Card {
    /// A whole deck.
    pub(super) fn all() -> Vec<Self> {
        let others = [
            Self::Leave,
            Self::Leave,
            Self::Hostile,
            Self::Peers,
            Self::Drain,
            Self::Kill,
        ];
        let faults = Fault::ALL.into_iter().map(Self::Fault);
        faults.chain(others).collect()
    }

    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.name(),
            Self::Leave => "watchers hang up and come back",
            Self::Hostile => "a strategy misbehaves",
            Self::Peers => "peers are silent, or do not read",
            Self::Drain => "a replica is drained and started again",
            Self::Kill => "a replica is killed and started again",
        }
    }
}
