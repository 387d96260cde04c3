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
use crate::backend::embedded::CACHE_BYTES;
use crate::quota::{KEPT_BYTES, UNDER_WAY_BYTES};
use crate::settings::{BackendKind, OnFailure, Settings};
use crate::watch::{PAGE_BYTES, PAGES};

/// What a gateway takes besides what is bounded: code, guests, connections.
const BESIDES: u64 = 100 << 20;
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
    let wanted = needed(settings);
    let found = format!("{limit} ({of}), of which about {wanted} may be needed");
    Some(if limit < wanted {
        let fix = format!("raise it to {wanted}, or lower cache.max_bytes, limits.tenants or limits.decisions");
        Finding::warn(subject, found, fix)
    } else {
        Finding::ok(subject, found)
    })
}

/// As much as it may take, but for what watchers do, which no setting says how many there will be (README, "Sizing").
fn needed(settings: &Settings) -> ByteSize {
    let Settings { limits, .. } = settings;
    // What all versions have answered is remembered beside what one has, where that stands in for it.
    let memories = settings.strategies.values().map(|strategy| match strategy.on_failure {
        OnFailure::Closed => 1_u64,
        OnFailure::LastDecision => 2,
    });
    let decisions = limits.decisions.0.saturating_mul(u64::from(limits.tenants));
    let embedded = settings
        .backends
        .values()
        .filter(|backend| backend.kind == BackendKind::Embedded);
    let pages = embedded.map(|backend| CACHE_BYTES as u64 * if backend.backups.is_some() { 2 } else { 1 });
    let parts = [
        settings.cache.max_bytes.0,
        settings.identity.token_memory.0,
        decisions.saturating_mul(memories.sum()),
        UNDER_WAY_BYTES,
        KEPT_BYTES,
        PAGES as u64 * PAGE_BYTES,
        BESIDES,
    ];
    let bytes = parts.into_iter().chain(pages).fold(0, u64::saturating_add);
    // A quarter more, for what the allocator keeps.
    ByteSize::b(bytes.saturating_add(bytes / 4))
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
