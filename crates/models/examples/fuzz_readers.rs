//! Feeds damaged files to the readers: `cargo run --release -p bifocal-models --example fuzz_readers -- MINUTES [READER]`.
//!
//! The fixtures of the tests are mutated (bits, bytes, lengths, pieces cut, doubled and swapped) and read as far as they can be. Any panic is
//! printed with the seed that leads to it, and so is the most memory that was used; both end the program with an error.
//! cargo-fuzz would find more, but needs a nightly toolchain.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bifocal_models::tokenizer::Tokenizer;
use bifocal_models::weights::gguf::Gguf;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_models::weights::torch::Torch;
use bifocal_models::weights::{self, TensorSource};

/// More than this for files of a few kilobytes is a fault.
const MAX_MEMORY_KIB: u64 = 2 << 20;

/// Where the last panic was.
static PLACE: Mutex<String> = Mutex::new(String::new());

struct Reader {
    name: &'static str,
    seeds: &'static [&'static str],
    /// Whether the file was accepted.
    read: fn(&[u8]) -> bool,
}

const READERS: [Reader; 5] = [
    Reader {
        name: "safetensors",
        seeds: &["small.safetensors", "heads.safetensors"],
        read: |bytes| tensors(SafeTensors::from_bytes(Path::new("x"), bytes.to_vec()), bytes.len()),
    },
    Reader {
        name: "gguf",
        seeds: &["small.gguf", "tokenizer_llama3.gguf", "tokenizer_gemma.gguf"],
        read: |bytes| {
            let Ok(gguf) = Gguf::from_bytes(Path::new("x"), bytes.to_vec()) else {
                return false;
            };
            let _ = Tokenizer::from_gguf(&gguf).map(|t| t.encode("two lenses, ein Fokus", true));
            tensors(Ok::<_, ()>(gguf), bytes.len())
        },
    },
    Reader {
        name: "torch",
        seeds: &["small.pt", "script.pt", "small.legacy.pth"],
        read: |bytes| tensors(Torch::from_bytes(Path::new("x"), bytes.to_vec()), bytes.len()),
    },
    Reader {
        name: "index",
        seeds: &["(index)"],
        read: |bytes| {
            let folder = folder();
            std::fs::write(folder.join("model.safetensors.index.json"), bytes).expect("write");
            weights::open(&folder).is_ok()
        },
    },
    Reader {
        name: "tokenizer",
        seeds: &["tokenizer_wordpiece/tokenizer.json"],
        read: |bytes| match Tokenizer::from_json(Path::new("x"), bytes) {
            Ok(tokenizer) => tokenizer.encode("two lenses, ein Fokus", true).is_ok(),
            Err(_) => false,
        },
    },
];

const INDEX: &str = r#"{"metadata": {"total_size": 18}, "weight_map": {"f32": "a.safetensors", "f16": "a.safetensors", "bf16": "a.safetensors",
 "f64": "a.safetensors", "i64": "a.safetensors", "u8": "a.safetensors", "bool": "a.safetensors", "scalar": "a.safetensors", "empty": "a.safetensors"}}"#;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder with one shard.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bifocal-fuzz-{}", std::process::id()));
    let shard = folder.join("a.safetensors");
    if !shard.exists() {
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::copy(fixtures().join("small.safetensors"), shard).expect("a shard");
    }
    folder
}

/// Reads everything that a header promises.
fn tensors<S: TensorSource, E>(source: Result<S, E>, len: usize) -> bool {
    let Ok(source) = source else { return false };
    for name in source.names() {
        let shape = source.shape(&name).expect("a tensor that is listed has a shape");
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
    true
}

/// xorshift64*: the same seed gives the same file anywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..=rng.below(4) {
        let len = bytes.len();
        if len < 16 {
            return;
        }
        let at = rng.below(len - 8);
        match rng.below(9) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes[at..at + 4].copy_from_slice(&[u32::MAX, 1 << 31, 0x7fff_ffff, 0][rng.below(4)].to_le_bytes()),
            4 => {
                let large = [u64::MAX, 1 << 63, 1 << 40, (len as u64) << 3, len as u64 + 1, 0];
                bytes[at..at + 8].copy_from_slice(&large[rng.below(6)].to_le_bytes());
            }
            5 => {
                let piece = bytes[at..(at + 1 + rng.below(64)).min(len)].to_vec();
                let to = rng.below(len);
                bytes.splice(to..to, piece);
            }
            6 => {
                bytes.drain(at..(at + 1 + rng.below(32)).min(len));
            }
            7 => {
                let other = rng.below(len - 8);
                for i in 0..8 {
                    bytes.swap(at + i, other + i);
                }
            }
            // a digit of a JSON number, or a letter of its names
            _ => bytes[at] = b"0123456789-.eE\"[]{}:,ntf"[rng.below(24)],
        }
    }
}

/// The most memory that this process had, in KiB; `None` where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let minutes: f64 = args.next().and_then(|m| m.parse().ok()).unwrap_or(1.0);
    let only = args.next();
    // tokenizers panics inside its guard for files that contradict themselves: only what comes out here is told
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
    let mut faults = 0;
    for reader in READERS
        .iter()
        .filter(|r| only.as_deref().is_none_or(|only| only == r.name))
    {
        let seeds: Vec<Vec<u8>> = reader
            .seeds
            .iter()
            .map(|seed| match *seed {
                "(index)" => INDEX.as_bytes().to_vec(),
                seed => std::fs::read(fixtures().join(seed)).expect("a fixture"),
            })
            .collect();
        assert!(
            seeds.iter().all(|seed| (reader.read)(seed)),
            "{}: a sound file is refused",
            reader.name
        );
        let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
        let (mut cases, mut accepted) = (0u64, 0u64);
        while Instant::now() < end {
            for _ in 0..64 {
                cases += 1;
                let mut rng = Rng(cases.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                let mut bytes = seeds[rng.below(seeds.len())].clone();
                mutate(&mut bytes, &mut rng);
                match catch_unwind(AssertUnwindSafe(|| (reader.read)(&bytes))) {
                    Ok(read) => accepted += u64::from(read),
                    Err(panic) => {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
                        println!("{}: case {cases} panics at {place}: {text}", reader.name);
                        faults += 1;
                    }
                }
            }
        }
        let memory = peak().map_or(String::new(), |kib| format!(", at most {} MiB of memory", kib / 1024));
        println!(
            "{}: {cases} files, {accepted} of them still readable{memory}",
            reader.name
        );
    }
    let _ = std::fs::remove_dir_all(folder());
    let greedy = peak().is_some_and(|kib| kib > MAX_MEMORY_KIB);
    std::process::exit(i32::from(faults > 0 || greedy));
}
