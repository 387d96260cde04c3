use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::status::Parts;

fn open(path: &Path) -> (Audit, Parts) {
    let parts = Parts::new(Clock::system());
    let part = parts.part("audit", true, "");
    let audit = Audit::open(&AuditTo::File(path.to_owned()), "r1".into(), part, Clock::system());
    (audit.unwrap(), parts)
}

fn record(key: &str) -> Record<'_> {
    Record {
        tenant: "acme",
        key,
        ..Record::new("PutConfig", Outcome::Done)
    }
}

#[tokio::test]
async fn a_line_says_what_is_known_and_is_there_when_it_is_done() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (audit, _) = open(&path);
    audit.done(record("t_a")).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["key", "outcome", "replica", "tenant", "time", "what"]);
    assert_eq!((&line["what"], &line["outcome"]), (&"PutConfig".into(), &"done".into()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    audit.omit();
    audit.omit();
    audit.done(record("t_b\n\"")).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&last["omitted"], &last["key"]), (&2.into(), &"t_b\n\"".into()));
    assert_eq!(text.lines().count(), 2);
}

#[tokio::test]
async fn a_torn_line_is_ended_and_a_file_that_was_moved_away_is_begun_anew() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "{\"whole\":1}\n{\"torn").unwrap();
    let (audit, _) = open(&path);
    audit.done(record("t_a")).await.unwrap();
    let moved = folder.path().join("audit.jsonl.1");
    fs::rename(&path, &moved).unwrap();
    audit.done(record("t_b")).await.unwrap();
    let first = fs::read_to_string(&moved).unwrap();
    let lines: Vec<&str> = first.lines().collect();
    assert_eq!((lines.len(), lines[1]), (3, "{\"torn"));
    assert!(lines[2].contains("t_a"));
    assert!(fs::read_to_string(&path).unwrap().contains("t_b"));
}

#[tokio::test]
async fn what_cannot_be_written_is_said_and_is_written_when_there_is_room() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let (audit, parts) = open(&path);
    assert_eq!(audit.check(), Ok(()));
    assert_eq!(audit.done(record("t_a")).await, Err(Unaudited));
    assert_eq!(audit.check(), Err(Unaudited));
    assert!(!parts.all()["audit"].ready);
    fs::remove_file(&path).unwrap();
    // It tries again by itself.
    while audit.check().is_err() {
        tokio::task::yield_now().await;
    }
    assert!(parts.all()["audit"].ready);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("t_a"), "what was done all the same: {text}");
    audit.done(record("t_b")).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
}
