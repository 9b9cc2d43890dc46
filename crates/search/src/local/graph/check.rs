//! Whether the library's bytes are what it would have written: it follows every link that it reads, wherever it leads.
//!
//! Layout of usearch 2 (little-endian): the vectors (`u32` rows, `u32` bytes each, rows), 64 bytes of facts, the graph's header (five `u64`), a
//! level for each node (`i16`), and the nodes: key (`u64`), level (`i16`), and for each layer a count and links (`u32`), of which all places exist.

use super::LINKS;

/// Facts: magic, version (three `u16`), then metric, kinds of scalar, key and link, present, deleted, width, and whether keys repeat.
const FACTS: usize = 64;
const MAGIC: &[u8] = b"usearch";
/// Inner product, `i8`, `u64`, `u32`, as the library numbers them.
const KINDS: [u8; 4] = [b'i', 23, 14, 15];
/// The library's choice of how many links the lowest layer has.
const LINKS_BASE: usize = 2 * LINKS;
/// Levels are drawn with a probability that falls by [`LINKS`] each: none is ever this high.
const MOST_LEVELS: usize = 32;

/// Reads numbers off the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    fn number<const N: usize>(&mut self) -> Option<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        usize::try_from(u64::from_le_bytes(wide)).ok()
    }
}

/// Whether these are the bytes of a graph with `rows` nodes, numbered in the order of their keys, whose links all lead to nodes of that layer.
pub(super) fn is_sound(bytes: &[u8], dim: usize, rows: usize) -> bool {
    check(bytes, dim, rows).is_some()
}

fn check(bytes: &[u8], dim: usize, rows: usize) -> Option<()> {
    let mut bytes = Bytes(bytes);
    let expect = |is: bool| is.then_some(());
    expect(bytes.number::<4>()? == rows && bytes.number::<4>()? == dim)?;
    bytes.take(rows.checked_mul(dim)?)?;
    let mut facts = Bytes(bytes.take(FACTS)?);
    expect(facts.take(MAGIC.len())? == MAGIC)?;
    facts.take(6)?;
    expect(facts.take(KINDS.len())? == KINDS)?;
    expect(facts.number::<8>()? == rows && facts.number::<8>()? == 0 && facts.number::<8>()? == dim)?;
    expect(facts.take(1)? == [0])?;
    expect(bytes.number::<8>()? == rows && bytes.number::<8>()? == LINKS && bytes.number::<8>()? == LINKS_BASE)?;
    let (most, entry) = (bytes.number::<8>()?, bytes.number::<8>()?);
    let mut levels = Bytes(bytes.take(rows.checked_mul(2)?)?);
    let levels: Vec<usize> = (0..rows).map(|_| levels.number::<2>()).collect::<Option<_>>()?;
    expect(levels.iter().all(|&level| level <= most && level < MOST_LEVELS))?;
    expect(rows == 0 || levels.get(entry) == Some(&most))?;
    for (node, &level) in levels.iter().enumerate() {
        expect(bytes.number::<8>()? == node && bytes.number::<2>()? == level)?;
        for layer in 0..=level {
            let places = if layer == 0 { LINKS_BASE } else { LINKS };
            let count = bytes.number::<4>()?;
            let mut links = Bytes(bytes.take(4 * places)?);
            expect(count <= places)?;
            for _ in 0..count {
                let to = links.number::<4>()?;
                expect(levels.get(to).is_some_and(|&level| level >= layer))?;
            }
        }
    }
    expect(bytes.0.is_empty())
}
