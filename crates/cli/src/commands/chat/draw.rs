//! `bifocal chat --draw`: a picture from a text.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use bifocal_data::RgbImage;
use bifocal_models::chat::ChatModel;
use bifocal_models::generate::Sampling;
use bifocal_models::unified::{self, Brush};

use super::Args;
use crate::commands::tokenize::{bytes, write_png};
use crate::failure::wrong_use;
use crate::output::progress::Progress;

impl Args {
    /// How pictures are drawn; what cannot be is wrong use.
    pub(super) fn brush(&self) -> Result<Brush> {
        let brush = Brush {
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(Brush::default().sampling.temperature),
                ..self.speech().sampling
            },
            guidance: self.guidance,
            seed: self.seed,
        };
        match brush.check() {
            Ok(()) => Ok(brush),
            Err(error) => Err(wrong_use(error.to_string())),
        }
    }
}

/// Draws `prompt` into a file.
pub(super) fn draw(args: &Args, model: &ChatModel, out: &Path, prompt: &str) -> Result<()> {
    if out.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("png")) {
        return Err(wrong_use(format!(
            "--draw {}: pictures are PNG, end the name so",
            out.display()
        )));
    }
    let brush = args.brush()?;
    let rows = model.eyes.as_ref().map_or(0, bifocal_models::chat::Eyes::rows);
    let mut progress = Progress::new("codes", rows as u64);
    let clock = Instant::now();
    let mut first = None;
    let drawn = unified::draw(model, prompt, &brush, |codes| {
        first.get_or_insert_with(|| clock.elapsed().as_secs_f64());
        progress.update(codes as u64, "");
        true
    })?;
    let seconds = clock.elapsed().as_secs_f64();
    progress.finish();
    let drawn = drawn.context("the picture was given up")?;
    let codec = model
        .eyes
        .as_ref()
        .and_then(|eyes| eyes.vision.tower.token_encoder()?.codec());
    let codec = codec.context("the model has no decoder")?;
    let pixels = codec.decode(&drawn.codes, [drawn.grid; 2])?;
    let side = (drawn.grid * codec.factor()) as u32;
    let picture = RgbImage::new(side, side, bytes(&pixels)).context("a picture without pixels")?;
    write_png(out, &picture)?;
    // the first code comes with what is read; those after it show the pace
    let written = drawn.codes.len();
    let pace = (written.saturating_sub(1)) as f64 / (seconds - first.unwrap_or(0.0)).max(1e-9);
    if args.json {
        let record = serde_json::json!({
            "model": args.model.display().to_string(),
            "prompt": prompt,
            "picture": out.display().to_string(),
            "side": side,
            "codes": drawn.codes,
            "tokens": { "read": drawn.read, "written": written },
            "seconds": seconds,
            "tokens_per_second": pace,
        });
        println!("{record}");
    } else {
        println!(
            "{}: {side} × {side} pixels of {written} codes, {pace:.1} tokens/s",
            out.display()
        );
    }
    Ok(())
}
