//! The file of a graph: a header, the items that it covers, the library's own bytes, and a hash over all of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use crate::store::ModelId;

use super::Covered;

const MAGIC: [u8; 8] = *b"BFCHNSW\0";
/// Changes with the layout below and with what [`super::new_index`] asks for.
const FORMAT: u32 = 1;
/// Magic, format, width, items, rows, bytes of the nodes, hash of the model's fingerprint.
const HEADER: usize = 8 + 4 + 4 + 8 + 8 + 8 + 32;
const PER_ITEM: usize = 8 + 8 + 4;
const HASH: usize = 32;
/// Of a file with so many times more rows than there are now, nearly nothing would be left.
const MOST_GONE: usize = 4;
/// Bytes of a row's links and of its place at most, on average.
const LINKS_BYTES: usize = 1024;

/// What tells one version of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::local) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

impl Stamp {
    /// `None`: there is no file.
    pub(in crate::local) fn of(path: &Path) -> Option<Self> {
        let facts = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: facts.modified().ok(),
            bytes: facts.len(),
        })
    }
}

/// What a sound file covers.
pub(in crate::local) struct Facts {
    pub(in crate::local) items: u64,
    /// The largest id.
    pub(in crate::local) last: i64,
}

impl Facts {
    /// `None` when the file is missing, damaged, or not of this model. The library's bytes are not looked into.
    pub(in crate::local) fn of(path: &Path, model: &ModelId, rows: usize) -> Option<Self> {
        let (items, _) = read(path, model, rows)?;
        Some(Self {
            items: items.len() as u64,
            last: items.last()?.id,
        })
    }
}

/// The items, and the bytes of the nodes; `rows` are those that are there now.
pub(super) fn read(path: &Path, model: &ModelId, rows: usize) -> Option<(Vec<Covered>, Vec<u8>)> {
    let mut file = File::open(path).ok()?;
    let mut header = [0; HEADER];
    file.read_exact(&mut header).ok()?;
    let mut expected = [0; HEADER];
    put_header(&mut expected, model, [0; 3]);
    let is_known = header[..16] == expected[..16] && header[40..] == expected[40..];
    let mut counts = header[16..40]
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&n| usize::try_from(u64::from_le_bytes(n)));
    let mut count = || counts.next()?.ok();
    let (items, covered, nodes) = (count()?, count()?, count()?);
    // Nothing is allocated before these are plausible.
    let most = rows.checked_mul(MOST_GONE)?.checked_add(1 << 16)?;
    if !is_known || covered > most || items > covered || nodes > (covered + 1).checked_mul(model.dim + LINKS_BYTES)? {
        return None;
    }
    let rest = items * PER_ITEM + nodes + HASH;
    if file.metadata().ok()?.len() != (HEADER + rest) as u64 {
        return None;
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(rest).ok()?;
    file.take(rest as u64).read_to_end(&mut bytes).ok()?;
    let (content, hash) = bytes.split_at_checked(rest - HASH)?;
    if *blake3::Hasher::new()
        .update(&header)
        .update(content)
        .finalize()
        .as_bytes()
        != hash
    {
        return None;
    }
    let table: Vec<Covered> = content[..items * PER_ITEM]
        .as_chunks::<PER_ITEM>()
        .0
        .iter()
        .map(|item| Covered {
            id: i64::from_le_bytes(item[..8].try_into().unwrap_or_default()),
            hash: u64::from_le_bytes(item[8..16].try_into().unwrap_or_default()),
            rows: u32::from_le_bytes(item[16..].try_into().unwrap_or_default()),
        })
        .collect();
    let sum: u64 = table.iter().map(|item| u64::from(item.rows)).sum();
    if sum != covered as u64 || !table.is_sorted_by(|a, b| a.id < b.id) {
        return None;
    }
    bytes.truncate(rest - HASH);
    bytes.drain(..items * PER_ITEM);
    Some((table, bytes))
}

/// Writes the file so that `path` holds either what it held before or all of the new. Only the writer of the store calls it.
pub(super) fn write(path: &Path, model: &ModelId, items: &[Covered], nodes: &[u8]) -> io::Result<()> {
    let rows: u64 = items.iter().map(|item| u64::from(item.rows)).sum();
    let mut head = vec![0; HEADER];
    put_header(&mut head, model, [items.len() as u64, rows, nodes.len() as u64]);
    for item in items {
        head.extend(item.id.to_le_bytes());
        head.extend(item.hash.to_le_bytes());
        head.extend(item.rows.to_le_bytes());
    }
    let hash = blake3::Hasher::new().update(&head).update(nodes).finalize();
    // What a killed writer leaves is written over by the next one.
    let beside = path.with_extension("hnsw.tmp");
    let mut file = File::create(&beside)?;
    let mut fill = || {
        file.write_all(&head)?;
        file.write_all(nodes)?;
        file.write_all(hash.as_bytes())?;
        file.sync_all()
    };
    let result = fill().and_then(|()| std::fs::rename(&beside, path));
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&beside);
    }
    result
}

fn put_header(header: &mut [u8], model: &ModelId, counts: [u64; 3]) {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        header[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC);
    put(&FORMAT.to_le_bytes());
    put(&(model.dim as u32).to_le_bytes());
    counts.iter().for_each(|n| put(&n.to_le_bytes()));
    put(blake3::hash(model.fingerprint.as_bytes()).as_bytes());
}
