//! Retrieval in both directions on large matrices, its time and the process's memory; `benches/compare/retrieval_faiss.py` runs it beside numpy and faiss.
//!
//!     cargo run --release --example retrieval_large -- IMAGES TEXTS DIM
//!
//! IMAGES and TEXTS are files of raw little-endian f32 rows; caption k belongs to picture k · pictures / captions.

use std::error::Error;
use std::time::Instant;

fn rows(path: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    use std::io::Read;
    let mut file = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(path)?);
    let length = std::fs::metadata(path)?.len() as usize / 4;
    let (mut rows, mut bytes) = (Vec::with_capacity(length), [0u8; 4]);
    for _ in 0..length {
        file.read_exact(&mut bytes)?;
        rows.push(f32::from_le_bytes(bytes));
    }
    Ok(rows)
}

/// Most memory that the process has had, in MiB; Linux tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? >> 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [images, texts, dim] = &arguments[..] else {
        return Err("give IMAGES TEXTS DIM".into());
    };
    let dim: usize = dim.parse()?;
    let (images, texts) = (rows(images)?, rows(texts)?);
    let (n, m) = (images.len() / dim, texts.len() / dim);
    let owners: Vec<usize> = (0..m).map(|k| k * n / m).collect();
    let began = Instant::now();
    let report = bifocal_eval::retrieval(&images, &texts, dim, &owners)?;
    println!(
        "{{\"engine\": \"bifocal\", \"seconds\": {:.2}, \"peak_mib\": {}, \"t2i_r1\": {}, \"t2i_r10\": {}, \"i2t_r1\": {}}}",
        began.elapsed().as_secs_f64(),
        peak().unwrap_or(0),
        report.text_to_image.r1,
        report.text_to_image.r10,
        report.image_to_text.r1,
    );
    Ok(())
}
