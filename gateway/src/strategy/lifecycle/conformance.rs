//! What every strategy must do, whatever it is for: asked of each version before it serves.
//!
//! For each tag that it claims, and a tenant that there is not, it is asked for names of all shapes. It may refuse them. But it
//! answers, within the limits of a request; with what it is granted; the same when it is asked twice; and its `enumerate` names
//! every place that its `decide` does.

use std::collections::BTreeSet;

use super::stages::Failure;
use crate::key::{TagPrefix, Tags, TenantId};
use crate::placement::PlaceRange;
use crate::strategy::Operation;
use crate::strategy::memory::{Answer, Asked, Bags};
use crate::strategy::version::Version;

/// Nobody's id, but a fair one.
const TENANT: &str = "conformance-check";

/// Checks it, and says what it does wrong.
pub(super) fn check(version: &Version) -> Result<(), Failure> {
    let tenant: TenantId = TENANT
        .parse()
        .map_err(|problem| Failure::new(format!("{TENANT}: {problem}")))?;
    let tags = Tags::new(version.tags.iter().cloned());
    let bags = Bags::default();
    let longest = "x".repeat(256);
    let names = ["a", "A-b_c.0", "a/b/c/d/e/f/g/h", "conformance-check", &longest];
    for tag in &version.tags {
        let prefix = TagPrefix {
            tag: tag.clone(),
            name_prefix: "".into(),
            named: true,
        };
        let of_tag = Asked::Enumerate {
            prefix: &prefix,
            bags: &bags,
        };
        let ranges = match twice(version, &tenant, of_tag).map_err(|why| why.of(&format!("enumerate of `{tag}`")))? {
            Answer::Ranges(ranges) => Some(ranges),
            _ => None,
        };
        for name in names {
            let text = format!("{tag}{name}");
            // Where a longer tag of its own takes the key, that one's rules are asked.
            let Ok(key) = tags.parse(&text) else { continue };
            for operation in [Operation::Read, Operation::Write, Operation::Delete] {
                let asked = Asked::Decide {
                    key: &key,
                    operation,
                    bags: &bags,
                };
                let answer = twice(version, &tenant, asked).map_err(|why| why.of(&format!("decide of `{text}`")))?;
                if operation == Operation::Read && key.tag() == tag {
                    is_enumerated(&answer, ranges.as_deref()).map_err(|why| why.of(&format!("decide of `{text}`")))?;
                }
            }
        }
    }
    Ok(())
}

/// A strategy is pure, so what it says once it says again.
fn twice(version: &Version, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Failure> {
    let once = answered(version, tenant, asked)?;
    let again = answered(version, tenant, asked)?;
    if once == again {
        Ok(once)
    } else {
        Err(Failure::new("asked twice, it answers differently"))
    }
}

fn answered(version: &Version, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Failure> {
    version.answer_patiently(tenant, asked).map_err(|fault| Failure {
        reason: fault.to_string(),
        may_pass: fault.is_of_the_machine(),
    })
}

impl Failure {
    fn of(self, what: &str) -> Self {
        let reason = format!("{what}: {}", self.reason);
        Self { reason, ..self }
    }
}

fn is_enumerated(answer: &Answer, ranges: Option<&BTreeSet<PlaceRange>>) -> Result<(), Failure> {
    let (Answer::Placed(placed), Some(ranges)) = (answer, ranges) else {
        return Ok(());
    };
    let hidden = placed.layers().map(|layer| layer.place.range());
    match hidden.into_iter().find(|range| !ranges.contains(range)) {
        None => Ok(()),
        Some(range) => Err(Failure::new(format!(
            "it places the key in `{}` of `{}`, which enumerate does not name",
            range.range.folder(),
            range.backend
        ))),
    }
}
