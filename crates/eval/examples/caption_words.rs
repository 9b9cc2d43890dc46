//! The words of captions as BLEU and CIDEr count them: one caption a line on the input, its words with single blanks on the output.
//!
//! `scripts/fixtures/answers.py agreement FILE` compares them with the Java program's.

use std::io::{BufRead, Write};

use bifocal_eval::answers::ptb;

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", ptb::words(&line?).join(" "))?;
    }
    out.flush()
}
