//! Damaged pictures of every kind: no panic, and no memory beyond the limits.

#[path = "common/mutate.rs"]
mod mutate;
#[path = "common/pictures.rs"]
mod pictures;

use bifocal_data::decode::decode_with;
use bifocal_data::{Conventions, DecodeError, Limits};
use mutate::{Random, mutate};
use pictures::pictures;

/// The most address space that this process has ever had, in bytes; 0 where the system does not tell.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// The only test of this binary, since memory is counted for the whole process.
#[test]
fn mutated_pictures_neither_panic_nor_take_the_memory() {
    let limits = Limits {
        alloc: 8 << 20,
        pixels: 1 << 20,
        ..Limits::default()
    };
    let pictures = pictures();
    assert!(pictures.len() >= 80);
    let mut random = Random::new(1);
    // allocators reserve address space for the first allocations of a thread
    for (_, file) in &pictures {
        let _ = decode_with(file, &limits, Conventions::default());
    }
    let before = peak();
    let (mut good, mut bad) = (0, 0);
    for round in 0..80 {
        for (name, file) in &pictures {
            let (_, other) = &pictures[random.below(pictures.len())];
            let bytes = mutate(&mut random, file, other);
            let conventions = match round % 3 {
                0 => Conventions::default(),
                1 => Conventions::pillow(),
                _ => Conventions {
                    reduce_to: Some(1 + random.below(40) as u32),
                    ..Conventions::default()
                },
            };
            match decode_with(&bytes, &limits, conventions) {
                Ok(image) => {
                    let pixels = u64::from(image.width()) * u64::from(image.height());
                    assert_eq!(image.data().len() as u64, pixels * 3);
                    assert!(pixels <= limits.pixels);
                    good += 1;
                }
                Err(DecodeError::Panicked { format, reason }) => {
                    panic!("{format}, from {name} in round {round}: {reason}\n{bytes:02x?}")
                }
                Err(_) => bad += 1,
            }
        }
    }
    // both happen often, or nothing was tested
    assert!(good > 1000 && bad > 1000, "{good} good, {bad} bad");
    let grown = peak() - before;
    assert!(grown <= limits.alloc + (8 << 20), "{grown} bytes more of address space");
}
