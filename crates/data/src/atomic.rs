//! Files that are either whole or absent, and folders with one writer.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Ending of files that are being written.
const TEMP: &str = ".tmp";

/// Writes a file so that `path` holds either its old content or all of the new, whenever the process or the machine stops.
///
/// The content goes to a temporary file in the same folder, is forced to the disk and takes its name in one step; then the folder is
/// forced to the disk too. When `write` fails the temporary file is removed and `path` is untouched.
///
/// # Errors
/// Whatever the operating system or `write` reports.
pub fn write_atomic<F>(path: &Path, write: F) -> io::Result<()>
where
    F: FnOnce(&mut BufWriter<File>) -> io::Result<()>,
{
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let unique = format!(
        ".{}.{}{TEMP}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    );
    let mut temp_name = std::ffi::OsString::from(".");
    temp_name.push(name);
    temp_name.push(unique);
    let temp = dir.join(temp_name);
    // a file of the same name can only be left over from a dead process that had our id
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temp)?;
    let result = (|| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temp, path)?;
        sync_dir(dir)
    })();
    if result.is_err() {
        // best effort: the first error is the one to report
        let _ = fs::remove_file(&temp);
    }
    result
}

/// Forces a folder's entries to the disk, where the operating system knows such a thing.
///
/// # Errors
/// Whatever the operating system reports.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

/// Removes what killed writers left in a folder: temporary files of [`write_atomic`] that are older than `age`. Gives their number.
///
/// # Errors
/// When the folder cannot be listed; a file that cannot be removed is left.
pub fn remove_stale(dir: &Path, age: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with('.') && name.ends_with(TEMP);
        let old = || {
            let modified = entry.metadata().and_then(|m| m.modified()).ok()?;
            SystemTime::now().duration_since(modified).ok().map(|d| d >= age)
        };
        if ours && old() == Some(true) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("{path} is in use by {holder}; wait until it has finished, or stop it")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who has it, as far as it said so.
        holder: String,
    },
    /// The operating system refused.
    #[error(
        "cannot lock {path}: {source}; check that the folder exists, that you may write there and that its file system has locks"
    )]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The right to be the only writer. It ends when this value is dropped or the process dies, however it dies; the file stays.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock at once or fails; `purpose` tells others what is going on, for example "bifocal train".
    ///
    /// # Errors
    /// [`LockError::Held`] names the holder.
    pub fn acquire(path: &Path, purpose: &str) -> Result<Self, LockError> {
        let io = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // where locks are mandatory the holder's note cannot be read
                let read = Read::by_ref(&mut file).take(1000).read_to_string(&mut holder);
                let holder = match (read, holder.trim()) {
                    (Ok(_), text) if !text.is_empty() => text.to_owned(),
                    _ => "another process".to_owned(),
                };
                return Err(LockError::Held {
                    path: path.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let note = format!("process {} ({purpose})\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .and_then(|()| file.flush())
            .map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn old_content_survives_a_failed_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        let e = write_atomic(&path, |f| {
            f.write_all(&[b'x'; 100_000])?;
            Err(io::Error::new(io::ErrorKind::StorageFull, "disk full"))
        })
        .unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_atomic(&path, |f| f.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.txt"]);
        assert!(write_atomic(Path::new("/"), |_| Ok(())).is_err());
        assert!(write_atomic(&dir.path().join("absent/a"), |_| Ok(())).is_err());
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".a.txt.17.0.tmp", "b.tmp", ".c", "d"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        assert_eq!(remove_stale(dir.path(), Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(remove_stale(dir.path(), Duration::ZERO).unwrap(), 1);
        assert_eq!(names(dir.path()), [".c", "b.tmp", "d"]);
    }

    #[test]
    fn one_writer_and_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FileLock::acquire(&path, "the first").unwrap();
        let e = FileLock::acquire(&path, "the second").unwrap_err();
        let text = e.to_string();
        if cfg!(unix) {
            assert!(
                text.contains(&format!("process {} (the first)", std::process::id())),
                "{text}"
            );
        }
        assert!(matches!(e, LockError::Held { .. }));
        drop(lock);
        FileLock::acquire(&path, "the second").unwrap();
        assert!(matches!(
            FileLock::acquire(&dir.path().join("no/lock"), "x"),
            Err(LockError::Io { .. })
        ));
    }
}
