//! What this machine, or this container, lets one process have.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use bytesize::ByteSize;
use procfs::process::Process;
use procfs::{Current as _, Meminfo};
use rustix::process::{Resource, getrlimit};

use super::{Check, Examined, Finding};
use crate::settings::Settings;

/// What a gateway takes besides what settings bound: code, guests, stores' own memory, connections.
const BESIDES: u64 = 256 << 20;
/// Where Linux shows groups of processes, in its second version.
const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) fn checks(of: &Examined) -> Vec<Check> {
    let settings = of.settings.clone();
    vec![Check::blocking("this machine", move || {
        let findings = [Some(descriptors(&settings)), Some(cores()), memory(&settings)];
        findings.into_iter().flatten().collect()
    })]
}

/// The gateway raises the soft limit to the hard one.
fn descriptors(settings: &Settings) -> Finding {
    let subject = "descriptors";
    let wanted = settings.limits.descriptors();
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => Finding::warn(
            subject,
            format!("{limit} here, and limits.connections asks for {wanted}"),
            format!(
                "raise the limit (ulimit -Hn {wanted}; LimitNOFILE={wanted} of a unit), or set limits.connections = {}",
                limit.saturating_sub(wanted - u64::from(settings.limits.connections))
            ),
        ),
        Some(limit) => Finding::ok(subject, format!("{limit} here, of which {wanted} may be needed")),
        None => Finding::ok(subject, "as many as are wanted"),
    }
}

fn cores() -> Finding {
    let subject = "cores";
    match thread::available_parallelism().map_or(1, NonZero::get) {
        1 => {
            let fix = "give it two: a strategy's call takes one while it runs";
            Finding::warn(subject, "1", fix)
        }
        cores => Finding::ok(subject, cores.to_string()),
    }
}

/// None where it is not told how much there is.
fn memory(settings: &Settings) -> Option<Finding> {
    let subject = "memory";
    let (limit, of) = limit()?;
    let kept = settings.cache.max_bytes.0 + settings.identity.token_memory.0;
    let wanted = ByteSize::b(kept.saturating_add(BESIDES));
    let found = format!("{limit} ({of}), of which about {wanted} may be needed");
    Some(if limit < wanted {
        let least = limit.0.saturating_sub(BESIDES + settings.identity.token_memory.0);
        let less = ByteSize::b(least.max(1 << 20)).display().iec_short();
        let fix = format!("raise it to {wanted}, or set cache.max_bytes to {less} or less");
        Finding::warn(subject, found, fix)
    } else {
        Finding::ok(subject, found)
    })
}

/// The least of what this process's groups and the machine have.
fn limit() -> Option<(ByteSize, &'static str)> {
    let machine = Meminfo::current().ok()?.mem_total;
    let group = Process::myself().ok().and_then(|this| this.cgroups().ok());
    let path = group.and_then(|groups| {
        let unified = groups.0.into_iter().find(|group| group.hierarchy == 0)?;
        Some(PathBuf::from(CGROUPS).join(unified.pathname.trim_start_matches('/')))
    });
    let above = path.iter().flat_map(|path| path.ancestors());
    let groups = above.take_while(|path| path.starts_with(CGROUPS));
    let least = groups.filter_map(|group| limit_of(&group.join("memory.max"))).min();
    Some(match least.filter(|least| *least < machine) {
        Some(least) => (ByteSize::b(least), "the limit of this group of processes"),
        None => (ByteSize::b(machine), "this machine's"),
    })
}

/// None: as much as there is.
fn limit_of(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
