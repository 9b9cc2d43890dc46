//! Bytes of a parquet file under limits: what a page says about its size is looked at before the library allocates for it.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use parquet::column::page::PageReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use crate::source::archive::Archive;

/// Largest page, packed and unpacked. Arrow checks the size of a page after 1024 values only, so that those of pictures can be large.
const MAX_PAGE: u64 = 512 << 20;
/// Most values of a page: Arrow begins a new group of rows, and with it a page, at a million.
const MAX_VALUES: u64 = 4 << 20;
/// Largest description of a file.
const MAX_FOOTER: u64 = 64 << 20;
const MAGIC: &[u8] = b"PAR1";

/// A file that pages are read from.
#[derive(Debug)]
pub(super) struct Source {
    archive: Archive,
    size: u64,
}

impl Source {
    pub fn open(path: &Path) -> io::Result<Self> {
        let size = std::fs::metadata(path)?.len();
        Ok(Self {
            archive: Archive::new(path),
            size,
        })
    }

    pub fn path(&self) -> &Path {
        self.archive.path()
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the end of the file says about the rest.
    pub fn metadata(&self) -> Result<ParquetMetaData> {
        let no = || bad("it does not end as a parquet file does; fetch it again");
        let end = self.size.checked_sub(8).ok_or_else(no)?;
        let tail = self.archive.read(end, 8)?;
        if &tail[4..] != MAGIC {
            return Err(no());
        }
        let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        if length > MAX_FOOTER {
            return Err(bad(&format!(
                "its description has {length} bytes, {MAX_FOOTER} are allowed"
            )));
        }
        let begin = end.checked_sub(length).ok_or_else(no)?;
        ParquetMetaDataReader::decode_metadata(&self.archive.read(begin, length as usize)?)
    }

    /// The pages of a column in a group of rows.
    pub fn pages(self: &Arc<Self>, chunk: &ColumnChunkMetaData) -> Result<Box<dyn PageReader>> {
        let reader = SerializedPageReader::new(Arc::new(Chunks(self.clone())), chunk, 0, None)?;
        Ok(Box::new(reader))
    }
}

fn bad(reason: &str) -> ParquetError {
    ParquetError::General(reason.to_owned())
}

/// The library's view of the file; it reads a header of a page by `get_read` and its content by `get_bytes`.
struct Chunks(Arc<Source>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.size
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let from = From {
            source: self.0.clone(),
            at: start,
            checked: false,
        };
        Ok(BufReader::with_capacity(512, from))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        if length as u64 > MAX_PAGE.min(self.0.size) {
            return Err(bad(&format!("a page has {length} bytes, {MAX_PAGE} are allowed")));
        }
        Ok(self.0.archive.read(start, length)?.into())
    }
}

/// Reads a header of a page. The library makes one before each page, and does not read from it when it knows the header already.
struct From {
    source: Arc<Source>,
    at: u64,
    checked: bool,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.source.size.saturating_sub(self.at).min(buffer.len() as u64) as usize;
        let bytes = self.source.archive.read(self.at, room)?;
        if !std::mem::replace(&mut self.checked, true) {
            check(&bytes).map_err(io::Error::other)?;
        }
        buffer[..room].copy_from_slice(&bytes);
        self.at += room as u64;
        Ok(room)
    }
}

/// Looks at the beginning of a page's header, in the compact protocol of Thrift: kind, unpacked and packed size, perhaps a checksum, then
/// the header of its kind, which begins with the number of values.
fn check(header: &[u8]) -> Result<()> {
    let odd = || bad("a page has a header of an unknown form");
    let mut at = 0;
    let mut byte = || {
        at += 1;
        header.get(at - 1).copied().ok_or_else(odd)
    };
    // a field of kind i32: its difference to the last field's number and its type in one byte, then a zigzag number
    let mut number = |first: Option<u8>| {
        let field = match first {
            Some(field) => field,
            None => byte()?,
        };
        if field != 0x15 {
            return Ok((field, 0));
        }
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let b = byte()?;
            value |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                // negative numbers become large
                return Ok((field, if value & 1 == 0 { value >> 1 } else { u64::MAX }));
            }
        }
        Err(odd())
    };
    let mut facts = [0; 3];
    for fact in &mut facts {
        let (field, value) = number(None)?;
        if field != 0x15 {
            return Err(odd());
        }
        *fact = value;
    }
    let [kind, unpacked, packed] = facts;
    if unpacked > MAX_PAGE || packed > MAX_PAGE {
        return Err(bad(&format!("a page has {unpacked} bytes, {MAX_PAGE} are allowed")));
    }
    let (mut field, _) = number(None)?;
    let mut last = 3;
    if field == 0x15 {
        // a checksum
        (field, _) = number(None)?;
        last = 4;
    }
    // fields 5, 7 and 8 are the headers of data pages, dictionaries and data pages of version 2
    let own = match kind {
        0 => 5,
        2 => 7,
        3 => 8,
        _ => return Err(odd()),
    };
    if field != (own - last) << 4 | 0x0c {
        return Err(odd());
    }
    let (field, values) = number(None)?;
    // an entry of a dictionary has its length at least
    let most = if kind == 2 { unpacked } else { MAX_VALUES };
    if field != 0x15 || values > most {
        return Err(bad(&format!("a page has {values} values in {unpacked} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_held_against_the_limits() {
        let zigzag = |field: u8, mut value: u64| {
            let mut bytes = vec![field];
            value <<= 1;
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
            bytes
        };
        let header = |kind: u64, own: u8, unpacked: u64, values: u64| {
            [
                zigzag(0x15, kind),
                zigzag(0x15, unpacked),
                zigzag(0x15, 9),
                vec![own],
                zigzag(0x15, values),
            ]
            .concat()
        };
        assert!(check(&header(0, 0x2c, 1000, 10)).is_ok());
        assert!(check(&header(2, 0x4c, 1000, 10)).is_ok());
        assert!(check(&header(3, 0x5c, 1000, 10)).is_ok());
        let with_checksum = [
            zigzag(0x15, 0),
            zigzag(0x15, 5),
            zigzag(0x15, 5),
            zigzag(0x15, 12345),
            vec![0x1c],
            zigzag(0x15, 1),
        ];
        assert!(check(&with_checksum.concat()).is_ok());
        for bad in [
            header(0, 0x2c, MAX_PAGE + 1, 10),
            header(0, 0x2c, 1000, MAX_VALUES + 1),
            header(2, 0x4c, 1000, 1001),
            header(1, 0x3c, 1000, 10),
            header(0, 0x4c, 1000, 10),
            vec![0x15, 0x01, 0x15, 0x03, 0x15, 0x05],
            vec![0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            vec![0x15],
            vec![],
        ] {
            assert!(check(&bad).is_err(), "{bad:02x?}");
        }
    }
}
