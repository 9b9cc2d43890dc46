use proptest::prelude::*;

use super::*;
use crate::weights::testing::{assert_equals_reference, exercise, expected};

const SMALL: &[u8] = include_bytes!("../../../tests/fixtures/small.safetensors");

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn message(bytes: Vec<u8>) -> String {
    match SafeTensors::from_bytes(Path::new("x.safetensors"), bytes) {
        Ok(_) => "read".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn tensors_are_those_of_the_reference_reader() {
    let source = SafeTensors::from_bytes(Path::new("small"), SMALL.to_vec()).unwrap();
    assert_equals_reference(&source, "safetensors");
    assert_eq!(source.metadata().unwrap()["format"], "pt");
}

#[test]
fn rows_come_from_the_whole_tensor() {
    let source = SafeTensors::from_bytes(Path::new("small"), SMALL.to_vec()).unwrap();
    let (_, whole) = expected("safetensors")
        .into_iter()
        .find(|(name, _)| name == "f32")
        .unwrap();
    let table = source.stored_rows("f32").unwrap();
    let rows = table.gather(&[2, 0]).unwrap();
    assert_eq!(rows.shape, [2, 4]);
    assert_eq!(rows.data, [&whole.data[8..12], &whole.data[..4]].concat());
    assert!(matches!(
        table.gather(&[3]),
        Err(WeightsError::RowOutOfRange { row: 3, rows: 3, .. })
    ));
}

#[test]
fn damaged_headers_are_refused() {
    assert!(message(vec![0; 4]).contains("ends at byte 4"));
    assert!(message(file("{", &[])).contains("header"));
    assert!(message([u64::MAX.to_le_bytes().as_slice(), b"{}"].concat()).contains("announced"));
    let one = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(message(file(one, &[0; 8])), "read");
    assert!(message(file(one, &[0; 7])).contains("8 bytes, but 7 follow"));
    assert!(message(file(one, &[0; 9])).contains("8 bytes, but 9 follow"));
    // overlapping tensors, and a shape whose product overflows
    let overlap = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    assert!(message(file(overlap, &[0; 12])).contains("header"));
    let huge = r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}"#;
    assert!(message(file(huge, &[0; 8])).contains("header"));
}

#[test]
fn element_types_that_are_not_read_are_named() {
    let header = r#"{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#;
    let source = SafeTensors::from_bytes(Path::new("x"), file(header, &[0; 2])).unwrap();
    let error = source.load("x").unwrap_err().to_string();
    assert!(error.contains("F8_E4M3") && error.contains("\"x\""), "{error}");
}

/// A folder with two shards and an index.
fn sharded(index: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shard = |name: &str| {
        file(
            &format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#),
            &1f32.to_le_bytes(),
        )
    };
    std::fs::write(folder.path().join("a.safetensors"), shard("first")).unwrap();
    std::fs::write(folder.path().join("b.safetensors"), shard("second")).unwrap();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    folder
}

#[test]
fn shards_are_one_source() {
    let folder = sharded(r#"{"metadata":{},"weight_map":{"first":"a.safetensors","second":"b.safetensors"}}"#);
    let source = crate::weights::open(folder.path()).unwrap();
    assert_eq!(source.names(), ["first", "second"]);
    assert_eq!(
        source.load("second").unwrap(),
        HostTensor {
            shape: vec![1],
            data: vec![1.0]
        }
    );
    assert!(matches!(source.load("third"), Err(WeightsError::MissingTensor { .. })));
    let before = crate::weights::fingerprint(folder.path()).unwrap();
    let one = folder.path().join("b.safetensors");
    let mut bytes = std::fs::read(&one).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&one, bytes).unwrap();
    assert_ne!(crate::weights::fingerprint(folder.path()).unwrap(), before);
}

#[test]
fn an_index_cannot_lead_elsewhere_or_promise_too_much() {
    for (wanted, map) in [
        ("not in the folder", r#"{"first":"../a.safetensors"}"#),
        ("not in the folder", r#"{"first":"/etc/passwd"}"#),
        ("not in the folder", r#"{"first":".."}"#),
        (
            "the index says in b.safetensors",
            r#"{"first":"b.safetensors","second":"a.safetensors"}"#,
        ),
        (
            "does not list it",
            r#"{"first":"a.safetensors","third":"b.safetensors"}"#,
        ),
        (
            "does not have it",
            r#"{"first":"a.safetensors","second":"b.safetensors","third":"b.safetensors"}"#,
        ),
        ("listed twice", r#"{"first":"a.safetensors","first":"b.safetensors"}"#),
        ("not in the folder", r#"{"first":"./a.safetensors"}"#),
        ("c.safetensors", r#"{"first":"c.safetensors"}"#),
        ("index of shards", r#"["first"]"#),
    ] {
        let folder = sharded(&format!(r#"{{"weight_map":{map}}}"#));
        let error = crate::weights::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = exercise(bytes, SafeTensors::from_bytes);
    }

    #[test]
    fn a_mutated_index_never_panics(changes in prop::collection::vec((0..68usize, any::<u8>()), 1..4)) {
        let mut index = br#"{"weight_map": {"first": "a.safetensors", "second": "b.safetensors"}}"#.to_vec();
        for (at, byte) in changes {
            index[at] = byte;
        }
        let folder = sharded("");
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        if let Ok(source) = crate::weights::open(folder.path()) {
            // whatever the index says, it is what the files hold
            prop_assert_eq!(source.names(), ["first", "second"]);
        }
    }

    #[test]
    fn a_truncated_file_is_refused(len in 0..SMALL.len()) {
        prop_assert!(exercise(SMALL[..len].to_vec(), SafeTensors::from_bytes).is_err());
    }

    #[test]
    fn a_mutated_file_never_panics(changes in prop::collection::vec((0..SMALL.len(), any::<u8>()), 1..6)) {
        let mut bytes = SMALL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = exercise(bytes, SafeTensors::from_bytes);
    }
}
