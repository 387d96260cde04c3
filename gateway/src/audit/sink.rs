//! Where lines go: one thread, which writes whatever waits at once.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Unaudited;
use crate::settings::AuditTo;
use crate::status::Part;

/// Most lines that are written at once.
const GROUP: usize = 256;
/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// One line, with its end.
pub(super) struct Line {
    pub(super) text: String,
    /// Told when it has left the process.
    pub(super) written: Option<oneshot::Sender<Result<(), Unaudited>>>,
}

/// Lines, by what became of them.
pub(super) type AuditMetrics = Family<[(&'static str, &'static str); 1], Counter>;

/// How the sink does.
pub(super) struct Health {
    part: Part,
    /// What was given to it was not taken.
    has_failed: AtomicBool,
    /// Since when it takes what it was given, in milliseconds since `epoch`, and one more. 0: it has nothing.
    busy_since: AtomicU64,
    epoch: Instant,
}

impl Health {
    pub(super) fn new(part: Part) -> Self {
        Self {
            part,
            has_failed: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    /// Whether what is to be written is written soon.
    pub(super) fn is_able(&self, patience: Duration) -> bool {
        if self.has_failed.load(Ordering::Acquire) {
            return false;
        }
        let since = self.busy_since.load(Ordering::Acquire);
        let hangs = since != 0 && self.millis() > since + u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        if hangs {
            self.part
                .is_away("writes are refused until it takes what it was given: who reads it may stand still");
        }
        !hangs
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn begins(&self) {
        self.busy_since.store(self.millis() + 1, Ordering::Release);
    }

    pub(super) fn ends(&self, result: &io::Result<()>) {
        self.busy_since.store(0, Ordering::Release);
        match result {
            Ok(()) => self.part.is_ready(""),
            Err(error) => {
                let detail = format!("writes are refused until it can be written: {error}");
                self.part.is_away(&detail);
            }
        }
        self.has_failed.store(result.is_err(), Ordering::Release);
    }
}

/// Begins to write what comes out of `waiting`; ends with it.
pub(super) fn start(
    sink: Sink,
    waiting: mpsc::Receiver<Line>,
    health: Arc<Health>,
    metrics: AuditMetrics,
) -> io::Result<()> {
    let writer = Writer {
        sink,
        owed: Vec::new(),
        health,
        metrics,
    };
    thread::Builder::new()
        .name("tagway-audit".to_owned())
        .spawn(move || writer.serve(waiting))?;
    Ok(())
}

struct Writer {
    sink: Sink,
    /// What was not written yet, from the beginning of a line; who waited was told so.
    owed: Vec<u8>,
    health: Arc<Health>,
    metrics: AuditMetrics,
}

impl Writer {
    fn serve(mut self, mut waiting: mpsc::Receiver<Line>) {
        let mut group = Vec::with_capacity(GROUP);
        let (mut has_failed, mut has_ended) = (false, false);
        loop {
            // What was not taken may be in a buffer below, and nothing owed: it is tried again all the same, for until then nothing comes.
            if has_failed {
                #[allow(clippy::disallowed_methods, reason = "a thread of its own, not the runtime's")]
                thread::sleep(RETRY);
                // Of what had begun before it was known. Nothing begins now.
                while group.len() < GROUP {
                    match waiting.try_recv() {
                        Ok(line) => group.push(line),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => {
                            has_ended = true;
                            break;
                        }
                    }
                }
            } else if waiting.blocking_recv_many(&mut group, GROUP) == 0 {
                return;
            }
            for line in &group {
                self.owed.extend_from_slice(line.text.as_bytes());
            }
            self.health.begins();
            let result = self.sink.write(&mut self.owed);
            has_failed = result.is_err();
            self.health.ends(&result);
            let name = if result.is_ok() { "written" } else { "late" };
            self.metrics
                .get_or_create(&[("result", name)])
                .inc_by(group.len() as u64);
            for line in group.drain(..) {
                if let Some(told) = line.written {
                    // Who left does not care any more.
                    _ = told.send(if result.is_ok() { Ok(()) } else { Err(Unaudited) });
                }
            }
            if has_ended {
                return;
            }
        }
    }
}

/// Where lines go.
pub(super) enum Sink {
    Stream(Box<dyn io::Write + Send>, Torn),
    File(Appended),
}

impl Sink {
    pub(super) fn open(to: &AuditTo) -> io::Result<Self> {
        Ok(match to {
            AuditTo::Stdout => Self::Stream(Box::new(io::stdout()), Torn::default()),
            AuditTo::File(path) => Self::File(Appended::open(path)?),
        })
    }

    /// Writes these lines, and takes off what is written. What is left begins with a line.
    fn write(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Stream(to, torn) => torn.write(to, lines),
            Self::File(file) => file.write(lines),
        }
    }
}

/// How much of the line that is next was written already.
#[derive(Default)]
pub(super) struct Torn(usize);

impl Torn {
    /// Goes on where it was torn, so that nothing is written twice.
    pub(super) fn write(&mut self, to: &mut impl io::Write, lines: &mut Vec<u8>) -> io::Result<()> {
        let mut at = self.0;
        let result = loop {
            let left = lines.get(at..).unwrap_or_default();
            if left.is_empty() {
                break to.flush();
            }
            match to.write(left) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => at += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let written = lines.get(..at).unwrap_or(lines);
        let begins = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.0 = at - begins;
        lines.drain(..begins);
        result
    }
}

/// A file that others may move away, to begin a new one.
pub(super) struct Appended {
    path: PathBuf,
    file: File,
    torn: Torn,
    /// Its last line may be a part of one of somebody's before.
    is_to_be_ended: bool,
}

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        // For its owner alone: it tells which keys there are.
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.file_type().is_fifo() {
            let problem = "a FIFO holds lines that nobody may ever read: name a file, or stdout";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let mut appended = Self {
            path: path.to_owned(),
            file,
            torn: Torn::default(),
            is_to_be_ended: false,
        };
        appended.is_to_be_ended = appended.ends_within_a_line()?;
        Ok(appended)
    }

    fn ends_within_a_line(&mut self) -> io::Result<bool> {
        // What is no file has no end to look at.
        if !self.file.metadata()?.is_file() || self.file.seek(SeekFrom::End(0))? == 0 {
            return Ok(false);
        }
        self.file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        self.file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }

    fn write(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        let is_the_same = |there: Metadata, ours: Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        let there = std::fs::metadata(&self.path).and_then(|there| Ok(is_the_same(there, self.file.metadata()?)));
        if !there.unwrap_or(false) {
            *self = Self::open(&self.path)?;
        }
        if self.is_to_be_ended {
            self.file.write_all(b"\n")?;
            self.is_to_be_ended = false;
        }
        self.torn.write(&mut self.file, lines)
    }
}
