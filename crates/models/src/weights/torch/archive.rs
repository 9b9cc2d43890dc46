//! The layout since PyTorch 1.6: a zip archive with `data.pkl` and an entry for each storage, none of them compressed.
//!
//! Only the central directory says where entries are. Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.

use std::collections::{BTreeMap, HashMap};

use super::legacy::element_types;
use super::pickle::{self, Heap};
use super::{MAX_PICKLE, Places};
use crate::weights::WeightsError;
use crate::weights::file::{DataFile, Scan};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: &[u8] = b"PK\x05\x06";
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
/// Length of an end record without its comment, and the longest comment.
const END_BYTES: u64 = 22;
const MAX_COMMENT: u64 = 0xffff;
/// Length of a directory's entry without its name.
const CENTRAL_BYTES: u64 = 46;
/// The largest central directory and the most entries: far more than a model has tensors.
const MAX_DIRECTORY: u64 = 64 << 20;
const MAX_ENTRIES: u64 = 1 << 17;

/// Whether a file that begins so is a zip archive.
pub(super) fn recognises(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(END)
}

/// Where the content of an entry is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Position of its local header.
    header: u64,
    /// Position of its first byte.
    start: u64,
    /// Its length in the archive.
    bytes: u64,
    /// Neither compressed nor encrypted.
    plain: bool,
}

/// The object, and where its storages are.
pub(super) fn read(file: &DataFile) -> Result<(Heap, Places), WeightsError> {
    let entries = entries(file)?;
    let mut pickles = entries
        .keys()
        .filter_map(|name| name.strip_suffix("/data.pkl"))
        .filter(|folder| !folder.contains('/'));
    let (Some(folder), None) = (pickles.next(), pickles.next()) else {
        return Err(WeightsError::NotRecognised {
            path: file.path().to_owned(),
            looks_like: "a zip archive that torch.save did not write; unpack it first".into(),
        });
    };
    let find = |name: &str| -> Result<Entry, WeightsError> {
        let name = format!("{folder}/{name}");
        let entry = *entries.get(&name).ok_or_else(|| {
            WeightsError::malformed(file.path(), "its zip archive", format!("it has no entry {name}"))
        })?;
        if !entry.plain {
            return Err(WeightsError::unsupported(
                file.path(),
                format!("a compressed or encrypted entry ({name})"),
                "save the model again with torch.save",
            ));
        }
        Ok(entry)
    };
    if entries.contains_key(&format!("{folder}/byteorder")) {
        let order = find("byteorder")?;
        if file.read(order.start, order.bytes.min(16), "its byte order")? != b"little" {
            return Err(WeightsError::unsupported(
                file.path(),
                "a file of big-endian numbers",
                "save it again on a little-endian machine",
            ));
        }
    }
    let object = find("data.pkl")?;
    if object.bytes > MAX_PICKLE {
        return Err(WeightsError::Limit {
            path: file.path().to_owned(),
            place: "the size of its pickle".into(),
            value: object.bytes,
            limit: MAX_PICKLE,
        });
    }
    let heap = pickle::run(&mut file.scan(object.start, object.start + object.bytes))?;
    let mut places = HashMap::new();
    for (key, element) in element_types(file, &heap)? {
        let entry = find(&format!("data/{key}"))?;
        let size = element.size() as u64;
        if entry.bytes % size != 0 {
            let detail = format!("its {} bytes are no whole number of elements", entry.bytes);
            return Err(WeightsError::malformed(
                file.path(),
                format!("storage \"{key}\""),
                detail,
            ));
        }
        places.insert(key.to_owned(), (entry.start, entry.bytes / size));
    }
    Ok((heap, places))
}

/// All entries of an archive by name; each lies within the file, and none over another.
fn entries(file: &DataFile) -> Result<BTreeMap<String, Entry>, WeightsError> {
    let fault = |detail: String| WeightsError::malformed(file.path(), "its zip archive", detail);
    let Directory { count, bytes, start } = directory(file)?;
    let limits = [("entries", count, MAX_ENTRIES), ("bytes", bytes, MAX_DIRECTORY)];
    if let Some(&(what, value, limit)) = limits.iter().find(|(_, value, limit)| value > limit) {
        return Err(WeightsError::Limit {
            path: file.path().to_owned(),
            place: format!("the number of {what} of its zip directory"),
            value,
            limit,
        });
    }
    if count > bytes / CENTRAL_BYTES {
        return Err(fault(format!("{bytes} bytes are no directory of {count} entries")));
    }
    let mut scan = file.scan(start, start + bytes);
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let (name, entry) = central(file, &mut scan, start)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(fault(format!("it has two entries {name:?}")));
        }
    }
    if scan.remaining() != 0 {
        return Err(fault("its directory is longer than its entries".into()));
    }
    let mut places: Vec<&Entry> = entries.values().collect();
    places.sort_by_key(|entry| entry.header);
    // each entry's end was checked against the start of the directory
    if places
        .windows(2)
        .any(|pair| pair[0].start + pair[0].bytes > pair[1].header)
    {
        return Err(fault("two of its entries overlap".into()));
    }
    Ok(entries)
}

/// The central directory.
struct Directory {
    count: u64,
    bytes: u64,
    start: u64,
}

fn directory(file: &DataFile) -> Result<Directory, WeightsError> {
    let fault = |detail: &str| WeightsError::malformed(file.path(), "the end of its zip archive", detail);
    let tail_bytes = file.len().min(END_BYTES + MAX_COMMENT);
    let tail_start = file.len() - tail_bytes;
    let tail = file.read(tail_start, tail_bytes, "its end")?;
    // the last record whose comment ends with the file
    let found = (0..tail.len().saturating_sub(END_BYTES as usize - 1))
        .rev()
        .find(|&at| {
            let comment = u16::from_le_bytes([tail[at + 20], tail[at + 21]]);
            tail[at..].starts_with(END) && at + END_BYTES as usize + usize::from(comment) == tail.len()
        });
    let at = tail_start + found.ok_or_else(|| fault("there is no end record"))? as u64;
    let mut scan = file.scan(at + 4, at + END_BYTES);
    let [disk, first, here, total]: [u16; 4] = numbers(&mut scan)?;
    let (bytes, start) = (scan.u32()?, scan.u32()?);
    let large = here == u16::MAX || total == u16::MAX || bytes == u32::MAX || start == u32::MAX;
    let (directory, end) = if large {
        directory_64(file, at)?
    } else {
        if [disk, first] != [0, 0] || here != total {
            return Err(fault("it is one of several parts"));
        }
        let directory = Directory {
            count: total.into(),
            bytes: bytes.into(),
            start: start.into(),
        };
        (directory, at)
    };
    if directory.start.checked_add(directory.bytes).is_none_or(|e| e > end) {
        return Err(fault("its directory goes beyond it"));
    }
    Ok(directory)
}

/// The directory of an archive too large for 32 bits, and where its end record is.
fn directory_64(file: &DataFile, end: u64) -> Result<(Directory, u64), WeightsError> {
    let fault = |detail: &str| WeightsError::malformed(file.path(), "the end of its zip archive", detail);
    let locator = end
        .checked_sub(20)
        .ok_or_else(|| fault("its 64-bit record is missing"))?;
    let mut scan = file.scan(locator, end);
    if scan.u32()? != LOCATOR_64 {
        return Err(fault("its 64-bit record is missing"));
    }
    let (disk, at, disks) = (scan.u32()?, scan.u64()?, scan.u32()?);
    if disk != 0 || disks > 1 {
        return Err(fault("it is one of several parts"));
    }
    if at.checked_add(56).is_none_or(|e| e > locator) {
        return Err(fault("its 64-bit record is elsewhere"));
    }
    let mut scan = file.scan(at, locator);
    if scan.u32()? != END_64 {
        return Err(fault("its 64-bit record is elsewhere"));
    }
    scan.array::<20>()?; // its length, versions and part numbers
    let (here, count) = (scan.u64()?, scan.u64()?);
    if here != count {
        return Err(fault("it is one of several parts"));
    }
    let directory = Directory {
        count,
        bytes: scan.u64()?,
        start: scan.u64()?,
    };
    Ok((directory, at))
}

/// One entry of the central directory; `limit` is where the directory begins, before which all content lies.
fn central(file: &DataFile, scan: &mut Scan<'_>, limit: u64) -> Result<(String, Entry), WeightsError> {
    if scan.u32()? != CENTRAL {
        return Err(scan.malformed("an entry of the zip directory does not begin as one"));
    }
    let [_, _, flags, method]: [u16; 4] = numbers(scan)?;
    scan.array::<8>()?; // time and checksum
    let (packed, content) = (scan.u32()?, scan.u32()?);
    let [name_len, extra_len, comment_len]: [u16; 3] = numbers(scan)?;
    scan.array::<8>()?; // part number and attributes
    let header = scan.u32()?;
    let name = scan.string(name_len.into())?;
    let extra = scan.bytes(extra_len.into())?;
    scan.bytes(comment_len.into())?;
    let [content, bytes, header] = widened(&extra, [content, packed, header])
        .ok_or_else(|| scan.malformed(format!("the sizes of the zip entry {name:?} are missing")))?;
    let plain = method == 0 && flags & 1 == 0;
    if plain && content != bytes {
        return Err(scan.malformed(format!("the zip entry {name:?} has two different sizes")));
    }
    let beyond = || scan.malformed(format!("the zip entry {name:?} goes beyond the archive"));
    if header.checked_add(30).is_none_or(|end| end > limit) {
        return Err(beyond());
    }
    let mut local = file.scan(header, limit);
    if local.u32()? != LOCAL {
        return Err(local.malformed(format!("the zip entry {name:?} does not begin as one")));
    }
    local.array::<22>()?; // what the directory says as well, and not always here
    let [name_len, extra_len]: [u16; 2] = numbers(&mut local)?;
    if local.string(name_len.into())? != name {
        return Err(local.malformed(format!("the zip entry {name:?} has another name where it is stored")));
    }
    let start = local.position() + u64::from(extra_len);
    if start.checked_add(bytes).is_none_or(|end| end > limit) {
        return Err(beyond());
    }
    let entry = Entry {
        header,
        start,
        bytes,
        plain,
    };
    Ok((name, entry))
}

/// Sizes that do not fit into 32 bits are in the extra field 1, in the order of the record.
fn widened(mut extra: &[u8], short: [u32; 3]) -> Option<[u64; 3]> {
    let mut wide: &[u8] = &[];
    while let Some((&[a, b, c, d], rest)) = extra.split_first_chunk::<4>() {
        let field = rest.get(..u16::from_le_bytes([c, d]).into())?;
        if [a, b] == [1, 0] {
            wide = field;
        }
        extra = &rest[field.len()..];
    }
    let mut sizes = [0; 3];
    for (size, short) in sizes.iter_mut().zip(short) {
        *size = short.into();
        if short == u32::MAX {
            let (value, rest) = wide.split_first_chunk::<8>()?;
            (*size, wide) = (u64::from_le_bytes(*value), rest);
        }
    }
    Some(sizes)
}

fn numbers<const N: usize>(scan: &mut Scan<'_>) -> Result<[u16; N], WeightsError> {
    let mut all = [0; N];
    for number in &mut all {
        *number = u16::from_le_bytes(scan.array()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
