//! The directory of a TIFF, looked at before the decoder allocates what its entries claim: the decoder's own limit for values cannot be set
//! from outside.

use super::DecodeError;

const FORMAT: &str = "TIFF";

/// Bytes that the decoder holds for one value, whatever its size in the file.
const VALUE: u64 = 32;

/// Checks the first directory's values, of which there may be as many as fit into the file and, decoded, into `alloc` bytes. What cannot be
/// read is left to the decoder.
///
/// # Errors
/// [`DecodeError::Damaged`] and [`DecodeError::Limit`].
pub(super) fn check(bytes: &[u8], alloc: u64) -> Result<(), DecodeError> {
    let entries = entries(bytes).unwrap_or_default();
    let value = |tag: u64| entries.iter().find(|e| e.0 == tag).map(|e| e.3);
    // 6 and 7 are JPEG, whose decoder believes what the stream says of its size; a part is a tile or a strip
    if matches!(value(259), Some(6 | 7)) {
        let width = value(322).or(value(256)).unwrap_or(0);
        let height = value(323).or(value(278)).or(value(257)).unwrap_or(0);
        if frames(bytes).any(|(w, h)| w > width || h > height) {
            return Err(DecodeError::Damaged {
                format: FORMAT,
                reason: format!("a JPEG inside is larger than its part of {width}×{height}"),
            });
        }
    }
    for &(tag, kind, count, _) in &entries {
        let size = match kind {
            1 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // text, which is not read; and kinds that do not exist
            _ => continue,
        };
        // tags above JPEG's tables describe, they are not read to decode
        if tag > 347 {
            continue;
        }
        if count.saturating_mul(size) > bytes.len() as u64 {
            return Err(DecodeError::Damaged {
                format: FORMAT,
                reason: format!("its tag {tag} has {count} values, more than the file"),
            });
        }
        if count.saturating_mul(VALUE) > alloc {
            return Err(DecodeError::Limit {
                format: FORMAT,
                what: format!("its tag {tag} has {count} values, {} are allowed", alloc / VALUE),
            });
        }
    }
    Ok(())
}

/// Width and height of everything that looks like the frame header of a JPEG. Inside a stream nothing else can.
fn frames(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let header =
        |b: &[u8]| b[0] == 0xff && matches!(b[1], 0xc0..=0xc2) && usize::from(b[3]) == 8 + 3 * usize::from(b[9]);
    let side = |high: u8, low: u8| u64::from(u16::from_be_bytes([high, low]));
    let found = bytes.windows(10).filter(move |b| b[2] == 0 && header(b));
    found.map(move |b| (side(b[7], b[8]), side(b[5], b[6])))
}

/// Tag, kind, count and, where it is a single number, value of each entry in the first directory; `None` when there is no directory inside the
/// file.
fn entries(bytes: &[u8]) -> Option<Vec<(u64, u64, u64, u64)>> {
    let little = bytes.starts_with(b"II");
    let number = |at: usize, len: usize| -> Option<u64> {
        let raw = bytes.get(at..at.checked_add(len)?)?;
        let digit = |n: u64, b: &u8| n << 8 | u64::from(*b);
        Some(if little {
            raw.iter().rev().fold(0, digit)
        } else {
            raw.iter().fold(0, digit)
        })
    };
    // BigTIFF has wider numbers
    let big = number(2, 2)? == 43;
    let (word, entry, head) = if big { (8, 20, 8) } else { (4, 12, 2) };
    let at = usize::try_from(number(if big { 8 } else { 4 }, word)?).ok()?;
    let n = usize::try_from(number(at, head)?).ok()?;
    // a directory that goes on beyond the file ends with it
    let entries = (0..n).map_while(|i| {
        let at = at.checked_add(head)?.checked_add(i.checked_mul(entry)?)?;
        let kind = number(at + 2, 2)?;
        let value = number(at + 4 + word, if kind == 3 { 2 } else { 4 })?;
        Some((number(at, 2)?, kind, number(at + 4, word)?, value))
    });
    Some(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_all_four_layouts() {
        // one entry: tag 273, kind 4, 5 values
        let classic_little = b"II\x2a\0\x08\0\0\0\x01\0\x11\x01\x04\0\x05\0\0\0\0\0\0\0";
        let classic_big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x11\0\x04\0\0\0\x05\0\0\0\0";
        let wide =
            b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x11\x01\x04\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        for file in [&classic_little[..], classic_big, wide] {
            assert_eq!(entries(file), Some(vec![(273, 4, 5, 0)]));
            assert_eq!(check(file, 5 * VALUE), Ok(()));
            assert_eq!(check(file, 5 * VALUE - 1).unwrap_err().cause(), "over-limit");
            // every prefix is survived
            for n in 0..file.len() {
                let _ = check(&file[..n], 0);
            }
        }
        let mut lies = classic_little.to_vec();
        lies[17] = 0x7f;
        assert_eq!(check(&lies, u64::MAX).unwrap_err().cause(), "damaged");
        // a description may be long, and nobody reads it
        lies[10..14].copy_from_slice(&[14, 1, 2, 0]);
        assert_eq!(check(&lies, 0), Ok(()));
    }
}
