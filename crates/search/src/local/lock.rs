//! One writer at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::StoreError;

/// Holds the writer's lock until it is dropped or its process ends in any way: the operating system gives it back.
#[derive(Debug)]
pub(super) struct WriterLock {
    file: File,
}

impl WriterLock {
    /// Takes the lock of the store in `dir` with the file `file`.
    pub(super) fn take(dir: &Path, file: &Path) -> Result<Self, StoreError> {
        let fail = |action| {
            move |source| StoreError::Io {
                path: file.to_owned(),
                action,
                source,
            }
        };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)
            .map_err(fail("cannot be opened for writing"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    path: dir.to_owned(),
                    holder: holder(&mut lock),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fail("cannot be locked")(source)),
        }
        // Only for the message of a second writer; the lock holds without it.
        let mut note = || -> std::io::Result<()> {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())
        };
        note().map_err(fail("cannot be written"))?;
        Ok(Self { file: lock })
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a process that is being started just now and has a copy of the handle until it runs.
        // A failure cannot be told here, and closing comes next anyway.
        let _ = self.file.unlock();
    }
}

/// Who wrote its process id into the lock file.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.take(20).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(id)) if id == std::process::id() => "this process".to_owned(),
        (Ok(_), Ok(id)) => format!("process {id}"),
        _ => "another process".to_owned(),
    }
}
