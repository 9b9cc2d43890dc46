use proptest::prelude::*;

use super::*;
use crate::weights::testing::{assert_equals_reference, exercise};

const SMALL: &[u8] = include_bytes!("../../../tests/fixtures/small.legacy.pth");

fn small() -> Torch {
    Torch::from_bytes(Path::new("small.pth"), SMALL.to_vec()).unwrap()
}

/// A file whose object is the given pickle (without its STOP), with no storages.
fn with_object(object: &[u8]) -> Vec<u8> {
    [
        legacy::MAGIC,
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}.",
        b"\x80\x02",
        object,
        b".",
        b"\x80\x02].",
    ]
    .concat()
}

fn message(object: &[u8]) -> String {
    match Torch::from_bytes(Path::new("x.pth"), with_object(object)) {
        Ok(_) => "read".into(),
        Err(e) => e.to_string(),
    }
}

/// The instructions for a text.
fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

/// The instructions for a tensor of f32: its storage of `len` elements under the key "k".
fn tensor(len: u32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |n: i32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let list = |ns: &[i32]| [b"(".to_vec(), ns.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat();
    let parts = [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("k"),
        text("cpu"),
        int(len as i32),
        b"NtQ".to_vec(),
        int(offset),
        list(shape),
        list(strides),
        b"\x89NtR".to_vec(),
    ];
    parts.concat()
}

/// A file with one tensor and a storage of `stored` elements.
fn with_tensor(tensor: &[u8], stored: u64) -> Vec<u8> {
    let mut bytes = [
        legacy::MAGIC,
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}.",
        b"\x80\x02",
        tensor,
        b".",
        b"\x80\x02]",
    ]
    .concat();
    bytes.extend(text("k"));
    bytes.extend(b"a.");
    bytes.extend(stored.to_le_bytes());
    bytes.extend((0..stored.min(100)).flat_map(|i| (i as f32).to_le_bytes()));
    bytes
}

#[test]
fn tensors_are_those_of_the_reference_reader() {
    assert_equals_reference(&small(), "legacy_pth");
}

#[test]
fn nothing_but_tensors_is_known() {
    let evil = message(b"cposix\nsystem\n(X\x02\0\0\0lstR");
    assert!(
        evil.contains("the pickled global posix.system") && evil.contains("not supported"),
        "{evil}"
    );
    assert!(message(b"cbuiltins\neval\n").contains("builtins.eval"));
    assert!(message(b"ccollections\nOrderedDict\n)\x81").contains("NEWOBJ (0x81)"));
    assert!(message(b"(iposix\nsystem\n").contains("INST"));
    assert!(message(b"\xff").contains("0xff"));
    assert!(message(b"]}b").contains("state of an object"));
    assert_eq!(message(b"}X\x01\0\0\0aK\x01s"), "read");
}

#[test]
fn programs_that_contradict_themselves_are_refused() {
    for (wanted, object) in [
        ("empty stack", b"".as_slice()),
        ("empty stack", b"(\x85"),
        ("mark that was not set", b"t"),
        ("mark that was not set", b"}u"),
        ("recalls value 9", b"h\x09"),
        ("no list", b"}Na"),
        ("no dictionary", b"]NNs"),
        ("no dictionary", b"}(Nu"),
        ("no function", b"N)R"),
        ("wrong arguments", b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
        ("wrong arguments", b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x01))tR"),
        ("list of pairs", b"ccollections\nOrderedDict\nN\x85R"),
        ("less than five parts", b")Q"),
        ("no tuple", b"NQ"),
        ("a number of 200 bytes", b"\x8a\xc8"),
        ("protocol 9", b"\x80\x09"),
        ("more bytes are announced", b"X\xff\xff\xff\xff"),
    ] {
        let found = message(object);
        assert!(
            found.contains(wanted),
            "{:?}: {found:?} lacks {wanted:?}",
            String::from_utf8_lossy(object)
        );
    }
}

#[test]
fn sharing_and_nesting_cost_no_more_than_the_file() {
    // a tuple of two of itself, 200 times: 2^200 leaves
    let mut shared = b"Nq\0".to_vec();
    for _ in 0..200 {
        shared.extend(b"h\0h\0\x86q\0");
    }
    assert!(message(&shared).contains("depth"));
    // each level only 300 wide, but six levels of it
    let mut wide = b"Nq\0".to_vec();
    for _ in 0..6 {
        wide.push(b'(');
        wide.extend(b"h\0".repeat(300));
        wide.extend(b"tq\0");
    }
    assert!(message(&wide).contains("number of entries"));
    // a list that contains itself
    assert!(message(b"]q\0h\0a").contains("depth"));
    // deep nesting, which must not overflow the stack when it is dropped either
    let deep = [b"]".as_slice(), &b"\x85".repeat(1_000_000)].concat();
    assert!(message(&deep).contains("depth"));
    assert!(message(&b"(".repeat(5_000_000)).contains("number of objects"));
    assert!(message(&b"N".repeat(5_000_000)).contains("number of objects"));
}

#[test]
fn tensors_stay_within_their_storage() {
    let open = |tensor: Vec<u8>, stored| Torch::from_bytes(Path::new("x.pth"), with_tensor(&tensor, stored));
    let loaded = open(tensor(6, 1, &[2, 2], &[1, 2]), 6).unwrap().load("tensor").unwrap();
    assert_eq!(
        loaded,
        HostTensor {
            shape: vec![2, 2],
            data: vec![1.0, 3.0, 2.0, 4.0]
        }
    );
    // an axis of one element may have any stride
    let one = open(tensor(6, 2, &[2, 1], &[1, i32::MAX]), 6)
        .unwrap()
        .load("tensor")
        .unwrap();
    assert_eq!(
        one,
        HostTensor {
            shape: vec![2, 1],
            data: vec![2.0, 3.0]
        }
    );
    for (wanted, tensor, stored) in [
        ("beyond the end of its storage", tensor(6, 3, &[2, 2], &[2, 1]), 6),
        (
            "beyond the end of its storage",
            tensor(6, 0, &[2, 2], &[i32::MAX, 1]),
            6,
        ),
        (
            "more elements than its storage",
            tensor(6, 0, &[1000, 1000], &[0, 0]),
            6,
        ),
        ("two different ways", tensor(7, 0, &[2, 2], &[2, 1]), 6),
        ("beyond the end of the file", tensor(6, 0, &[2, 2], &[2, 1]), 1 << 61),
        ("beyond the end of the file", tensor(6, 0, &[2, 2], &[2, 1]), u64::MAX),
        ("wrong arguments", tensor(6, -1, &[2], &[1]), 6),
        ("wrong arguments", tensor(6, 0, &[-2], &[1]), 6),
        ("wrong arguments", tensor(6, 0, &[2, 2], &[1]), 6),
        ("wrong arguments", tensor(6, 0, &[1; 17], &[1; 17]), 6),
    ] {
        let error = open(tensor, stored).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
    }
}

#[test]
fn big_endian_files_are_refused() {
    let facts = [b"}".to_vec(), text("little_endian"), b"\x89s".to_vec()].concat();
    let bytes = [legacy::MAGIC, b"\x80\x02M\xe9\x03.", b"\x80\x02", &facts, b"."].concat();
    let error = Torch::from_bytes(Path::new("x"), bytes).unwrap_err().to_string();
    assert!(error.contains("big-endian"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_programs_never_panic(object in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = exercise(with_object(&object), Torch::from_bytes);
    }

    /// Only instructions that are known, so that programs run further.
    #[test]
    fn plausible_programs_never_panic(
        object in prop::collection::vec(prop::sample::select(b"(N)]}aesut\x85\x86\x87\x88RbQ.".as_slice()), 0..80)
    ) {
        let _ = exercise(with_object(&object), Torch::from_bytes);
    }

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
}
