//! Our side of the scripts in `benches/compare`: a process that opens what it is told, then answers each line with one line: the seconds that it took, and a number of
//! the result, so that nothing is left out.
//!
//! `compare embed MODEL FOLDER [PRECISION]`, `compare train MODEL FOLDER BATCH PRECISION tower|rows|adaptor [checkpoint]`, `compare photos FOLDER`, `compare loss NAME PAIRS WIDTH`

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use bifocal_kernels::allocator::{self, Allocator};
use bifocal_kernels::peak;
use bifocal_nn::precision::Precision;

mod embed;
mod losses;
mod photos;
mod train;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// What any of the sides' functions give.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// What a process is opened for.
pub trait Side {
    /// Does what a line asks for; gives a number of the result, or `None` for a line that it does not know.
    fn answer(&mut self, command: &str) -> Outcome<Option<f32>>;
}

/// The numbers of a file that Python wrote with `tofile`.
pub fn floats(path: &Path) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect())
}

/// Writes numbers for Python's `fromfile`.
pub fn dump(path: &Path, values: &[f32]) -> std::io::Result<()> {
    std::fs::write(path, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// The precision that an argument names.
pub fn precision(name: Option<&str>) -> Outcome<Precision> {
    match name {
        None | Some("f32") => Ok(Precision::F32),
        Some("bf16") => Ok(Precision::Bf16),
        Some("int8") => Ok(Precision::Int8),
        Some(other) => Err(format!("{other} is no precision: f32, bf16 or int8").into()),
    }
}

fn open(args: &[&str]) -> Outcome<Box<dyn Side>> {
    Ok(match args {
        ["embed", model, folder, rest @ ..] => Box::new(embed::Embed::open(model, folder, precision(rest.first().copied())?)?),
        ["train", model, folder, batch, numbers, texts, rest @ ..] => {
            let texts = train::TextSide::named(texts)?;
            let dropping = rest.first() == Some(&"checkpoint");
            Box::new(train::Train::open(model, folder, batch.parse()?, precision(Some(numbers))?, texts, dropping)?)
        }
        ["photos", folder] => Box::new(photos::Photos::open(folder)?),
        ["loss", name, pairs, width] => Box::new(losses::Loss::open(name, pairs.parse()?, width.parse()?)?),
        _ => return Err("give embed, train, photos or loss with their arguments; the first lines of benches/compare/ours/main.rs name them".into()),
    })
}

fn main() -> Outcome<()> {
    allocator::keep_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut side = open(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let start = Instant::now();
        let value = match line.as_str() {
            "peak" => Some(peak::flops() as f32),
            other => side.answer(other)?,
        };
        let Some(value) = value else {
            return Err(format!("unknown command {line}").into());
        };
        writeln!(out, "{} {value}", start.elapsed().as_secs_f64())?;
        out.flush()?;
    }
    Ok(())
}
