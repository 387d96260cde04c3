//! A folder of the gateway's own: what lies in it is for nobody else, and a file in it is whole or as it was before.

use std::fs::{self, DirBuilder, DirEntry, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

/// How the name of a file begins that is not whole yet.
const UNFINISHED: &str = ".unfinished-";
/// Nobody writes any more what nobody wrote for so long.
const ABANDONED: Duration = Duration::from_mins(1);

/// One that is there.
#[derive(Debug, Clone)]
pub struct PrivateFolder(PathBuf);

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be made or looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Others than the gateway may look into it.
    #[error("the folder has the mode {0:o}, and holds what is nobody else's: make it 700")]
    Open(u32),
    /// What is in it was damaged, or written by another release.
    #[error(
        "`{file}` in it cannot be read: {error}; it says what is pinned and disabled: mend it, or remove it to begin anew"
    )]
    Unreadable {
        /// Which file.
        file: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl PrivateFolder {
    /// Makes the folder, or sees that it is nobody else's. What a process left in it that ended before its file was whole is removed.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FolderError::Open(mode));
        }
        remove_abandoned(path, UNFINISHED)?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of that name, to be written and then [kept](Self::keep).
    pub fn begin(&self) -> io::Result<NamedTempFile> {
        // Made for its owner alone.
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.0)
    }

    /// What was written becomes the file of that name, whole, also if power is lost.
    pub fn keep(&self, file: NamedTempFile, name: &str) -> io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(self.0.join(name)).map_err(|error| error.error)?;
        File::open(&self.0)?.sync_all()
    }

    /// Writes the file of that name, whole.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.begin()?;
        file.write_all(bytes)?;
        self.keep(file, name)
    }

    /// What the file of that name holds; nothing if there is none.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Removes the files in that folder whose names begin so, and that nobody writes any more. One that is being written is young: another
/// process may be at it.
pub(crate) fn remove_abandoned(folder: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_unfinished = entry.file_name().to_string_lossy().starts_with(prefix);
        let age = |entry: &DirEntry| entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_unfinished && age(&entry).is_some_and(|age| age > ABANDONED) {
            // Another process may just have removed it. What stays takes room and no more.
            _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use super::*;

    #[test]
    fn what_a_process_left_unfinished_is_removed_and_what_is_being_written_stays() {
        let parent = tempfile::TempDir::new().unwrap();
        let path = parent.path().join("own");
        let folder = PrivateFolder::open(&path).unwrap();
        folder.write("whole", b"x").unwrap();
        let (_, left) = folder.begin().unwrap().keep().unwrap();
        let young = folder.begin().unwrap();
        for old in [&left, &path.join("whole")] {
            let file = File::options().write(true).open(old).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified - 2 * ABANDONED).unwrap();
        }
        PrivateFolder::open(&path).unwrap();
        assert!(!left.exists());
        assert!(young.path().exists());
        assert_eq!(folder.read("whole").unwrap().as_deref(), Some(&b"x"[..]));
    }
}
