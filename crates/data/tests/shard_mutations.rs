//! Damaged archives and tables: no panic, no memory beyond what the file explains, and what is left can be read or says why not.

#[path = "common/mutate.rs"]
mod mutate;

use std::path::{Path, PathBuf};

use bifocal_data::{Dataset, Limits, SourceError};
use mutate::{Random, mutate};

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    side: 1 << 14,
    pixels: 1 << 20,
    alloc: 8 << 20,
    time: None,
};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/shards")
            .join(name),
    )
    .unwrap()
}

/// Opens a file and reads all that it promises; the samples, and the pictures that could be read.
fn read(path: &Path) -> (usize, usize) {
    match Dataset::open(path) {
        Ok(data) => {
            let good = data.samples.iter().filter(|s| s.image.read(&LIMITS).is_ok()).count();
            (data.samples.len(), good)
        }
        Err(SourceError::Io { path, reason }) => panic!("{}: {reason}", path.display()),
        Err(_) => (0, 0),
    }
}

/// Makes the checksums of all headers right again, so that damage is not found by them alone.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

/// Mutates a file many times; what came of it, together: files with samples, files with none, pictures that could be read.
fn rounds(
    name: &str,
    file: &[u8],
    count: usize,
    change: impl Fn(&mut Random, Vec<u8>) -> Vec<u8>,
) -> (usize, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join(name);
    let mut random = Random::new(7);
    let (mut some, mut none, mut pictures) = (0, 0, 0);
    for _ in 0..count {
        let bytes = mutate(&mut random, file, file);
        std::fs::write(&path, change(&mut random, bytes)).unwrap();
        let (samples, good) = read(&path);
        // nothing comes of nothing: a sample takes a byte at least
        assert!(samples <= file.len() + 400);
        pictures += good;
        if samples > 0 { some += 1 } else { none += 1 }
    }
    (some, none, pictures)
}

#[test]
fn mutated_archives() {
    let counts = rounds("a.tar", &fixture("pax.tar"), 1500, |random, mut bytes| {
        if random.below(3) > 0 {
            // numbers and kinds in headers, where most of the meaning is
            let block = random.below(bytes.len() / 512) * 512;
            if block + 512 <= bytes.len() && bytes[block + 257..block + 262] == *b"ustar" {
                let at = block + 124 + random.below(33);
                bytes[at] = [b'7', b'0', b'x', b'L', b'S', 0x80, 0xff, 0][random.below(8)];
            }
            mend(&mut bytes);
        }
        bytes
    });
    assert!(counts.0 > 300 && counts.1 > 20 && counts.2 > 300, "{counts:?}");
}

#[test]
fn mutated_tables() {
    let table = b"image,caption,en,label\na.tar,\"one, two\",x,1\n\"a.csv\",\"thr\nee\",,2\na.csv,four,y,2\n";
    let counts = rounds("a.csv", table, 3000, |_, bytes| bytes);
    assert!(counts.0 > 300 && counts.1 > 300 && counts.2 > 300, "{counts:?}");
    let rows = b"{\"image\": \"a.jsonl\", \"captions\": {\"en\": [\"x\"]}}\n{\"en\": \"y\"}\n{\"file_name\": \"a.jsonl\", \"text\": \"z\"}\n";
    let counts = rounds("a.jsonl", rows, 3000, |_, bytes| bytes);
    assert!(counts.0 > 300 && counts.1 > 100 && counts.2 > 300, "{counts:?}");
}

#[cfg(feature = "parquet")]
#[test]
fn mutated_parquet() {
    // of the small file nearly every byte matters
    for (name, some, pictures) in [
        ("hf.parquet", 50, 100),
        ("flat.parquet", 50, 100),
        ("texts.parquet", 10, 0),
    ] {
        let file = fixture(name);
        let counts = rounds("a.parquet", &file, 700, |random, mut bytes| {
            // the description at the end decides as much as the beginning
            if random.below(2) == 0 && bytes.len() > 1200 {
                let at = bytes.len() - 1 - random.below(1200);
                bytes[at] = random.below(256) as u8;
            }
            bytes
        });
        assert!(
            counts.0 > some && counts.1 > 50 && counts.2 >= pictures,
            "{name}: {counts:?}"
        );
    }
}
