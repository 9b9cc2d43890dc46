//! A loss over 16,384 pairs, forward and backward: seconds, operations, their share of what the processor can do, and the memory that it took.
//!
//! `cargo run --release --example loss_memory -- [infonce|sigmoid|distill|structure] [PAIRS] [WIDTH] [ROUNDS]`

use std::time::Instant;

use bifocal_kernels::peak;

#[path = "../tests/common/large_batch.rs"]
mod large_batch;

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("infonce", String::as_str);
    let number = |at: usize, default: usize| match arguments.get(at) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| format!("`{text}` is not a number; give PAIRS WIDTH ROUNDS")),
    };
    let (pairs, width, rounds) = (number(1, 16_384)?, number(2, 512)?, number(3, 3)?);
    let Some(loss) = large_batch::Loss::named(name) else {
        return Err(format!(
            "`{name}` is no loss; use infonce, sigmoid, distill or structure"
        ));
    };
    let batch = large_batch::Batch::new(pairs, width);
    let before = large_batch::peak_memory();
    for _ in 0..rounds {
        let peak = peak::flops();
        let start = Instant::now();
        let value = large_batch::step(loss, &batch);
        let seconds = start.elapsed().as_secs_f64();
        let speed = loss.operations(pairs, width) / seconds;
        println!(
            "{name} of {pairs} pairs of {width}: {value:.6}, {seconds:.2} s, {:.0} GFLOP/s of {:.0}, {:.0} %",
            speed / 1e9,
            peak / 1e9,
            100.0 * speed / peak
        );
    }
    let mib = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    println!(
        "peak memory of the process: {}, before the first round {}",
        mib(large_batch::peak_memory()),
        mib(before)
    );
    Ok(())
}
