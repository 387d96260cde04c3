//! Messages out of an SQS queue, until it is gone. A message is deleted when whoever it concerns knows; what was not deleted comes
//! again, which harms nobody.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::operation::receive_message::ReceiveMessageError;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use super::dispatch::Dispatch;
use crate::backend::describe_failure;
use crate::clock::backoff;

/// Most messages of one call, and longest wait for one (API reference, `ReceiveMessage`).
const MESSAGES: i32 = 10;
const WAIT_SECONDS: i32 = 20;
/// Calls at once, while there are more messages than one brings.
const CALLS: usize = 16;
/// Between two calls that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long it may be silent before that is told.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Receives from one queue.
#[derive(Clone)]
pub struct Receiver {
    /// Of SQS.
    pub client: Client,
    /// Of the queue.
    pub url: String,
    /// Takes what comes.
    pub dispatch: Arc<Dispatch>,
}

/// Why there is nothing to be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// There is no such queue.
    Gone,
    /// For now; and what AWS says of it.
    Away(String),
}

impl Receiver {
    /// Receives until the queue is gone. `told` hears when it falls silent, and when it does not any more.
    pub async fn run(&self, told: impl Fn(Option<&Silence>)) {
        let mut pauses = backoff(PAUSES);
        let mut silent_since: Option<Instant> = None;
        // The first answer tells that there will be others.
        let mut wait = 0;
        loop {
            let began = Instant::now();
            let error = match self.receive_some(wait).await {
                Ok(is_full) => {
                    wait = WAIT_SECONDS;
                    pauses = backoff(PAUSES);
                    silent_since = None;
                    told(None);
                    if !is_full {
                        continue;
                    }
                    // There is more than one call brings.
                    match try_join_all((0..CALLS).map(|_| self.receive_all())).await {
                        Ok(_) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            wait = 0;
            let silent_for = silent_since.get_or_insert(began).elapsed();
            if silent_for >= TOLD_AFTER {
                // One that was just made may not be known everywhere.
                if is_gone(&error) {
                    return told(Some(&Silence::Gone));
                }
                told(Some(&Silence::Away(describe_failure(&error))));
            }
            sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        }
    }

    /// One call after the other, until there is no more.
    async fn receive_all(&self) -> Result<(), SdkError<ReceiveMessageError>> {
        while self.receive_some(0).await? {}
        Ok(())
    }

    /// One call. Returns whether it brought as much as it can.
    async fn receive_some(&self, wait: i32) -> Result<bool, SdkError<ReceiveMessageError>> {
        let call = self.client.receive_message().queue_url(&self.url);
        let call = call.max_number_of_messages(MESSAGES).wait_time_seconds(wait);
        let messages = Box::pin(call.send()).await?.messages.unwrap_or_default();
        let is_full = messages.len() == MESSAGES as usize;
        for message in &messages {
            // What cannot be understood is counted, and would not be if it came again.
            _ = self.dispatch.hear(message.body().unwrap_or_default());
        }
        self.delete(messages).await;
        Ok(is_full)
    }

    async fn delete(&self, messages: Vec<Message>) {
        let entries = messages.into_iter().enumerate().filter_map(|(number, message)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(number.to_string());
            entry.receipt_handle(message.receipt_handle?).build().ok()
        });
        let entries: Vec<_> = entries.collect();
        if entries.is_empty() {
            return;
        }
        let call = self.client.delete_message_batch().queue_url(&self.url);
        // Those that stay come again.
        if let Err(error) = Box::pin(call.set_entries(Some(entries)).send()).await {
            tracing::debug!(error = describe_failure(&error), "messages were not deleted");
        }
    }
}

fn is_gone(error: &SdkError<ReceiveMessageError>) -> bool {
    error
        .as_service_error()
        .is_some_and(ReceiveMessageError::is_queue_does_not_exist)
}
