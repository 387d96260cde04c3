//! A folder of the gateway's own: what lies in it is for nobody else, and a file in it is whole or as it was before.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

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
    /// Makes the folder, or sees that it is nobody else's.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FolderError::Open(mode));
        }
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
        NamedTempFile::new_in(&self.0)
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
