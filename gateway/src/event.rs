//! What other replicas, AWS's console and pipelines change, and how this replica hears of it at once.
//!
//! An event is a hint: it names a place, and whoever cares looks there (`dispatch`). Events are lost, doubled and late, so
//! nothing rests on them: what is watched is compared with its stores once in a while anyway (`sweep`). What is written here
//! is told to the other replicas (`publish`). Messages come out of a queue (`receive`) that a replica makes for itself (`queue`)
//! or that its operator names.

mod dispatch;
mod envelope;
mod listener;
mod metrics;
mod publish;
mod queue;
mod receive;
mod stores;
mod sweep;

pub use dispatch::Dispatch;
pub use envelope::Unreadable;
pub use listener::{Listener, Queue};
pub use metrics::EventMetrics;
pub use publish::{Published, Publisher};
pub use queue::Queues;
pub(crate) use queue::{PREFIX, is_of_nothing};
pub use receive::Receiver;
pub use stores::Stores;
pub use sweep::Sweep;

/// Who wrote what we publish, in the envelope's `source`.
pub(crate) const SOURCE: &str = "tagway";
/// Whose changes Amazon EventBridge Pipes tell: what a pipe is to put into `source`.
pub(crate) const ITEMS_SOURCE: &str = "tagway.dynamodb";
