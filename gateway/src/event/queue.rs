//! A replica's own queue, and the rules that fill it: made when it starts and removed when it goes. What a replica left behind
//! that was killed, any other removes.
//!
//! A queue carries its last heartbeat as a tag, so that who reaps needs to ask nobody else. It is made before its rules and
//! removed after them: so there is no rule that fills nothing, unless somebody removed a queue by hand.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_eventbridge::Client as EventBridge;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::types::Target;
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;
use tokio::time::sleep;
use ulid::Ulid;

use super::{ITEMS_SOURCE, SOURCE};
use crate::backend::describe_failure;
use crate::clock::Clock;

/// What the names of queues and rules begin with; a ULID follows.
pub(crate) const PREFIX: &str = "tagway-events-";
/// The tags of a queue: when its replica was last there, in seconds since the epoch; and the bus of its second rule.
const HEARTBEAT: &str = "tagway:heartbeat";
const BUS: &str = "tagway:bus";
/// Between two heartbeats.
pub(super) const BEAT: Duration = Duration::from_mins(5);
/// After which whatever has none is nobody's.
const DEAD: Duration = Duration::from_hours(1);
/// How long a message waits for a replica that is paused. What it misses beyond that, its sweep finds.
const RETENTION: Duration = Duration::from_mins(5);
/// How long a queue is not used after it was made.
const NEW: Duration = Duration::from_secs(1);
/// How long a message that was received is not received again.
const VISIBILITY: Duration = Duration::from_secs(30);
/// The bus that AWS's own events come on, and on no other.
const DEFAULT_BUS: &str = "default";

/// Makes and removes queues.
#[derive(Clone)]
pub struct Queues {
    sqs: Sqs,
    events: EventBridge,
    bus: String,
    /// What the names of parameters begin with that are of interest.
    roots: Arc<[String]>,
    /// Buckets with components of strategies.
    buckets: Arc<[String]>,
    clock: Clock,
}

/// One that was made.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) url: String,
    id: String,
}

/// What could not be done, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation}: {why}")]
pub(super) struct Failed {
    operation: &'static str,
    why: String,
}

impl Queues {
    /// Of events that our own gateways and pipes put on `bus`, of those of parameters below `roots`, and of new objects in
    /// `buckets`.
    pub fn new(
        sqs: Sqs,
        events: EventBridge,
        bus: String,
        roots: impl Iterator<Item = String>,
        buckets: impl Iterator<Item = String>,
        clock: Clock,
    ) -> Self {
        Self {
            buckets: buckets.collect(),
            sqs,
            events,
            bus,
            roots: roots.collect(),
            clock,
        }
    }

    /// Makes a queue and its rules, or nothing.
    pub(super) async fn make(&self) -> Result<Own, Failed> {
        let id = Ulid::from_datetime(self.clock.now()).to_string().to_lowercase();
        let create = self.sqs.create_queue().queue_name(name(&id));
        let create = create
            .attributes(QueueAttributeName::MessageRetentionPeriod, seconds(RETENTION))
            .attributes(QueueAttributeName::VisibilityTimeout, seconds(VISIBILITY))
            .tags(HEARTBEAT, self.clock.seconds().to_string())
            .tags(BUS, &self.bus);
        let created = Box::pin(create.send()).await.map_err(failed("CreateQueue"))?;
        let url = created.queue_url.unwrap_or_default();
        // "You must wait at least one second after the queue is created" (API reference, `CreateQueue`).
        sleep(NEW).await;
        let own = Own { url, id };
        match Box::pin(self.fill(&own)).await {
            Ok(()) => Ok(own),
            Err(failed) => {
                // What is left of it others reap.
                _ = Box::pin(self.remove(&own)).await;
                Err(failed)
            }
        }
    }

    /// Has rules fill it, and nobody else.
    async fn fill(&self, own: &Own) -> Result<(), Failed> {
        let get = self.sqs.get_queue_attributes().queue_url(&own.url);
        let get = get.attribute_names(QueueAttributeName::QueueArn).send();
        let attributes = Box::pin(get).await.map_err(failed("GetQueueAttributes"))?;
        let attributes = attributes.attributes.unwrap_or_default();
        let arn = attributes
            .get(&QueueAttributeName::QueueArn)
            .cloned()
            .unwrap_or_default();
        let mut rules = vec![(self.bus.as_str(), rule(&own.id, "bus"), ours())];
        if self.hears_of_aws() {
            rules.push((DEFAULT_BUS, rule(&own.id, "aws"), self.of_aws()));
        }
        let mut sources = Vec::new();
        for (bus, name, pattern) in &rules {
            let put = self.events.put_rule().event_bus_name(*bus).name(name);
            let put = put
                .event_pattern(pattern)
                .description("Fills the queue of one Tagway replica");
            let put = Box::pin(put.send()).await.map_err(failed("PutRule"))?;
            sources.extend(put.rule_arn);
        }
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": { "Service": "events.amazonaws.com" },
                "Action": "sqs:SendMessage",
                "Resource": arn,
                "Condition": { "ArnEquals": { "aws:SourceArn": sources } },
            }],
        });
        let set = self.sqs.set_queue_attributes().queue_url(&own.url);
        let set = set.attributes(QueueAttributeName::Policy, policy.to_string());
        Box::pin(set.send()).await.map_err(failed("SetQueueAttributes"))?;
        for (bus, name, _) in &rules {
            let target = Target::builder().id("queue").arn(&arn).build();
            let target = target.map_err(|problem| Failed {
                operation: "PutTargets",
                why: problem.to_string(),
            })?;
            let put = self
                .events
                .put_targets()
                .event_bus_name(*bus)
                .rule(name)
                .targets(target);
            let put = Box::pin(put.send()).await.map_err(failed("PutTargets"))?;
            if let Some(entry) = put.failed_entries().first() {
                return Err(Failed {
                    operation: "PutTargets",
                    why: entry.error_code().unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(())
    }

    fn hears_of_aws(&self) -> bool {
        !self.roots.is_empty() || !self.buckets.is_empty()
    }

    /// What Parameter Store tells of the parameters of interest, in two kinds of events that name them differently; and S3 of what
    /// is put into the buckets, where they are set to tell.
    fn of_aws(&self) -> String {
        let below: Vec<_> = self.roots.iter().map(|root| json!({ "prefix": root })).collect();
        let (mut kinds, mut any) = (Vec::new(), Vec::new());
        if !below.is_empty() {
            kinds.extend(["Parameter Store Change", "Parameter Store Policy Action"]);
            any.extend([json!({ "name": below }), json!({ "parameter-name": below })]);
        }
        if !self.buckets.is_empty() {
            kinds.push("Object Created");
            any.push(json!({ "bucket": { "name": *self.buckets } }));
        }
        let detail = match <[_; 1]>::try_from(any) {
            Ok([only]) => only,
            Err(any) => json!({ "$or": any }),
        };
        let pattern = json!({ "source": ["aws.ssm", "aws.s3"], "detail-type": kinds, "detail": detail });
        pattern.to_string()
    }

    /// Its replica is there. And so are its rules, whatever became of them.
    pub(super) async fn beat(&self, own: &Own) -> Result<(), Failed> {
        let tag = self.sqs.tag_queue().queue_url(&own.url);
        let tag = tag.tags(HEARTBEAT, self.clock.seconds().to_string());
        Box::pin(tag.send()).await.map_err(failed("TagQueue"))?;
        Box::pin(self.fill(own)).await
    }

    /// Removes a queue, and its rules before it. What cannot be removed keeps nothing else.
    pub(super) async fn remove(&self, own: &Own) -> Result<(), Failed> {
        let rules = self.remove_rules(&own.id, &self.bus).await;
        let queue = self.delete_queue(&own.url).await;
        rules.and(queue)
    }

    async fn delete_queue(&self, url: &str) -> Result<(), Failed> {
        let delete = Box::pin(self.sqs.delete_queue().queue_url(url).send()).await;
        unless_gone("DeleteQueue", delete)
    }

    async fn remove_rules(&self, id: &str, bus: &str) -> Result<(), Failed> {
        let ours = self.remove_rule(bus, &rule(id, "bus")).await;
        if !self.hears_of_aws() {
            return ours;
        }
        let of_aws = self.remove_rule(DEFAULT_BUS, &rule(id, "aws")).await;
        ours.and(of_aws)
    }

    async fn remove_rule(&self, bus: &str, rule: &str) -> Result<(), Failed> {
        let remove = self.events.remove_targets().event_bus_name(bus).rule(rule);
        match Box::pin(remove.ids("queue").send()).await {
            Ok(removed) if removed.failed_entry_count() > 0 => {
                return Err(Failed {
                    operation: "RemoveTargets",
                    why: "its target is still there".to_owned(),
                });
            }
            removed => unless_gone("RemoveTargets", removed)?,
        }
        let delete = self.events.delete_rule().event_bus_name(bus).name(rule);
        unless_gone("DeleteRule", Box::pin(delete.send()).await)
    }

    /// Removes what replicas left behind that are no more. Another may do the same at the same time. Returns how many queues that
    /// was.
    pub(super) async fn reap(&self) -> Result<usize, Failed> {
        let mut reaped = 0;
        // What cannot be removed keeps nothing else.
        let mut problem = None;
        let mut standing = HashSet::new();
        let mut next: Option<String> = None;
        loop {
            let list = self.sqs.list_queues().queue_name_prefix(PREFIX).max_results(1000);
            let list = Box::pin(list.set_next_token(next).send()).await;
            let list = list.map_err(failed("ListQueues"))?;
            for url in list.queue_urls() {
                let Some(id) = url.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX)) else {
                    continue;
                };
                // As long as it is not known to be gone it has an owner.
                standing.insert(id.to_owned());
                match self.reap_queue(id, url).await {
                    Ok(true) => {
                        standing.remove(id);
                        reaped += 1;
                    }
                    Ok(false) => {}
                    Err(failed) => problem = Some(failed),
                }
            }
            next = list.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        for bus in HashSet::from([DEFAULT_BUS, self.bus.as_str()]) {
            if let Err(failed) = self.reap_rules(bus, &standing).await {
                problem = Some(failed);
            }
        }
        problem.map_or(Ok(reaped), Err)
    }

    /// Removes a queue that is nobody's any more, and its rules. Returns whether it did.
    async fn reap_queue(&self, id: &str, url: &str) -> Result<bool, Failed> {
        let tags = match Box::pin(self.sqs.list_queue_tags().queue_url(url).send()).await {
            Ok(tags) => tags.tags.unwrap_or_default(),
            // It was removed meanwhile; or it is not known what it is.
            Err(error) => return unless_gone("ListQueueTags", Err::<(), _>(error)).map(|()| false),
        };
        if !self.is_dead(tags.get(HEARTBEAT)) {
            return Ok(false);
        }
        let bus = tags.get(BUS).unwrap_or(&self.bus);
        self.remove_rules(id, bus).await?;
        self.delete_queue(url).await?;
        Ok(true)
    }

    /// Removes rules whose queue somebody removed.
    async fn reap_rules(&self, bus: &str, standing: &HashSet<String>) -> Result<(), Failed> {
        let mut next: Option<String> = None;
        let mut problem = None;
        loop {
            let list = self.events.list_rules().event_bus_name(bus).name_prefix(PREFIX);
            let list = Box::pin(list.set_next_token(next).send()).await;
            let list = list.map_err(failed("ListRules"))?;
            for rule in list.rules() {
                let name = rule.name().unwrap_or_default();
                let id = name
                    .strip_prefix(PREFIX)
                    .and_then(|rest| Some(rest.rsplit_once('-')?.0));
                let Some(id) = id.filter(|id| !standing.contains(*id)) else {
                    continue;
                };
                // One that is being made may not be listed yet.
                let made = Ulid::from_string(id).map(|id| id.datetime());
                let age = made.ok().and_then(|made| self.clock.now().duration_since(made).ok());
                if age.is_some_and(|age| age > DEAD)
                    && let Err(failed) = self.remove_rule(bus, name).await
                {
                    problem = Some(failed);
                }
            }
            next = list.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return problem.map_or(Ok(()), Err);
            }
        }
    }

    /// Whether it is one of ours, and nobody's any more.
    fn is_dead(&self, heartbeat: Option<&String>) -> bool {
        let heartbeat = heartbeat.and_then(|heartbeat| heartbeat.parse::<u64>().ok());
        heartbeat.is_some_and(|heartbeat| self.clock.seconds().saturating_sub(heartbeat) > DEAD.as_secs())
    }
}

/// What gateways publish, and what pipes tell of tables.
fn ours() -> String {
    json!({ "source": [SOURCE, ITEMS_SOURCE] }).to_string()
}

fn name(id: &str) -> String {
    [PREFIX, id].concat()
}

fn rule(id: &str, which: &str) -> String {
    format!("{PREFIX}{id}-{which}")
}

fn seconds(duration: Duration) -> String {
    duration.as_secs().to_string()
}

fn failed<E>(operation: &'static str) -> impl FnOnce(SdkError<E>) -> Failed
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    move |error| Failed {
        operation,
        why: describe_failure(&error),
    }
}

/// What is gone already needs no removing.
fn unless_gone<T, E>(operation: &'static str, done: Result<T, SdkError<E>>) -> Result<(), Failed>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match done {
        Ok(_) => Ok(()),
        Err(error) if error.code().is_some_and(is_of_nothing) => Ok(()),
        Err(error) => Err(failed(operation)(error)),
    }
}

/// API references of Amazon SQS and Amazon EventBridge, "Errors".
pub(crate) fn is_of_nothing(code: &str) -> bool {
    matches!(
        code,
        "ResourceNotFoundException" | "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue"
    )
}
