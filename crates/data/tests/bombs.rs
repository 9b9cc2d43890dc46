//! Small files that ask for much: refused or decoded, within the limits of memory and time.

#[path = "common/bombs/mod.rs"]
mod bombs;

use std::time::Duration;

use bifocal_data::{DecodeError, Limits, decode};
use bombs::{Bomb, bombs};

/// Beside the file and the limit for decoding: buffers of fixed size, and what the allocator keeps.
const MORE: u64 = 48 << 20;

/// A line of the process's status in bytes; 0 where the system does not tell.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// From now on `VmHWM` is the most memory since now.
fn forget_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The only test of this binary, since memory is counted for the whole process.
#[test]
fn bombs_do_not_go_off() {
    let bombs = bombs();
    assert!(bombs.len() > 100, "{}", bombs.len());
    within_limits(&bombs);
    ended_in_time(&bombs);
}

fn within_limits(bombs: &[Bomb]) {
    let limits = Limits {
        time: Some(Duration::from_millis(500)),
        ..Limits::default()
    };
    let (mut spent, mut slowest) = (0, Vec::new());
    for bomb in bombs {
        let counts = forget_peak();
        let before = status("VmRSS:");
        let begun = std::time::Instant::now();
        let result = decode(&bomb.bytes, &limits);
        let seconds = begun.elapsed().as_secs_f64();
        let grown = status("VmHWM:").saturating_sub(before);
        let told = match &result {
            Ok(image) => format!("{} × {}", image.width(), image.height()),
            Err(error) => error.to_string(),
        };
        let (name, size) = (bomb.name, bomb.bytes.len());
        println!("{name} ({size} bytes): {seconds:.2} s, {} MiB: {told}", grown >> 20);
        assert!(!matches!(result, Err(DecodeError::Panicked { .. })), "{name}: {told}");
        assert!(!bomb.refused || result.is_err(), "{name} was decoded: {told}");
        assert!(
            !counts || grown <= limits.alloc + MORE,
            "{name}: {} MiB, {told}",
            grown >> 20
        );
        spent += usize::from(told.contains("keeps the processor busy"));
        slowest.push((seconds, name));
    }
    slowest.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{spent} of {} took too long; slowest: {:?}", bombs.len(), &slowest[..5]);
}

/// With no time at all, whatever is not refused at once is given up on the way, in every format.
fn ended_in_time(bombs: &[Bomb]) {
    let limits = Limits {
        time: Some(Duration::ZERO),
        ..Limits::default()
    };
    let mut ended = std::collections::BTreeSet::new();
    for bomb in bombs {
        let Err(error) = decode(&bomb.bytes, &limits) else {
            continue;
        };
        if error.to_string().contains("keeps the processor busy") {
            assert_eq!(error.cause(), "over-limit");
            ended.insert(bomb.name.split(' ').next().unwrap_or_default());
        }
    }
    let all = ["bmp", "gif", "jpeg", "png", "tiff", "webp"];
    assert_eq!(ended.into_iter().collect::<Vec<_>>(), all);
}
