use proptest::prelude::*;

use super::*;
use crate::weights::testing::{assert_equals_reference, bits, exercise, expected, floats, hex};

const SMALL: &[u8] = include_bytes!("../../../tests/fixtures/small.gguf");

fn small() -> Gguf {
    Gguf::from_bytes(Path::new("small.gguf"), SMALL.to_vec()).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Gguf, WeightsError> {
    Gguf::from_bytes(Path::new("x.gguf"), bytes)
}

#[test]
fn every_type_expands_to_the_reference_bits() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/gguf_dequant.json")).unwrap();
    let codes = (0..64).filter_map(|code| GgmlType::from_code(code).ok());
    let mut seen = 0;
    for storage in codes {
        let Some(case) = fixture.get(format!("{storage:?}")) else {
            continue;
        };
        let blocks = hex(case["blocks"].as_str().unwrap());
        assert_eq!(blocks.len() % storage.block_bytes(), 0, "{storage:?}");
        let mut values = Vec::new();
        storage.dequantize(&blocks, &mut values);
        assert_eq!(values.len(), blocks.len() / storage.block_bytes() * storage.block_len());
        assert_eq!(
            bits(&values),
            bits(&floats(case["values"].as_str().unwrap())),
            "{storage:?}"
        );
        seen += 1;
    }
    assert_eq!(
        seen,
        fixture.as_object().unwrap().len(),
        "a type of the fixture was not tested"
    );
}

#[test]
fn tensors_are_those_of_the_reference_reader() {
    assert_equals_reference(&small(), "gguf");
}

#[test]
fn metadata_of_every_type() {
    let gguf = small();
    let get = |key: &str| gguf.metadata()[key].clone();
    for (key, value) in [
        ("t.u8", 250),
        ("t.u16", 65000),
        ("t.u32", 4_000_000_000),
        ("t.u64", (1 << 63) + 5),
    ] {
        assert_eq!(get(key), GgufValue::Unsigned(value), "{key}");
    }
    for (key, value) in [("t.i8", -7), ("t.i16", -300), ("t.i32", -70_000), ("t.i64", -(1 << 40))] {
        assert_eq!(get(key), GgufValue::Signed(value), "{key}");
    }
    assert_eq!(get("t.f32"), GgufValue::Float(1.5));
    assert_eq!(get("t.f64"), GgufValue::Float(0.1));
    assert_eq!(get("t.bool"), GgufValue::Bool(true));
    assert_eq!(get("t.string").as_str(), Some("zwei Linsen – ein Fokus"));
    assert_eq!(get("t.strings").as_strings().unwrap(), ["a", "", "ü"]);
    assert_eq!(get("t.integers").as_integers().unwrap(), [1, -2, 3]);
    assert_eq!(get("t.floats").as_floats().unwrap(), [0.5, -1.0]);
    assert_eq!(
        gguf.require("general.architecture", GgufValue::as_str).unwrap(),
        "llama"
    );
    let missing = gguf
        .require("llama.block_count", GgufValue::as_u64)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("\"llama.block_count\" is missing"), "{missing}");
    let wrong = gguf.optional("t.string", GgufValue::as_u64).unwrap_err().to_string();
    assert!(wrong.contains("wrong type"), "{wrong}");
    assert_eq!(gguf.optional("t.nothing", GgufValue::as_u64).unwrap(), None);
}

#[test]
fn rows_are_expanded_without_the_rest() {
    let gguf = small();
    let (_, table) = expected("gguf").into_iter().find(|(name, _)| name == "table").unwrap();
    let wanted: Vec<f32> = [5, 0, 5]
        .iter()
        .flat_map(|r| table.data[r * 64..(r + 1) * 64].to_vec())
        .collect();
    let rows = gguf.stored_rows("table").unwrap();
    assert_eq!((rows.rows(), rows.width(), rows.bytes()), (6, 64, 6 * 2 * 34));
    let gathered = rows.gather(&[5, 0, 5]).unwrap();
    assert_eq!((gathered.shape, bits(&gathered.data)), (vec![3, 64], bits(&wanted)));
    let error = rows.gather(&[6]).unwrap_err().to_string();
    assert!(error.contains("row 6") && error.contains("has 6"), "{error}");
    // an unquantised vector has rows of one element
    let norm = gguf.stored_rows("norm").unwrap();
    assert_eq!(norm.gather(&[6, 1]).unwrap().shape, [2, 1]);
}

#[test]
fn shapes_are_checked_and_names_suggested() {
    let gguf = small();
    let error = gguf.load_shaped("w4", &[32, 3]).unwrap_err();
    assert!(matches!(error, WeightsError::ShapeMismatch { .. }), "{error}");
    assert!(gguf.load_shaped("w4", &[3, 32]).is_ok());
    assert!(matches!(gguf.load("w9"), Err(WeightsError::MissingTensor { .. })));
}

/// A header of our own making.
fn header(version: u32, tensors: u64, metadata: u64, rest: &[u8]) -> Vec<u8> {
    [
        b"GGUF".as_slice(),
        &version.to_le_bytes(),
        &tensors.to_le_bytes(),
        &metadata.to_le_bytes(),
        rest,
    ]
    .concat()
}

fn tensor(name: &str, sizes: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let mut bytes = [
        &(name.len() as u64).to_le_bytes(),
        name.as_bytes(),
        &(sizes.len() as u32).to_le_bytes(),
    ]
    .concat();
    bytes.extend(sizes.iter().flat_map(|s| s.to_le_bytes()));
    bytes.extend(code.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn versions_and_byte_orders_that_are_not_read_are_named() {
    assert!(open(header(2, 0, 0, &[])).is_ok());
    let message = |version| open(header(version, 0, 0, &[])).unwrap_err().to_string();
    assert!(message(1).contains("GGUF version 1"));
    assert!(message(3u32.swap_bytes()).contains("big-endian"));
}

#[test]
fn announced_sizes_are_checked_before_memory_is_taken() {
    let kinds: [(&str, Vec<u8>); 9] = [
        ("number of tensors", header(3, u64::MAX, 0, &[])),
        ("number of metadata", header(3, 0, 1 << 40, &[])),
        // a key of 2^60 bytes
        ("more bytes are announced", header(3, 0, 1, &(1u64 << 60).to_le_bytes())),
        // an array of 2^40 and one of 2^20 texts
        (
            "number of elements",
            header(
                3,
                0,
                1,
                &[
                    &[0; 8][..],
                    &9u32.to_le_bytes(),
                    &8u32.to_le_bytes(),
                    &(1u64 << 40).to_le_bytes(),
                ]
                .concat(),
            ),
        ),
        (
            "more bytes are announced",
            header(
                3,
                0,
                1,
                &[
                    &[0; 8][..],
                    &9u32.to_le_bytes(),
                    &8u32.to_le_bytes(),
                    &(1u64 << 20).to_le_bytes(),
                ]
                .concat(),
            ),
        ),
        ("too large", header(3, 1, 0, &tensor("x", &[1 << 40, 1 << 40], 0, 0))),
        ("too large", header(3, 1, 0, &tensor("x", &[0, 1 << 40, 1 << 40], 0, 0))),
        ("beyond the end", header(3, 1, 0, &tensor("x", &[1 << 30], 0, 0))),
        ("beyond the end", header(3, 1, 0, &tensor("x", &[1], 0, u64::MAX - 31))),
    ];
    for (wanted, bytes) in kinds {
        let message = open(bytes).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message:?} lacks {wanted:?}");
    }
}

#[test]
fn contradictions_in_tensors_are_found() {
    let data = [0; 64];
    for (wanted, body) in [
        ("no whole blocks", tensor("x", &[33], 8, 0)),
        ("no multiple of 32", tensor("x", &[1], 0, 4)),
        ("axes", tensor("x", &[1; 9], 0, 0)),
        // a scalar cannot be a block of 32
        ("no whole blocks", tensor("x", &[], 2, 0)),
        ("IQ4_XS", tensor("x", &[256], 23, 0)),
        ("(99)", tensor("x", &[256], 99, 0)),
    ] {
        let message = open(header(3, 1, 0, &[&body[..], &data].concat()))
            .unwrap_err()
            .to_string();
        assert!(message.contains(wanted), "{message:?} lacks {wanted:?}");
    }
    let twice = [tensor("x", &[1], 0, 0), tensor("x", &[1], 0, 0), data.to_vec()].concat();
    assert!(
        open(header(3, 2, 0, &twice))
            .unwrap_err()
            .to_string()
            .contains("two tensors")
    );
}

#[test]
fn nested_arrays_end_somewhere() {
    let mut nested = vec![0; 8];
    nested.extend(9u32.to_le_bytes());
    for _ in 0..1000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    assert!(
        open(header(3, 0, 1, &nested))
            .unwrap_err()
            .to_string()
            .contains("depth")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic: bool) {
        let bytes = if magic { [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat() } else { bytes };
        let _ = exercise(bytes, Gguf::from_bytes);
    }

    #[test]
    fn a_truncated_file_is_refused(len in 0..SMALL.len()) {
        // the writer pads the last tensor, whose padding may be missing
        let whole = SMALL.len() - SMALL.iter().rev().take_while(|&&b| b == 0).count();
        prop_assert!(len >= whole || exercise(SMALL[..len].to_vec(), Gguf::from_bytes).is_err());
    }

    #[test]
    fn a_mutated_file_never_panics(changes in prop::collection::vec((0..SMALL.len(), any::<u8>()), 1..6)) {
        let mut bytes = SMALL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = exercise(bytes, Gguf::from_bytes);
    }
}
