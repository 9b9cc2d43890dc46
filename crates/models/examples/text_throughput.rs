//! Tokens and texts per second of a text encoder: `text_throughput MODEL LINES [REPEATS]`.
//!
//! The peer that it is measured against is `benches/compare/text_transformers.py`, on the same file of lines and as many threads
//! (`RAYON_NUM_THREADS`).

use std::path::Path;
use std::time::Instant;

use bifocal_models::open::{TextOptions, open_text};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(lines)) = (args.next(), args.next()) else {
        return Err("usage: text_throughput MODEL LINES [REPEATS]".into());
    };
    let repeats: usize = args.next().map_or(Ok(3), |n| n.parse())?;
    let text = std::fs::read_to_string(lines)?;
    let texts: Vec<&str> = text.lines().collect();
    let encoder = open_text(Path::new(&model), &TextOptions::default())?;
    let tokens: usize = encoder.tokenize(&texts)?.iter().map(|e| e.ids.len()).sum();
    encoder.embed(&texts[..texts.len().min(8)])?;
    let mut seconds = Vec::new();
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        encoder.embed(&texts)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!(
        "{}: {} texts, {tokens} tokens: {median:.2} s, {:.0} tokens/s, {:.1} texts/s",
        encoder.name,
        texts.len(),
        tokens as f64 / median,
        texts.len() as f64 / median
    );
    Ok(())
}
