use std::path::Path;

use proptest::prelude::*;

use super::super::Torch;
use crate::weights::testing::{assert_equals_reference, exercise};

const SMALL: &[u8] = include_bytes!("../../../../tests/fixtures/small.pt");
const SCRIPT: &[u8] = include_bytes!("../../../../tests/fixtures/script.pt");

/// An entry as a test wants it; what is `None` is as it should be.
#[derive(Clone, Default)]
struct Made<'a> {
    name: &'a str,
    content: &'a [u8],
    method: u16,
    flags: u16,
    local_name: Option<&'a str>,
    size: Option<u32>,
    header: Option<u32>,
}

fn made<'a>(name: &'a str, content: &'a [u8]) -> Made<'a> {
    Made {
        name,
        content,
        ..Made::default()
    }
}

/// A zip archive; `count` is what its end says.
fn zip(entries: &[Made<'_>], count: Option<u16>) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let header = bytes.len() as u32;
        let size = entry.size.unwrap_or(entry.content.len() as u32).to_le_bytes();
        let local_name = entry.local_name.unwrap_or(entry.name);
        bytes.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend([size, size].concat());
        bytes.extend((local_name.len() as u16).to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(local_name.bytes().chain(entry.content.iter().copied()));
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend([entry.flags.to_le_bytes(), entry.method.to_le_bytes()].concat());
        directory.extend([0; 8]);
        directory.extend([size, size].concat());
        directory.extend((entry.name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(entry.header.unwrap_or(header).to_le_bytes());
        directory.extend(entry.name.bytes());
    }
    let (start, len) = (bytes.len() as u32, directory.len() as u32);
    let count = count.unwrap_or(entries.len() as u16).to_le_bytes();
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count, count].concat());
    bytes.extend([len.to_le_bytes(), start.to_le_bytes(), [0; 4]].concat());
    bytes.truncate(bytes.len() - 2);
    bytes
}

/// A pickle of nothing.
const EMPTY: &[u8] = b"\x80\x02}.";

fn message(bytes: Vec<u8>) -> String {
    match Torch::from_bytes(Path::new("x.pt"), bytes) {
        Ok(_) => "read".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn tensors_are_those_of_the_reference_reader() {
    let open = |bytes: &[u8]| Torch::from_bytes(Path::new("x.pt"), bytes.to_vec()).unwrap();
    assert_equals_reference(&open(SMALL), "torch_zip");
    assert_equals_reference(&open(SCRIPT), "torch_script");
}

#[test]
fn archives_that_contradict_themselves_are_refused() {
    let pickle = made("m/data.pkl", EMPTY);
    assert_eq!(message(zip(std::slice::from_ref(&pickle), None)), "read");
    for (wanted, bytes) in [
        ("torch.save did not write", zip(&[made("readme.txt", b"hello")], None)),
        ("torch.save did not write", zip(&[], None)),
        (
            "torch.save did not write",
            zip(&[pickle.clone(), made("n/data.pkl", EMPTY)], None),
        ),
        ("two entries", zip(&[pickle.clone(), pickle.clone()], None)),
        ("big-endian", zip(&[pickle.clone(), made("m/byteorder", b"big")], None)),
        (
            "no directory of 1000 entries",
            zip(std::slice::from_ref(&pickle), Some(1000)),
        ),
        (
            "longer than its entries",
            zip(&[pickle.clone(), made("m/x", b"")], Some(1)),
        ),
        (
            "compressed or encrypted",
            zip(
                &[Made {
                    method: 8,
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        (
            "compressed or encrypted",
            zip(
                &[Made {
                    flags: 1,
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        (
            "another name where it is stored",
            zip(
                &[Made {
                    local_name: Some("m/data.xyz"),
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        (
            "goes beyond the archive",
            zip(
                &[Made {
                    size: Some(1 << 30),
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        (
            "goes beyond the archive",
            zip(
                &[Made {
                    header: Some(u32::MAX - 1),
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        (
            "does not begin as one",
            zip(
                &[Made {
                    header: Some(1),
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        // sizes that are said to be elsewhere, and are not
        (
            "are missing",
            zip(
                &[Made {
                    size: Some(u32::MAX),
                    ..pickle.clone()
                }],
                None,
            ),
        ),
        ("64-bit record", zip(std::slice::from_ref(&pickle), Some(u16::MAX))),
        (
            "overlap",
            zip(
                &[
                    Made {
                        size: Some(20),
                        ..pickle.clone()
                    },
                    made("m/other", b"........"),
                ],
                None,
            ),
        ),
    ] {
        let found = message(bytes);
        assert!(found.contains(wanted), "{found:?} lacks {wanted:?}");
    }
}

#[test]
fn a_storage_must_be_there_and_of_its_length() {
    let tensor: &[u8] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK\0K\x02\x85K\x01\x85\x89NtR.";
    let with = |content: &[u8]| message(zip(&[made("m/data.pkl", tensor), made("m/data/0", content)], None));
    assert_eq!(with(&[0; 8]), "read");
    assert!(with(&[0; 12]).contains("two different ways"));
    assert!(with(&[0; 7]).contains("no whole number"));
    assert!(message(zip(&[made("m/data.pkl", tensor)], None)).contains("no entry m/data/0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_truncated_file_is_refused(len in 0..SMALL.len()) {
        prop_assert!(exercise(SMALL[..len].to_vec(), Torch::from_bytes).is_err());
    }

    #[test]
    fn a_mutated_file_never_panics(changes in prop::collection::vec((0..SMALL.len(), any::<u8>()), 1..6)) {
        let mut bytes = SMALL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = exercise(bytes, Torch::from_bytes);
    }

    /// Most of an archive's numbers are in its directory.
    #[test]
    fn a_mutated_directory_never_panics(changes in prop::collection::vec((0..900usize, any::<u8>()), 1..4)) {
        let mut bytes = SMALL.to_vec();
        let len = bytes.len();
        for (at, byte) in changes {
            bytes[len - 1 - at] = byte;
        }
        let _ = exercise(bytes, Torch::from_bytes);
    }
}
