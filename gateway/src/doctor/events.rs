//! Bus and queue that changes come by. Only what the gateway's role may do anyway is asked (`deploy/events.yaml`), and no message is
//! received.

use aws_sdk_eventbridge::Client as EventBridge;
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName;

use super::aws::{brief, failed, no_region};
use super::{Check, Examined, Finding};
use crate::app;
use crate::backend::{AwsSettings, NoRegion, failure};
use crate::event::{PREFIX, is_of_nothing};
use crate::settings::{EventsKind, Queue};

/// So many that wait have nobody who reads them.
const MANY: u64 = 1000;

const BUS: &str = "events.bus";
const QUEUE: &str = "events.queue";

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let events = &of.settings.events;
    if events.kind == EventsKind::None {
        return Vec::new();
    }
    let mut checks = Vec::new();
    let settings = brief(app::events_at_aws(events));
    // Who has a queue of an operator's and publishes nothing has nothing to do with any bus.
    if events.queue() == Queue::Auto || events.publish() {
        let (settings, name) = (settings.clone(), events.bus().to_owned());
        checks.push(Check::new(BUS, async move { vec![bus(&settings, &name).await] }).asks_aws());
    }
    let named = events.queue();
    checks.push(
        Check::new(QUEUE, async move {
            vec![match named {
                Queue::Auto => own(&settings).await,
                Queue::Url(url) => queue(&settings, &url).await,
            }]
        })
        .asks_aws(),
    );
    checks
}

async fn bus(settings: &AwsSettings, name: &str) -> Finding {
    let config = match settings.load().await {
        Ok(config) => config,
        Err(NoRegion) => return no_region("events.region"),
    };
    let rules = EventBridge::new(&config).list_rules().event_bus_name(name);
    match Box::pin(rules.name_prefix(PREFIX).limit(1).send()).await {
        Ok(_) => Finding::ok(BUS, format!("{name} is there")),
        Err(error) if error.code().is_some_and(is_of_nothing) => Finding::fail(
            BUS,
            format!("there is no bus {name} in this account and region: changes are not told"),
            format!(
                "aws events create-event-bus --name {name} --region {}",
                config.region().map(AsRef::as_ref).unwrap_or_default()
            ),
        ),
        Err(error) => unseen(BUS, "events:ListRules", &error),
    }
}

/// One of its own, which is yet to be made.
async fn own(settings: &AwsSettings) -> Finding {
    let config = match settings.load().await {
        Ok(config) => config,
        Err(NoRegion) => return no_region("events.region"),
    };
    let list = Sqs::new(&config).list_queues().queue_name_prefix(PREFIX);
    match Box::pin(list.send()).await {
        Ok(list) => Finding::ok(
            QUEUE,
            format!(
                "auto: {} of replicas are there; none was made to try it",
                list.queue_urls().len()
            ),
        ),
        Err(error) => unseen(QUEUE, "sqs:ListQueues", &error),
    }
}

async fn queue(settings: &AwsSettings, url: &str) -> Finding {
    let config = match settings.load().await {
        Ok(config) => config,
        Err(NoRegion) => return no_region("events.region"),
    };
    let waiting = QueueAttributeName::ApproximateNumberOfMessages;
    let get = Sqs::new(&config).get_queue_attributes().queue_url(url);
    match Box::pin(get.attribute_names(waiting.clone()).send()).await {
        Ok(answer) => {
            let told = answer.attributes().and_then(|attributes| attributes.get(&waiting));
            let waiting = told.and_then(|told| told.parse::<u64>().ok()).unwrap_or(0);
            let found = format!("{url}: {waiting} messages wait");
            if waiting < MANY {
                Finding::ok(QUEUE, found)
            } else {
                let fix = "start the gateway that reads it; of one that runs, see `tagway status`";
                Finding::warn(QUEUE, found, fix)
            }
        }
        Err(error) if error.code().is_some_and(is_of_nothing) => Finding::fail(
            QUEUE,
            format!("there is no queue {url}"),
            "set events.queue to a queue's URL, or leave it out: \"auto\" makes one; gateway/deploy/events-queue.yaml makes one too",
        ),
        Err(error) => unseen(QUEUE, "sqs:GetQueueAttributes", &error),
    }
}

/// What may not be looked at may be well.
fn unseen<E>(subject: &str, action: &str, error: &SdkError<E>) -> Finding
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if failure::is_denied(error) {
        let found = format!("it may not be looked at: {}", failure::what(error));
        let fix = format!("allow {action}, as gateway/deploy/events.yaml does");
        Finding::warn(subject, found, fix)
    } else {
        failed(subject, action, error)
    }
}
