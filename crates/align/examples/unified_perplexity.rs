//! Whether a model that reads and draws pictures heeds the text, and the picture: perplexity of held-out pictures' codes after their own caption, another
//! picture's and none, and of captions after their own picture and another.
//!
//!     cargo run --release --example unified_perplexity -- runs/unified/model runs/unified/holdout.json

use std::error::Error;
use std::path::Path;

use bifocal_align::Recipe;
use bifocal_align::batch::{Batch, Dialogues, Images, Part, Texts};
use bifocal_align::losses::Positives;
use bifocal_align::methods;
use bifocal_align::vq::HeldOut;
use bifocal_data::source::{Dataset, Sample};
use bifocal_data::{ImageSource, Limits};
use bifocal_models::adapter::HeadConfig;
use bifocal_models::chat::{ChatModel, Dialogue, Sequence};
use bifocal_models::towers::Towers;
use bifocal_models::unified::looks;
use bifocal_nn::Tensor;
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;

/// Pictures at once.
const BATCH: usize = 8;

/// A held-out picture.
struct Seen {
    codes: Vec<u32>,
    looks: Tensor<2>,
    caption: Sequence,
}

/// Sums of losses, and how many tokens they are of, one a picture.
type Sums = Vec<(f64, f64)>;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, holdout] = args.as_slice() else {
        return Err("usage: unified_perplexity MODEL HOLDOUT.json".into());
    };
    let model = ChatModel::open(Path::new(model))?;
    let seen = held_out(holdout)?
        .iter()
        .map(|sample| see(&model, sample))
        .collect::<Result<Vec<_>, _>>()?;
    if seen.len() < 2 {
        return Err("two held-out pictures with captions are needed at least".into());
    }
    let each = seen[0].codes.len();
    let eyes = model.eyes.ok_or("it sees no pictures")?;
    let identity = HeadConfig::default().build(eyes.connector.dim(), &mut Rng::new(0))?;
    let mut towers = Towers::new(None, Some(model.text.tower), eyes.connector, identity, 0.0, None);
    let known = eyes.drawing.as_ref().map_or(0, bifocal_models::unified::Drawing::codes);
    towers.drawing = eyes.drawing;
    // after their own, after those of the next picture in the list, after none
    let own = losses(&towers, &seen, 0, 0.0)?;
    let other = losses(&towers, &seen, 1, 0.0)?;
    let none = losses(&towers, &seen, 0, 1.0)?;
    println!("{} held-out pictures of {each} codes out of {known}", seen.len());
    println!(
        "codes by how often each comes in these pictures: perplexity {:.1}",
        frequencies(&seen, known)
    );
    println!(
        "codes after their own caption:   perplexity {:.2}",
        perplexity(&own.codes)
    );
    println!(
        "codes after another's caption:   perplexity {:.2} (own is likelier for {} of {})",
        perplexity(&other.codes),
        likelier(&own.codes, &other.codes),
        seen.len()
    );
    println!(
        "codes after no caption:          perplexity {:.2}",
        perplexity(&none.codes)
    );
    println!(
        "captions after their own picture: perplexity {:.2}",
        perplexity(&own.captions)
    );
    // the caption that stands after another picture: sums are numbered by pictures
    let moved: Sums = (0..seen.len())
        .map(|i| other.captions[(i + seen.len() - 1) % seen.len()])
        .collect();
    println!(
        "captions after another picture:   perplexity {:.2} (own is likelier for {} of {})",
        perplexity(&moved),
        likelier(&own.captions, &moved),
        seen.len()
    );
    Ok(())
}

/// The pictures of a run's list that have an English caption.
fn held_out(path: &str) -> Result<Vec<Sample>, Box<dyn Error>> {
    let held: Vec<HeldOut> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let mut samples = Vec::new();
    let mut sources: Vec<&str> = held.iter().map(|held| held.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        let of = |sample: &Sample| {
            held.iter()
                .any(|held| held.source == source && held.image == sample.key)
        };
        samples.extend(Dataset::open(Path::new(source))?.samples.into_iter().filter(of));
    }
    let speaks = |sample: &Sample| sample.captions.get("en").is_some_and(|all| !all.is_empty());
    samples.retain(|sample| sample.image != ImageSource::None && speaks(sample));
    Ok(samples)
}

fn see(model: &ChatModel, sample: &Sample) -> Result<Seen, Box<dyn Error>> {
    let eyes = model.eyes.as_ref().ok_or("it sees no pictures")?;
    let tower = eyes.vision.tower.token_encoder().ok_or("it reads no codes")?;
    let preprocess = &eyes.vision.preprocess;
    let picture = sample.image.open(&Limits::default(), preprocess.conventions)?;
    let codes = eyes.vision.codes(&preprocess.apply(&picture)?, 1)?;
    let caption = sample
        .captions
        .get("en")
        .and_then(|all| all.first())
        .ok_or("no caption")?;
    Ok(Seen {
        looks: looks(tower, &codes.clone().into())?,
        codes,
        caption: model.sequence(&Dialogue::pair(true, "", caption))?,
    })
}

struct Losses {
    captions: Sums,
    codes: Sums,
}

/// Of each picture with the caption `by` places after its own, `drop` of the pictures without.
fn losses(towers: &Towers, seen: &[Seen], by: usize, drop: f64) -> Result<Losses, Box<dyn Error>> {
    let mut recipe = Recipe {
        method: "unified".to_owned(),
        ..Recipe::default()
    };
    recipe.unified.drop = drop;
    let (stage, _) = methods::stages(&recipe)?.into_iter().next().ok_or("no stage")?;
    let mut losses = Losses {
        captions: Vec::new(),
        codes: Vec::new(),
    };
    for start in (0..seen.len()).step_by(BATCH) {
        let part = start..(start + BATCH).min(seen.len());
        let (n, pictures) = (part.len(), &seen[part.clone()]);
        let batch = Batch {
            images: Some(Images::Drawn {
                codes: pictures.iter().flat_map(|one| one.codes.iter().copied()).collect(),
                looks: Tensor::cat(pictures.iter().map(|one| one.looks.clone()).collect(), 0),
                each: pictures[0].codes.len(),
            }),
            texts: Texts::Dialogues(Dialogues {
                all: part.map(|i| seen[(i + by) % seen.len()].caption.clone()).collect(),
                before: [0; 2],
            }),
            positives: Positives::new(n, (0..n).collect()).ok_or("no pictures")?,
            queries: None,
            negatives: None,
            teacher_images: None,
            teacher_tokens: None,
            teacher_texts: None,
            reference: None,
            first: [0; 3],
        };
        let all = stage.objective.embed(towers, &batch, 0)?;
        let sums = |part| Ok::<_, Box<dyn Error>>(values(all.get(part)?));
        let pairs = |flat: Vec<f32>| {
            flat.chunks_exact(2)
                .map(|p| (f64::from(p[0]), f64::from(p[1])))
                .collect::<Sums>()
        };
        losses.captions.extend(pairs(sums(Part::Answers)?));
        losses.codes.extend(pairs(sums(Part::Drawn)?));
    }
    Ok(losses)
}

fn perplexity(sums: &Sums) -> f64 {
    let (loss, tokens) = sums.iter().fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    (loss / tokens).exp()
}

/// How often the first are likelier.
fn likelier(own: &Sums, other: &Sums) -> usize {
    own.iter()
        .zip(other)
        .filter(|(own, other)| own.0 / own.1 < other.0 / other.1)
        .count()
}

/// Perplexity of codes that were drawn as often as they come here, each by itself.
fn frequencies(seen: &[Seen], known: usize) -> f64 {
    let mut counts = vec![0.0f64; known];
    let codes = seen.iter().flat_map(|one| &one.codes);
    codes.for_each(|&code| counts[code as usize] += 1.0);
    let all: f64 = counts.iter().sum();
    let used = counts.iter().filter(|&&count| count > 0.0);
    (-used.map(|count| count / all * (count / all).ln()).sum::<f64>()).exp()
}
