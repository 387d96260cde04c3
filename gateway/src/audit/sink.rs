//! Where lines go: one thread, which writes whatever waits at once.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

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

/// Begins to write what comes out of `waiting`; ends with it.
pub(super) fn start(
    to: &AuditTo,
    waiting: mpsc::Receiver<Line>,
    part: Part,
    is_able: Arc<AtomicBool>,
) -> io::Result<()> {
    let sink = Sink::open(to)?;
    let writer = Writer {
        sink,
        owed: Vec::new(),
        part,
        is_able,
    };
    thread::Builder::new()
        .name("tagway-audit".to_owned())
        .spawn(move || writer.serve(waiting))?;
    Ok(())
}

struct Writer {
    sink: Sink,
    /// What was not written yet, and whose callers were told so.
    owed: Vec<u8>,
    part: Part,
    is_able: Arc<AtomicBool>,
}

impl Writer {
    fn serve(mut self, mut waiting: mpsc::Receiver<Line>) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            if self.owed.is_empty() {
                if waiting.blocking_recv_many(&mut group, GROUP) == 0 {
                    return;
                }
            } else {
                #[allow(clippy::disallowed_methods, reason = "a thread of its own, not the runtime's")]
                thread::sleep(RETRY);
                match waiting.try_recv() {
                    Ok(line) => group.push(line),
                    Err(mpsc::error::TryRecvError::Empty) => {}
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
            let mut bytes = std::mem::take(&mut self.owed);
            for line in &group {
                bytes.extend_from_slice(line.text.as_bytes());
            }
            let written = match self.sink.write(&bytes) {
                Ok(()) => {
                    self.part.is_ready("");
                    self.is_able.store(true, Ordering::Release);
                    Ok(())
                }
                Err(error) => {
                    self.is_able.store(false, Ordering::Release);
                    self.part
                        .is_away(&format!("writes are refused until it can be written: {error}"));
                    self.owed = bytes;
                    Err(Unaudited)
                }
            };
            for line in group.drain(..) {
                if let Some(told) = line.written {
                    // Who left does not care any more.
                    _ = told.send(written);
                }
            }
        }
    }
}

enum Sink {
    Stdout,
    File(Appended),
}

impl Sink {
    fn open(to: &AuditTo) -> io::Result<Self> {
        Ok(match to {
            AuditTo::Stdout => Self::Stdout,
            AuditTo::File(path) => Self::File(Appended::open(path)?),
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File(file) => file.write(lines),
        }
    }
}

/// A file that others may move away, to begin a new one.
struct Appended {
    path: PathBuf,
    file: File,
    /// Its last line may be a part of one.
    is_torn: bool,
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
        let mut appended = Self {
            path: path.to_owned(),
            file,
            is_torn: false,
        };
        appended.is_torn = appended.ends_within_a_line()?;
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

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let is_the_same = |there: Metadata, ours: Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        let there = std::fs::metadata(&self.path).and_then(|there| Ok(is_the_same(there, self.file.metadata()?)));
        if !there.unwrap_or(false) {
            *self = Self::open(&self.path)?;
        }
        if self.is_torn {
            self.file.write_all(b"\n")?;
        }
        self.is_torn = true;
        self.file.write_all(lines)?;
        self.is_torn = false;
        Ok(())
    }
}
