//! Whether this machine's clock goes right: tokens are judged by it, and what is sent to AWS is signed with it.

use std::time::{Duration, SystemTime};

use humantime::format_duration;

use super::Finding;

/// Clocks that are set by NTP differ by less.
const USUAL: Duration = Duration::from_secs(5);
/// A `Date` has no fractions.
const FRACTION: Duration = Duration::from_secs(1);

/// What time somebody else says it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// By their clock.
    pub(super) date: SystemTime,
    /// By ours, before they were asked and after they were heard.
    pub(super) asked: SystemTime,
    pub(super) heard: SystemTime,
}

impl Told {
    /// By how much ours is ahead, or behind: at least, for what was told was on its way for a while.
    fn off(&self) -> (Duration, &'static str) {
        let ahead = self.asked.duration_since(self.date + FRACTION).unwrap_or_default();
        let behind = self.date.duration_since(self.heard).unwrap_or_default();
        if ahead > behind {
            (ahead, "ahead of")
        } else {
            (behind, "behind")
        }
    }
}

/// Nobody who is asked anyway is on another machine.
pub(super) fn untold() -> Finding {
    Finding::ok("clock", "was not compared: nobody who is asked tells the time")
}

/// Our clock beside the one of `whose`.
pub(super) fn compared(whose: &str, told: Option<Told>, leeway: Duration) -> Finding {
    let subject = format!("clock, beside {whose}");
    let Some(told) = told else {
        return Finding::ok(subject, "not compared: no answer tells the time");
    };
    let (off, direction) = told.off();
    let rounded = format_duration(Duration::from_secs(off.as_secs()));
    let found = format!("{rounded} {direction} it");
    let fix =
        "set this machine's clock and keep it so (timedatectl set-ntp true, or chronyd); a container has its host's";
    if off > leeway {
        let found = format!(
            "{found}: beyond identity.leeway ({}) tokens are refused, and AWS refuses signatures beyond 5m",
            format_duration(leeway)
        );
        Finding::fail(subject, found, fix)
    } else if off > USUAL {
        Finding::warn(subject, found, fix)
    } else {
        Finding::ok(subject, "the same time, as far as can be told")
    }
}
