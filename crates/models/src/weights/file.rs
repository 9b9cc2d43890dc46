//! Reading a hostile file: positional reads within its length, and a bounds-checked scan of its header.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::WeightsError;

/// How many bytes a scan fetches at once.
const CHUNK: usize = 64 * 1024;

/// A file (or bytes in memory) of known length that can be read at any position.
#[derive(Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    len: u64,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    /// Seek and read belong together, hence the lock.
    File(Mutex<File>),
    Memory(Vec<u8>),
}

impl DataFile {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |e| WeightsError::io(path, e);
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(WeightsError::NotRecognised {
                path: path.to_owned(),
                looks_like: if meta.is_dir() {
                    "a folder".into()
                } else {
                    "a device or pipe".into()
                },
            });
        }
        Ok(Self {
            path: path.to_owned(),
            len: meta.len(),
            backing: Backing::File(Mutex::new(file)),
        })
    }

    /// Takes bytes that are already in memory; `path` is what messages call them.
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            len: bytes.len() as u64,
            backing: Backing::Memory(bytes),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads `len` bytes at `offset`; nothing is allocated unless the file is long enough.
    pub(crate) fn read(&self, offset: u64, len: u64, place: &str) -> Result<Vec<u8>, WeightsError> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        let (Some(_), Ok(size)) = (end, usize::try_from(len)) else {
            return Err(WeightsError::malformed(
                &self.path,
                place,
                format!(
                    "needs {len} bytes at byte {offset}, but the file ends at byte {}",
                    self.len
                ),
            ));
        };
        match &self.backing {
            Backing::Memory(bytes) => {
                // `offset + len` was checked against the length above, so both fit in usize
                let start = offset as usize;
                Ok(bytes[start..start + size].to_vec())
            }
            Backing::File(file) => {
                // a poisoned lock only means that another read failed; each read seeks anew
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = vec![0; size];
                file.seek(SeekFrom::Start(offset))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|e| WeightsError::io(&self.path, e))?;
                Ok(bytes)
            }
        }
    }

    /// The first bytes, at most `len` of them.
    pub(crate) fn head(&self, len: u64) -> Result<Vec<u8>, WeightsError> {
        self.read(0, len.min(self.len), "its beginning")
    }

    /// A forward scan of the bytes from `start`, which never goes beyond byte `limit`.
    pub(crate) fn scan(&self, start: u64, limit: u64) -> Scan<'_> {
        Scan {
            file: self,
            buffer: Vec::new(),
            used: 0,
            position: start,
            end: limit.min(self.len),
            limit,
        }
    }
}

/// A cursor over the header of a file. All numbers are little-endian.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    file: &'a DataFile,
    buffer: Vec<u8>,
    /// How much of `buffer` has been consumed.
    used: usize,
    /// Position in the file of the next unread byte.
    position: u64,
    /// Where the scan must stop: the end of the file, or the limit.
    end: u64,
    limit: u64,
}

impl Scan<'_> {
    /// The position in the file of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// How many bytes may still be read.
    pub(crate) fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// An error at the present position.
    pub(crate) fn malformed(&self, detail: impl Into<String>) -> WeightsError {
        WeightsError::malformed(self.path(), format!("byte {}", self.position), detail)
    }

    /// Checks that `len` more bytes are there, before anything of that size is allocated.
    pub(crate) fn check(&self, len: u64) -> Result<(), WeightsError> {
        if len <= self.remaining() {
            return Ok(());
        }
        let wanted = self.position.saturating_add(len);
        if wanted > self.file.len {
            return Err(self.malformed(format!(
                "{len} more bytes are announced, but the file ends at byte {}",
                self.file.len
            )));
        }
        Err(WeightsError::Limit {
            path: self.path().to_owned(),
            place: "the size of its header".into(),
            value: wanted,
            limit: self.limit,
        })
    }

    /// A field of `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WeightsError> {
        const { assert!(N <= CHUNK) };
        self.check(N as u64)?;
        if self.buffer.len() - self.used < N {
            // refill from the present position; what is left of the old buffer is simply read again
            let len = self.remaining().min(CHUNK as u64);
            self.buffer = self.file.read(self.position, len, "its header")?;
            self.used = 0;
        }
        let mut field = [0; N];
        field.copy_from_slice(&self.buffer[self.used..self.used + N]);
        self.used += N;
        self.position += N as u64;
        Ok(field)
    }

    /// `len` raw bytes.
    pub(crate) fn bytes(&mut self, len: u64) -> Result<Vec<u8>, WeightsError> {
        self.check(len)?;
        let left = (self.buffer.len() - self.used) as u64;
        if len <= left {
            // `len` is at most the buffer's length here
            let field = self.buffer[self.used..self.used + len as usize].to_vec();
            self.used += len as usize;
            self.position += len;
            return Ok(field);
        }
        let field = if len >= CHUNK as u64 {
            let field = self.file.read(self.position, len, "its header")?;
            self.buffer.clear();
            self.used = 0;
            field
        } else {
            let fetch = self.remaining().min(CHUNK as u64);
            self.buffer = self.file.read(self.position, fetch, "its header")?;
            self.used = len as usize;
            self.buffer[..len as usize].to_vec()
        };
        self.position += len;
        Ok(field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WeightsError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WeightsError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WeightsError> {
        self.array().map(u64::from_le_bytes)
    }

    /// `len` bytes that must be UTF-8.
    pub(crate) fn string(&mut self, len: u64) -> Result<String, WeightsError> {
        let at = self.position;
        String::from_utf8(self.bytes(len)?).map_err(|e| {
            WeightsError::malformed(self.path(), format!("byte {at}"), format!("a text is not UTF-8 ({e})"))
        })
    }
}
