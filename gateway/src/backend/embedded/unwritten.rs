//! A file that is looked at and left alone: what redb writes while it checks a file stays in memory, and is gone afterwards.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redb::StorageBackend;

use super::OpenError;

const BLOCK: usize = 4096;

/// The file, and what would have been written.
#[derive(Debug)]
pub(super) struct Unwritten {
    file: File,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    bytes: u64,
    /// So much of the file is still what it was.
    of_file: u64,
    /// What was written over it.
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Unwritten {
    /// One that no gateway writes to while it is looked at.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path)?;
        // redb locks what it writes to.
        file.try_lock_shared().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse,
            TryLockError::Error(error) => OpenError::Io(error),
        })?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            over: Mutex::new(Over {
                bytes,
                of_file: bytes,
                blocks: BTreeMap::new(),
            }),
        })
    }

    /// Calls `each` for every block that the range touches: with its number, and where the range lies in it and it in the range.
    fn each(
        at: u64,
        bytes: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < bytes {
            let here = at + done as u64;
            let number = here / BLOCK as u64;
            let within = usize::try_from(here % BLOCK as u64).unwrap_or(0);
            let length = (BLOCK - within).min(bytes - done);
            each(number, within..within + length, done..done + length)?;
            done += length;
        }
        Ok(())
    }

    /// A block as it is in the file. What lies behind its end is zero.
    fn out_of_the_file(&self, number: u64, of_file: u64) -> io::Result<Box<[u8; BLOCK]>> {
        let mut block = Box::new([0; BLOCK]);
        let at = number * BLOCK as u64;
        let there = usize::try_from(of_file.saturating_sub(at)).unwrap_or(BLOCK).min(BLOCK);
        self.file.read_exact_at(&mut block[..there], at)?;
        Ok(block)
    }
}

impl StorageBackend for Unwritten {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over.lock().unwrap_or_else(PoisonError::into_inner).bytes)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if at + out.len() as u64 > over.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::each(at, out.len(), |number, within, of_range| {
            match over.blocks.get(&number) {
                Some(block) => out[of_range].copy_from_slice(&block[within]),
                None => out[of_range].copy_from_slice(&self.out_of_the_file(number, over.of_file)?[within]),
            }
            Ok(())
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        // What is longer again later is zero there. redb's lengths are of whole blocks.
        over.blocks.split_off(&bytes.div_ceil(BLOCK as u64));
        over.of_file = over.of_file.min(bytes);
        over.bytes = bytes;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        Self::each(at, data.len(), |number, within, of_range| {
            if !over.blocks.contains_key(&number) {
                let block = self.out_of_the_file(number, over.of_file)?;
                over.blocks.insert(number, block);
            }
            if let Some(block) = over.blocks.get_mut(&number) {
                block[within].copy_from_slice(&data[of_range]);
            }
            Ok(())
        })
    }
}
