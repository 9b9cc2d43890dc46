//! Mutates the fixtures and decodes the result for some minutes: `cargo run --release -p bifocal-data --example mutate -- [minutes] [seed]`.
//! A picture that makes a decoder panic, or takes longer than all before, is written into the folder for temporary files.

#[path = "../tests/common/mutate.rs"]
mod mutate;
#[path = "../tests/common/pictures.rs"]
mod pictures;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bifocal_data::decode::decode_with;
use bifocal_data::{Conventions, DecodeError, Limits};
use mutate::{Random, mutate};
use pictures::pictures;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<f64>().expect("a number"));
    let minutes = arguments.next().unwrap_or(1.0);
    let mut random = Random::new(arguments.next().unwrap_or(1.0) as u64);
    let limits = Limits {
        alloc: 8 << 20,
        pixels: 1 << 20,
        ..Limits::default()
    };
    let pictures = pictures();
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut panics = 0;
    while begun.elapsed().as_secs_f64() < minutes * 60.0 {
        let (name, file) = &pictures[random.below(pictures.len())];
        let (_, other) = &pictures[random.below(pictures.len())];
        let bytes = mutate(&mut random, file, other);
        let started = Instant::now();
        let result = decode_with(&bytes, &limits, Conventions::default());
        if started.elapsed() > slowest {
            slowest = started.elapsed();
            let path = std::env::temp_dir().join(format!("slowest-{name}"));
            std::fs::write(&path, &bytes).expect("the folder for temporary files is writable");
            println!("{}: {slowest:?}", path.display());
        }
        if let Err(DecodeError::Panicked { format, reason }) = &result {
            panics += 1;
            let path = std::env::temp_dir().join(format!("panic-{panics}-{name}"));
            std::fs::write(&path, &bytes).expect("the folder for temporary files is writable");
            println!("{format} panics on {}: {reason}", path.display());
        }
        *counts.entry(result.map_or_else(|e| e.cause(), |_| "good")).or_default() += 1;
    }
    println!("{counts:?}, {panics} panics, slowest {slowest:?}");
    if panics > 0 {
        std::process::exit(1);
    }
}
