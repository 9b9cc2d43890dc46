//! Large files that many pictures are read from, by position, from any thread.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that stay open; those beyond are opened for each read, since a process may have 1024 files open on most systems.
const MOST_OPEN: usize = 256;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A file that is opened when it is first read.
pub struct Archive {
    path: PathBuf,
    file: OnceLock<File>,
}

impl Archive {
    /// Of the file at a path; it is not touched yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: OnceLock::new(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Exactly `length` bytes from `offset`. The caller has held `length` against a limit.
    ///
    /// # Errors
    /// When the file has fewer.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.with(|file| read_exact_at(file, &mut bytes, offset))?;
        Ok(bytes)
    }

    fn with<R>(&self, read: impl FnOnce(&File) -> io::Result<R>) -> io::Result<R> {
        if let Some(file) = self.file.get() {
            return read(file);
        }
        let file = File::open(&self.path)?;
        let kept = OPEN.fetch_add(1, Ordering::Relaxed) < MOST_OPEN;
        let other = if kept { self.file.set(file).err() } else { Some(file) };
        match other {
            None => read(self.file.get().ok_or(io::ErrorKind::Other)?),
            // too many are open, or another thread was faster
            Some(file) => {
                OPEN.fetch_sub(1, Ordering::Relaxed);
                read(&file)
            }
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if self.file.get().is_some() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl PartialEq for Archive {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Archive {}

impl Hash for Archive {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
