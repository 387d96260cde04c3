use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::sink::Health;
use super::*;
use crate::status::Parts;

fn open(path: &Path) -> (Audit, Parts) {
    let parts = Parts::new(Clock::system());
    let part = parts.part("audit", true, "");
    let audit = Audit::open(&AuditTo::File(path.to_owned()), 10, "r1".into(), part, Clock::system());
    (audit.unwrap(), parts)
}

fn record(key: &str) -> Record<'_> {
    Record {
        tenant: "acme",
        key,
        ..Record::new("PutConfig", Outcome::Done)
    }
}

async fn done(audit: &Audit, key: &str) -> Result<(), Unaudited> {
    audit.reserve().await?.done(record(key)).await
}

#[tokio::test]
async fn a_line_says_what_is_known_and_is_there_when_it_is_done() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (audit, _) = open(&path);
    done(&audit, "t_a").await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["key", "outcome", "replica", "tenant", "time", "what"]);
    assert_eq!((&line["what"], &line["outcome"]), (&"PutConfig".into(), &"done".into()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    audit.omit();
    audit.omit();
    done(&audit, "t_b\n\"").await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&last["omitted"], &last["key"]), (&2.into(), &"t_b\n\"".into()));
    assert_eq!(text.lines().count(), 2);
}

#[tokio::test]
async fn one_subjects_flood_of_refusals_hides_no_others() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (audit, _) = open(&path);
    let refused = |subject| {
        audit.note_caller(Record {
            subject,
            ..Record::new("GetConfig", Outcome::Refused)
        });
    };
    for _ in 0..1000 {
        refused("loud");
    }
    refused("quiet");
    // What is asked for afterwards is written afterwards.
    done(&audit, "t_a").await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let of = |subject: &str| text.lines().filter(|line| line.contains(subject)).count();
    assert_eq!(of("quiet"), 1);
    assert!((50..100).contains(&of("loud")), "{}", of("loud"));
}

#[tokio::test]
async fn a_torn_line_is_ended_and_a_file_that_was_moved_away_is_begun_anew() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "{\"whole\":1}\n{\"torn").unwrap();
    let (audit, _) = open(&path);
    done(&audit, "t_a").await.unwrap();
    let moved = folder.path().join("audit.jsonl.1");
    fs::rename(&path, &moved).unwrap();
    done(&audit, "t_b").await.unwrap();
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
    assert_eq!(done(&audit, "t_a").await, Err(Unaudited));
    assert!(audit.reserve().await.is_err());
    assert!(!parts.all()["audit"].ready);
    fs::remove_file(&path).unwrap();
    // It tries again by itself.
    while audit.reserve().await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(parts.all()["audit"].ready);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("t_a"), "what was done all the same: {text}");
    done(&audit, "t_b").await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn a_reader_that_stands_still_is_noticed_and_so_is_a_fifo() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let parts = Parts::new(Clock::system());
    let part = parts.part("audit", true, "");
    let opened = Audit::open(&AuditTo::File(path), 10, "r1".into(), part.clone(), Clock::system());
    assert!(opened.err().unwrap().to_string().contains("a FIFO holds lines"));
    let health = Health::new(part);
    assert!(health.is_able(Duration::ZERO));
    health.begins();
    assert!(health.is_able(PATIENCE));
    while health.is_able(Duration::ZERO) {
        tokio::task::yield_now().await;
    }
    assert!(!parts.all()["audit"].ready);
    health.ends(&Ok(()));
    assert!(health.is_able(Duration::ZERO) && parts.all()["audit"].ready);
}

/// Takes so many bytes and then none.
struct Full(Vec<u8>, usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.1);
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1 -= taken;
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what it was given in a buffer, as stdout does, and cannot write that at first.
struct Buffered {
    taken: Vec<u8>,
    failures: usize,
}

impl io::Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.taken.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.failures.checked_sub(1) {
            Some(left) => {
                self.failures = left;
                Err(io::ErrorKind::StorageFull.into())
            }
            None => Ok(()),
        }
    }
}

#[tokio::test]
async fn what_is_left_in_a_buffer_is_tried_again_without_a_further_line() {
    let (lines, waiting) = mpsc::channel(1);
    let parts = Parts::new(Clock::system());
    let health = Arc::new(Health::new(parts.part("audit", true, "")));
    let to = Buffered {
        taken: Vec::new(),
        failures: 1,
    };
    let stream = sink::Sink::Stream(Box::new(to), sink::Torn::default());
    sink::start(stream, waiting, Arc::clone(&health), sink::AuditMetrics::default()).unwrap();
    let (written, told) = oneshot::channel();
    let line = sink::Line {
        text: "{}\n".to_owned(),
        written: Some(written),
    };
    lines.send(line).await.unwrap();
    assert_eq!(told.await.unwrap(), Err(Unaudited));
    let able = async {
        while !health.is_able(PATIENCE) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), able)
        .await
        .expect("it tries again");
    assert!(parts.all()["audit"].ready);
}

#[test]
fn what_was_torn_goes_on_where_it_was_and_nothing_is_written_twice() {
    let lines = b"{first}\n{second}\n{third}\n";
    for steps in [1, 3, 7, 8, 9, 20, 26] {
        let (mut torn, mut left, mut disk) = (sink::Torn::default(), lines.to_vec(), Full(Vec::new(), 0));
        while torn.write(&mut disk, &mut left).is_err() {
            assert!(lines.ends_with(&left), "what is left begins with a line");
            assert!(left == lines || lines[..lines.len() - left.len()].ends_with(b"\n"));
            disk.1 = steps;
        }
        assert_eq!((disk.0.as_slice(), left.len()), (lines.as_slice(), 0));
    }
}
