//! `bifocal tokenize`: pictures become codes, and codes pictures.

mod codes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::vq::HeldOut;
use bifocal_data::atomic::write_atomic;
use bifocal_data::source::{Dataset, Sample};
use bifocal_data::{ImageSource, Limits, Preprocess, RgbImage, load_images};
use bifocal_eval::picture::{CodeUse, psnr, ssim};
use bifocal_models::bundle::{Located, locate};
use bifocal_models::vq::Codec;

use crate::failure::wrong_use;
use crate::output::progress::Progress;
use crate::pictures;
use codes::{Codes, Format};

/// Turns pictures into codes, or codes into pictures, with an autoencoder.
///
/// The model is a folder that `bifocal train recipes/vq.toml` has written, a file of LlamaGen's (vq_ds16_t2i.pt), or a folder with the two files of a
/// tiny autoencoder (TAEF2), which has no codes and only tells what it keeps of the pictures. Pictures become squares first: shorter side, then
/// the middle. What is printed compares these squares with what comes back from codes: PSNR of values in 0…255; SSIM as scikit-image's
/// structural_similarity (7 × 7 windows, mean over channels); both are means over pictures. Codes in use and their perplexity (2 to the entropy in bits) are of
/// all pictures together.
#[derive(clap::Args)]
pub struct Args {
    /// Folder or file of the model
    #[arg(long, value_name = "M")]
    model: String,
    /// Pictures, and folders of them
    #[arg(value_name = "PICTURES", conflicts_with = "decode")]
    images: Vec<PathBuf>,
    /// Also the pictures that a run has held out (its holdout.json)
    #[arg(long, value_name = "FILE", conflicts_with = "decode")]
    holdout: Option<PathBuf>,
    /// Side of the squares in pixels; the one that the model was made for, unless given
    #[arg(long, value_name = "PIXELS", conflicts_with = "decode")]
    size: Option<u32>,
    /// Where codes go: .npy (int32, [pictures, rows, columns]) or .jsonl ({"image", "codes"}); with --decode, the folder for pictures
    #[arg(long, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    /// Make pictures (PNG) of a file of codes, into the folder --out
    #[arg(long, value_name = "FILE", requires = "out")]
    decode: Option<PathBuf>,
    /// Write for each picture a PNG: the square, what the frozen autoencoder keeps of it if there is one, and what codes keep, side by side
    #[arg(long, value_name = "DIR", conflicts_with = "decode")]
    pairs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let codec = open(&args.model)?;
    match (&args.decode, &args.out) {
        (Some(codes), Some(out)) => decode(&codec, codes, out, args.json),
        _ => encode(&codec, &args),
    }
}

fn open(name: &str) -> Result<Codec> {
    match locate(name, None) {
        Located::At(path) => Ok(Codec::open(&path)?),
        Located::Nowhere(places) => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            Err(wrong_use(format!(
                "--model {name}: there is no such file or folder (looked for {})",
                places.join(", ")
            )))
        }
    }
}

/// Means over pictures of how near a way back comes.
#[derive(Default)]
struct Nearness {
    psnr: f64,
    ssim: f64,
    /// Pictures that are large enough for windows.
    windowed: usize,
    pictures: usize,
}

impl Nearness {
    fn add(&mut self, before: &[u8], after: &[u8], side: usize) {
        if let Some(psnr) = psnr(before, after) {
            // a picture that comes back as it was would make every mean infinite
            self.psnr += psnr.min(100.0);
            self.pictures += 1;
        }
        if let Some(ssim) = ssim(before, after, [side; 2], 3) {
            self.ssim += ssim;
            self.windowed += 1;
        }
    }

    fn means(&self) -> (f64, f64) {
        (self.psnr / self.pictures as f64, self.ssim / self.windowed as f64)
    }
}

pub(super) fn bytes(pixels: &[f32]) -> Vec<u8> {
    pixels
        .iter()
        .map(|v| (255.0 * v).round().clamp(0.0, 255.0) as u8)
        .collect()
}

/// The pictures that are named, and those of a list of held-out ones.
fn samples(args: &Args) -> Result<Vec<Sample>> {
    let mut samples = pictures::list(&args.images)?;
    if let Some(path) = &args.holdout {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let held: Vec<HeldOut> =
            serde_json::from_str(&text).map_err(|e| wrong_use(format!("{}: {e}", path.display())))?;
        let mut sources: Vec<&str> = held.iter().map(|held| held.source.as_str()).collect();
        sources.dedup();
        for source in sources {
            let mut data = Dataset::open(Path::new(source))?;
            data.samples.retain(|sample| {
                held.iter()
                    .any(|held| held.source == source && held.image == sample.key)
            });
            samples.extend(data.samples);
        }
    }
    samples.retain(|sample| sample.image != ImageSource::None);
    if samples.is_empty() {
        return Err(wrong_use("no pictures: name files or folders, or --holdout"));
    }
    Ok(samples)
}

fn encode(codec: &Codec, args: &Args) -> Result<()> {
    let format = args.out.as_deref().map(Format::of).transpose()?;
    if format.is_some() && codec.codes().is_none() {
        return Err(wrong_use(
            "--out: this autoencoder has no codes; without --out, it tells what it keeps of the pictures",
        ));
    }
    let size = args.size.unwrap_or(codec.size());
    let (side, factor) = (size as usize, codec.factor());
    if side == 0 || !side.is_multiple_of(factor) || size > 4096 {
        return Err(wrong_use(format!(
            "--size {size}: not a multiple of {factor}, which is what a code or a latent stands for, up to 4096"
        )));
    }
    let preprocess = Preprocess {
        mean: [0.0; 3],
        std: [1.0; 3],
        ..Preprocess::clip(size)
    };
    let samples = samples(args)?;
    let grid = [side / factor; 2];
    let mut all = Codes::new(grid);
    let (mut through, mut ceiling) = (Nearness::default(), Nearness::default());
    let mut progress = Progress::new("pictures", samples.len() as u64);
    if let Some(folder) = &args.pairs {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    for (i, sample) in samples.iter().enumerate() {
        progress.update(i as u64, "");
        let loaded = load_images(&[&sample.image], &preprocess, &Limits::default())?;
        if let Some(bad) = loaded.bad.first() {
            eprintln!("left out {}: {}", bad.image, bad.error);
            continue;
        }
        let before = bytes(&loaded.pixels);
        let mut shown = vec![before.clone()];
        if let Some(kept) = codec.ceiling(&loaded.pixels, [side; 2])? {
            let kept = bytes(&kept);
            ceiling.add(&before, &kept, side);
            shown.push(kept);
        }
        if codec.codes().is_some() {
            let codes = codec.encode(&loaded.pixels, [side; 2])?;
            let after = bytes(&codec.decode(&codes, grid)?);
            through.add(&before, &after, side);
            shown.push(after);
            all.push(sample.key.clone(), &codes);
        }
        if let Some(folder) = &args.pairs {
            write_png(&folder.join(format!("{i:06}.png")), &beside(&shown, side))?;
        }
    }
    progress.finish();
    let seen = through.pictures.max(ceiling.pictures);
    if seen == 0 {
        anyhow::bail!("none of the {} pictures could be read", samples.len());
    }
    if let (Some(out), Some(format)) = (&args.out, format) {
        all.write(out, format)?;
    }
    tell(codec, args, &all, &through, &ceiling, [seen, side])
}

fn tell(
    codec: &Codec,
    args: &Args,
    codes: &Codes,
    through: &Nearness,
    ceiling: &Nearness,
    [seen, side]: [usize; 2],
) -> Result<()> {
    let used = codec.codes().map(|of| CodeUse::count(codes.all(), of));
    let of = |nearness: &Nearness| (nearness.pictures > 0).then(|| nearness.means());
    if args.json {
        let json =
            |means: Option<(f64, f64)>| means.map(|(psnr, ssim)| serde_json::json!({"psnr": psnr, "ssim": ssim}));
        let told = serde_json::json!({
            "pictures": seen,
            "size": side,
            "codes": json(of(through)),
            "without_codes": json(of(ceiling)),
            "used": used.map(|u| u.used),
            "of": used.map(|u| u.of),
            "perplexity": used.map(|u| u.perplexity),
        });
        println!("{told}");
        return Ok(());
    }
    println!("{seen} pictures of {side} × {side} pixels");
    if let Some((psnr, ssim)) = of(ceiling) {
        println!("without codes  PSNR {psnr:.2} dB  SSIM {ssim:.4}");
    }
    if let (Some((psnr, ssim)), Some(used)) = (of(through), used) {
        let [h, w] = codes.grid();
        println!("{h} × {w} codes  PSNR {psnr:.2} dB  SSIM {ssim:.4}");
        println!(
            "{} of {} codes used ({:.1} %), perplexity {:.0}",
            used.used,
            used.of,
            100.0 * used.used as f64 / used.of.max(1) as f64,
            used.perplexity
        );
    }
    Ok(())
}

fn decode(codec: &Codec, path: &Path, out: &Path, json: bool) -> Result<()> {
    let all = Codes::read(path)?;
    let (grid, factor) = (all.grid(), codec.factor());
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let mut progress = Progress::new("pictures", all.len() as u64);
    for i in 0..all.len() {
        progress.update(i as u64, "");
        let pixels = codec
            .decode(&all.of(i), grid)
            .with_context(|| format!("{}: picture {i}", path.display()))?;
        let size = grid.map(|side| (side * factor) as u32);
        let picture = RgbImage::new(size[1], size[0], bytes(&pixels)).context("a picture without pixels")?;
        write_png(&out.join(format!("{i:06}.png")), &picture)?;
    }
    progress.finish();
    match json {
        true => println!("{}", serde_json::json!({"pictures": all.len(), "out": out})),
        false => println!("{} pictures in {}", all.len(), out.display()),
    }
    Ok(())
}

/// Squares beside each other, with two white columns between them.
fn beside(squares: &[Vec<u8>], side: usize) -> RgbImage {
    const GAP: usize = 2;
    let mut data = Vec::new();
    for y in 0..side {
        for (i, square) in squares.iter().enumerate() {
            if i > 0 {
                data.extend_from_slice(&[255; 3 * GAP]);
            }
            data.extend_from_slice(&square[3 * y * side..3 * (y + 1) * side]);
        }
    }
    let width = squares.len() * side + squares.len().saturating_sub(1) * GAP;
    match RgbImage::new(width as u32, side as u32, data) {
        Some(picture) => picture,
        None => unreachable!("{} squares have {width} columns", squares.len()),
    }
}

pub(super) fn write_png(path: &Path, picture: &RgbImage) -> Result<()> {
    let png = picture.png().with_context(|| format!("encoding {}", path.display()))?;
    write_atomic(path, |file| std::io::Write::write_all(file, &png))
        .with_context(|| format!("writing {}", path.display()))
}
