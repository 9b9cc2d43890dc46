//! What the tests of all formats share.

use std::path::Path;

use serde_json::Value;

use super::{HostTensor, TensorSource, WeightsError};

/// What the reference libraries read from the files that `scripts/fixtures/weights_files.py` wrote.
pub(super) fn expected(format: &str) -> Vec<(String, HostTensor)> {
    let all: Value = serde_json::from_str(include_str!("../../tests/fixtures/weights_files.json")).unwrap();
    let tensors = all[format].as_object().unwrap().iter();
    tensors
        .map(|(name, tensor)| {
            let shape = tensor["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect();
            (
                name.clone(),
                HostTensor {
                    shape,
                    data: floats(tensor["values"].as_str().unwrap()),
                },
            )
        })
        .collect()
}

/// Bytes written in hexadecimal.
pub(super) fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Little-endian floats written in hexadecimal.
pub(super) fn floats(text: &str) -> Vec<f32> {
    hex(text)
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect()
}

/// Bits, so that a comparison is exact and −0 differs from 0.
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Checks names, shapes and values (to the bit) of all tensors of a source.
pub(super) fn assert_equals_reference(source: &dyn TensorSource, format: &str) {
    let mut names = Vec::new();
    for (name, tensor) in expected(format) {
        let loaded = source.load(&name).unwrap();
        assert_eq!(loaded.shape, tensor.shape, "{name}");
        assert_eq!(source.shape(&name).as_ref(), Some(&tensor.shape), "{name}");
        assert_eq!(bits(&loaded.data), bits(&tensor.data), "{name}");
        names.push(name);
    }
    names.sort();
    assert_eq!(source.names(), names);
}

/// Opens hostile bytes and reads everything that the header promises: nothing may panic, and what comes out must stay in
/// proportion to the file.
pub(super) fn exercise<S: TensorSource>(
    bytes: Vec<u8>,
    open: impl Fn(&Path, Vec<u8>) -> Result<S, WeightsError>,
) -> Result<(), WeightsError> {
    let len = bytes.len();
    let source = open(Path::new("hostile"), bytes)?;
    for name in source.names() {
        let shape = source.shape(&name).unwrap();
        if let Ok(tensor) = source.load(&name) {
            assert_eq!(tensor.data.len(), shape.iter().product::<usize>());
            assert!(
                tensor.data.len() <= 4 * len,
                "{} values out of {len} bytes",
                tensor.data.len()
            );
        }
        if let Ok(table) = source.stored_rows(&name) {
            let last = u32::try_from(table.rows().saturating_sub(1)).unwrap_or(u32::MAX);
            let _ = table.gather(&[0, last]);
            assert_eq!(table.gather(&[u32::MAX]).is_err(), table.rows() <= u32::MAX as usize);
        }
    }
    Ok(())
}

/// CRC-32 (IEEE) of all bytes seen so far, as `zlib.crc32` continues one.
pub(super) struct Crc32 {
    table: [u32; 256],
    state: u32,
}

impl Crc32 {
    pub(super) fn new() -> Self {
        let step = |c: u32| {
            if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 }
        };
        let table = std::array::from_fn(|i| (0..8).fold(i as u32, |c, _| step(c)));
        Self { table, state: !0 }
    }

    pub(super) fn update(&mut self, values: &[f32]) {
        for byte in values.iter().flat_map(|v| v.to_le_bytes()) {
            self.state = self.table[((self.state ^ u32::from(byte)) & 255) as usize] ^ (self.state >> 8);
        }
    }

    pub(super) fn value(&self) -> u32 {
        !self.state
    }
}
