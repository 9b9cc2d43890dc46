//! How much time is saved where less is computed; ours with and without take turns, so that a busy machine is so for both.
//!
//! `cargo run --release --example less_work -- patches [SHARE] [ROUNDS]`: a training step of a ViT-B/16 on pictures alone that leaves a share of the patches out (0.5 unless
//! told otherwise), beside one that sees all.
//!
//! `cargo run --release --example less_work -- prompt MODEL [ROUNDS]`: captions in a prompt through the language model in a folder or file, with what they begin with computed once
//! in a batch, beside computed in each.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use bifocal_kernels::allocator::{self, Allocator};
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::TokenBatch;
use bifocal_models::vision::{ImageBatch, Vit, VitConfig};
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::optim::{Gradients, Optimizer, OptimizerConfig, OptimizerKind, Rate};
use bifocal_nn::params;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Pictures of a step.
const PICTURES: usize = 8;
/// Captions in a batch, and what is around each.
const CAPTIONS: usize = 64;
const PROMPT: &str = "Instruct: You are given one short caption of a photograph; represent what can be seen in it, so that the photograph can be found among others.\nQuery: ";

/// Seconds of turns of two kinds of work after one of each that does not count, and what they say of the first.
fn turns(
    rounds: usize,
    names: [&str; 2],
    each: f64,
    unit: &str,
    mut work: [Box<dyn FnMut() -> Outcome<()> + '_>; 2],
) -> Outcome<()> {
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (work, seconds) in work.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            work()?;
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        (all[0], all[all.len() / 2], all[all.len() - 1])
    };
    for (name, seconds) in names.iter().zip(&seconds) {
        let (least, middle, most) = median(seconds.clone());
        println!(
            "{name}: {middle:.3} s ({least:.3} to {most:.3}), {:.1} {unit}/s",
            each / middle
        );
    }
    let ratios = seconds[0].iter().zip(&seconds[1]).map(|(a, b)| a / b).collect();
    let (least, middle, most) = median(ratios);
    println!(
        "{} is {middle:.2} times as quick ({least:.2} to {most:.2}), {rounds} rounds",
        names[1]
    );
    Ok(())
}

/// A training step on pictures alone: forward, backward, AdamW.
fn step<'a>(tower: Vit, images: &'a ImageBatch) -> Box<dyn FnMut() -> Outcome<()> + 'a> {
    let config = OptimizerConfig {
        kind: OptimizerKind::AdamW,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
    };
    let rate = Rate {
        lr: 1e-4,
        weight_decay: 0.2,
    };
    let (mut optimizer, mut steps) = (Optimizer::new(config), 0);
    // in the vector only while a step does not have it
    let mut towers = vec![params::set_trainable(tower, |_| true)];
    Box::new(move || {
        let tower = towers.pop().ok_or("a step did not end")?;
        steps += 1;
        let rows = noise::scope(Noise::new(steps), || tower.embed(images));
        let [n, width] = rows.dims();
        let mut rng = Rng::new(9);
        let direction = tensor((0..n * width).map(|_| rng.normal()).collect(), [n, width]);
        let gradients = Gradients::collect(&tower, (rows * direction).sum().backward());
        towers.push(optimizer.step(tower, &gradients, 1.0, |_| rate));
        Ok(())
    })
}

fn patches(share: f64, rounds: usize) -> Outcome<()> {
    let stack = StackConfig::new(768, 12, 12, 3072, Gelu::Erf);
    let tower = Vit::new(VitConfig::clip(224, 16, 512, stack), &mut Rng::new(1));
    let less = tower.clone().with_patch_dropout(share).ok_or("no such share")?;
    let mut rng = Rng::new(2);
    let pixels = (0..PICTURES * 224 * 224 * 3).map(|_| rng.normal()).collect();
    let images = ImageBatch::square(pixels, PICTURES, 224).ok_or("no pictures")?;
    let name = format!("without {share} of them");
    turns(
        rounds,
        ["all patches", &name],
        PICTURES as f64,
        "pictures",
        [step(tower, &images), step(less, &images)],
    )
}

fn prompt(model: &Path, rounds: usize) -> Outcome<()> {
    let encoder = open_text(model, &TextOptions::default())?;
    let things = [
        "a dog",
        "two cats",
        "a red bus",
        "an old man",
        "three children",
        "a train",
        "a small boat",
        "a white horse",
    ];
    let places = [
        "on the beach",
        "in the snow",
        "beside a table",
        "under a tree",
        "in front of a house",
        "at night",
        "on a street",
        "in the water",
    ];
    let captions = things
        .iter()
        .flat_map(|thing| places.iter().map(move |place| format!("{PROMPT}{thing} {place}")));
    let captions: Vec<String> = captions.take(CAPTIONS).collect();
    let tokens = encoder.tokenize(&captions.iter().map(String::as_str).collect::<Vec<_>>())?;
    let batch = TokenBatch::of(tokens.iter());
    println!(
        "{CAPTIONS} captions of {:.1} tokens each, of which all begin with the same {}",
        batch.tokens() as f64 / CAPTIONS as f64,
        batch.common_prefix()
    );
    let (tower, pooling) = (&encoder.tower, encoder.pooling);
    let alone = || {
        values(tower.embed(&batch, pooling));
        Ok(())
    };
    let shared = || {
        values(tower.infer(&batch, pooling));
        Ok(())
    };
    turns(
        rounds,
        ["in each", "computed once"],
        CAPTIONS as f64,
        "captions",
        [Box::new(alone), Box::new(shared)],
    )
}

fn main() -> Outcome<()> {
    allocator::keep_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = |at: usize| args.get(at).map_or(Ok(5), |rounds| rounds.parse());
    match args.first().map(String::as_str) {
        Some("patches") => patches(args.get(1).map_or(Ok(0.5), |share| share.parse())?, rounds(2)?),
        Some("prompt") => prompt(Path::new(args.get(1).ok_or("which model?")?), rounds(2)?),
        _ => Err("say patches or prompt; the first lines of the example's source tell what they do".into()),
    }
}
