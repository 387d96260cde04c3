//! Embedded stores: whether the file is one, or can be made, and has room to grow.

use std::path::Path;

use bytesize::ByteSize;

use super::files::{can_hold, folder_of, is_open, nearest};
use super::{Check, Finding};
use crate::backend::embedded::{Embedded, Looked, OpenError};

/// With less than this free an operator should look.
const LITTLE: ByteSize = ByteSize::gib(1);

pub(super) fn check(id: &str, path: &Path) -> Check {
    let (subject, path) = (format!("backends.{id}.path"), path.to_owned());
    Check::blocking(subject.clone(), move || look(&subject, &path))
}

fn look(subject: &str, path: &Path) -> Vec<Finding> {
    let place = path.display();
    let folder = folder_of(path);
    let mut findings = vec![match Embedded::look(path) {
        Ok(looked) => match (can_hold(subject, &folder), looked) {
            (_, Looked::InUse) => Finding::ok(subject, format!("{place}: a gateway that runs has it")),
            (Err(finding), _) => finding,
            (Ok(()), Looked::Nothing) => Finding::ok(subject, format!("{place} is made when the gateway starts")),
            (Ok(()), Looked::Whole) => {
                Finding::ok(subject, format!("{place} is a store of a format that is known here"))
            }
            (Ok(()), Looked::Unclosed) => Finding::ok(
                subject,
                format!(
                    "{place} was not closed, as after a crash: the gateway repairs it when it opens it, and till then it is not looked into"
                ),
            ),
        },
        Err(OpenError::Database(why)) => Finding::fail(
            subject,
            format!("{place} is no store of ours, or damaged: {why}"),
            format!(
                "tagway restore BACKUP --config FILE --replace; or, to begin with nothing, mv {place} {place}.damaged"
            ),
        ),
        Err(error @ OpenError::Format(_)) => {
            let fix = "run the gateway that wrote it, or a newer one";
            Finding::fail(subject, format!("{place}: {error}"), fix)
        }
        Err(error) => {
            let fix = format!("chown $(id -un) {place}, and chmod 600 {place}");
            Finding::fail(subject, format!("{place}: {error}"), fix)
        }
    }];
    findings.extend(is_open(path));
    findings.extend(room(&nearest(&folder)));
    findings
}

fn room(folder: &Path) -> Option<Finding> {
    let subject = format!("room in {}", folder.display());
    let disk = rustix::fs::statvfs(folder).ok()?;
    let free = ByteSize::b(disk.f_bavail.saturating_mul(disk.f_frsize));
    let found = format!("{free} free");
    Some(if free < LITTLE {
        let fix = "make room: with none, writes fail and reads go on";
        Finding::warn(subject, found, fix)
    } else {
        Finding::ok(subject, found)
    })
}
