//! TFRecord framing, and as much of protocol buffers as scalars and histograms need.
//!
//! A record is its length (u64), a checksum of these eight bytes (u32), the bytes, a checksum of them (u32), all little-endian
//! (TensorFlow, `tsl/lib/io/record_writer.h`). Messages are written with fields in the order of their numbers, as Google's libraries do.

use std::io::{self, Read, Write};

/// Longest record that is written or read: a histogram takes less than a kilobyte.
const LONGEST: u64 = 16 << 20;

/// CRC-32C (Castagnoli, reflected).
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

/// Checksum of a checksummed format within another one: rotated and shifted, so that it is not the plain checksum of what holds it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes
        .iter()
        .fold(!0u32, |c, b| (c >> 8) ^ TABLE[usize::from(c as u8 ^ b)]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Writes a record.
pub(super) fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() as u64 > LONGEST {
        let message = format!("an event of {} bytes; at most {LONGEST} are written", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let length = (bytes.len() as u64).to_le_bytes();
    to.write_all(&length)?;
    to.write_all(&masked_crc(&length).to_le_bytes())?;
    to.write_all(bytes)?;
    to.write_all(&masked_crc(bytes).to_le_bytes())
}

/// Reads the next record into `bytes` and gives its length with framing; `None` at the end and where the file is damaged.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read(from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<Option<u64>> {
    bytes.clear();
    if from.take(12).read_to_end(bytes)? < 12 {
        return Ok(None);
    }
    let (length, crc) = bytes.split_at(8);
    let sound = masked_crc(length).to_le_bytes() == crc;
    let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
    if !sound || length > LONGEST {
        return Ok(None);
    }
    bytes.clear();
    if (from.take(length + 4).read_to_end(bytes)? as u64) < length + 4 {
        return Ok(None);
    }
    let crc = bytes.split_off(length as usize);
    Ok((masked_crc(bytes).to_le_bytes()[..] == crc).then_some(length + 16))
}

/// A message that is being written.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A field of type int64; its default, zero, is not written.
    pub(super) fn int(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field << 3));
            self.varint(value);
        }
    }

    /// A field of type double; its default, zero, is not written.
    pub(super) fn double(&mut self, field: u32, value: f64) {
        if value.to_bits() != 0 {
            self.varint(u64::from(field << 3 | 1));
            self.0.extend(value.to_le_bytes());
        }
    }

    /// A field of type float that is one of several (`oneof`): written even if it is zero.
    pub(super) fn float(&mut self, field: u32, value: f32) {
        self.varint(u64::from(field << 3 | 5));
        self.0.extend(value.to_le_bytes());
    }

    /// A string or a message.
    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// Packed doubles.
    pub(super) fn doubles(&mut self, field: u32, values: &[f64]) {
        let packed: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(field, &packed);
    }
}

/// What the field of type int64 says, zero where it is absent; `None` where `bytes` are no message.
pub(super) fn int_of(mut bytes: &[u8], field: u64) -> Option<u64> {
    let mut found = 0;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let skip = match key & 7 {
            0 => {
                let value = varint(&mut bytes)?;
                if key >> 3 == field {
                    found = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        bytes = bytes.get(skip..)?;
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        // RFC 3720, B.4
        for (bytes, crc) in [
            ([0u8; 32].to_vec(), 0x8a91_36aa_u32),
            (vec![0xff; 32], 0x62a8_ab43),
            ((0..32).collect(), 0x46dd_794e),
            ((0..32).rev().collect(), 0x113f_db5c),
        ] {
            assert_eq!(masked_crc(&bytes), crc.rotate_right(15).wrapping_add(0xa282_ead8));
        }
    }

    #[test]
    fn a_record_with_any_flipped_bit_or_missing_end_is_not_read() {
        let mut whole = Vec::new();
        write(&mut whole, b"some bytes").unwrap();
        let mut bytes = Vec::new();
        assert_eq!(
            read(&mut whole.as_slice(), &mut bytes).unwrap(),
            Some(whole.len() as u64)
        );
        assert_eq!(bytes, b"some bytes");
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&mut damaged.as_slice(), &mut bytes).unwrap(), None, "bit {bit}");
        }
        for end in 0..whole.len() {
            assert_eq!(read(&mut &whole[..end], &mut bytes).unwrap(), None, "{end} bytes");
        }
        // a length that nobody can allocate, under a right checksum
        let mut long = u64::MAX.to_le_bytes().to_vec();
        long.extend(masked_crc(&long).to_le_bytes());
        assert_eq!(read(&mut long.as_slice(), &mut bytes).unwrap(), None);
        assert!(write(&mut Vec::new(), &vec![0; LONGEST as usize + 1]).is_err());
    }

    #[test]
    fn fields_of_all_kinds_are_passed_over() {
        let mut message = Message::default();
        message.double(1, 1.5);
        message.float(6, 0.0);
        message.bytes(3, b"text");
        message.int(2, 300);
        message.doubles(7, &[1.0, 2.0]);
        assert_eq!(int_of(&message.0, 2), Some(300));
        assert_eq!(int_of(&message.0, 9), Some(0));
        assert_eq!(int_of(&message.0[..message.0.len() - 1], 2), None);
        assert_eq!(int_of(&[0x10, 0xff], 2), None);
        assert_eq!(int_of(&[0xff; 11], 2), None);
        assert_eq!(int_of(&[0x0b], 2), None, "groups are none of ours");
        let mut far = Message::default();
        far.0.push(3 << 3 | 2);
        far.varint(u64::MAX);
        assert_eq!(int_of(&far.0, 2), None);
    }
}
