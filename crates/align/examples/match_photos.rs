//! How well a Q-Former finds photos by their captions, and captions by photos: by contrast (ITC), and with the first of those ranked again by matching (ITM).
//!
//!     cargo run --release --example match_photos -- BUNDLE TRUNK FOLDER HOLDOUT.json [SHORTLIST]
//!
//! BUNDLE is what `recipes/blip2.toml` trained, TRUNK the BERT of the recipe (for its tokenizer), FOLDER has captions.jsonl and its photos, HOLDOUT.json is that of the
//! run. Each photo's first English caption takes part. As in the authors' code, of a shortlist the sum of both scores decides. First it tells how alike the rows of a picture
//! are that the language model gets: where all queries have become one (1.000), it cannot read them.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;

use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_models::adapter::{Head, QFormerHead, normalize};
use bifocal_models::chat::ChatModel;
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::TokenBatch;
use bifocal_models::vision::ImageBatch;
use bifocal_nn::Tensor;
use bifocal_nn::engine::{tensor, values};
use serde_json::Value;

/// Tokens of a caption, as in the recipe.
const MOST: usize = 32;
/// Pairs that pass at once.
const PAIRS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, trunk, folder, holdout, rest @ ..] = args.as_slice() else {
        return Err("match_photos BUNDLE TRUNK FOLDER HOLDOUT.json [SHORTLIST]".into());
    };
    let shortlist: usize = rest.first().map_or(Ok(16), |n| n.parse())?;
    let folder = PathBuf::from(folder);
    let held: Vec<Value> = serde_json::from_slice(&std::fs::read(holdout)?)?;
    let held: BTreeSet<&str> = held.iter().filter_map(|row| row["image"].as_str()).collect();
    let (mut photos, mut captions) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(folder.join("captions.jsonl"))?.lines() {
        let row: Value = serde_json::from_str(line)?;
        if let (Some(image), Some(caption)) = (row["image"].as_str(), row["captions"]["en"][0].as_str())
            && held.contains(image)
        {
            photos.push(ImageSource::File(folder.join(image)));
            captions.push(caption.to_owned());
        }
    }
    let model = ChatModel::open(&PathBuf::from(bundle))?;
    let eyes = model.eyes.as_ref().ok_or("the bundle sees no pictures")?;
    let Head::QFormer(head) = &eyes.connector else {
        return Err("the bundle's connector is no Q-Former".into());
    };
    let side = eyes.vision.preprocess.size as usize;
    let (mut patches, mut each) = (Vec::new(), 0);
    for photos in photos.chunks(PAIRS) {
        let loaded = load_images(photos, &eyes.vision.preprocess, &Limits::default())?;
        let images = ImageBatch::square(loaded.pixels, photos.len(), side).ok_or("a photo cannot be read")?;
        let (rows, count) = eyes
            .tap
            .read(&eyes.vision.tower, &images)
            .ok_or("a tower without patches")?;
        patches.extend(values(rows));
        each = count;
    }
    let encoder = open_text(&PathBuf::from(trunk), &TextOptions::default())?;
    let texts: Vec<&str> = captions.iter().map(String::as_str).collect();
    let mut tokens: Vec<Vec<u32>> = encoder.tokenize(&texts)?.into_iter().map(|e| e.ids).collect();
    for ids in tokens.iter_mut().filter(|ids| ids.len() > MOST) {
        let last = ids.split_off(MOST - 1).pop();
        ids.extend(last);
    }
    let n = photos.len();
    println!(
        "rows of a picture: mean cosine {:.4}",
        likeness(head, &patches, each, n)
    );
    let contrast = contrast(head, &patches, each, &tokens).ok_or("the Q-Former does not read texts")?;
    report("contrast", n, &contrast);
    // the best of each row and of each column are looked at again
    let mut ranked = contrast.clone();
    let mut pairs = BTreeSet::new();
    for i in 0..n {
        let best = |score: &dyn Fn(usize) -> f32| {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
            order.truncate(shortlist);
            order
        };
        pairs.extend(best(&|text| contrast[i * n + text]).into_iter().map(|text| (i, text)));
        pairs.extend(
            best(&|photo| contrast[photo * n + i])
                .into_iter()
                .map(|photo| (photo, i)),
        );
    }
    let pairs: Vec<(usize, usize)> = pairs.into_iter().collect();
    let width = patches.len() / n / each;
    for pairs in pairs.chunks(PAIRS) {
        let rows = pairs
            .iter()
            .flat_map(|(photo, _)| &patches[photo * each * width..(photo + 1) * each * width]);
        let rows = tensor(rows.copied().collect(), [pairs.len() * each, width]);
        let ids: Vec<Vec<u32>> = pairs.iter().map(|(_, text)| tokens[*text].clone()).collect();
        let logits = head
            .matches(rows, &TokenBatch::pack(&ids))
            .ok_or("the Q-Former does not read texts")?;
        for ((photo, text), logits) in pairs.iter().zip(values(logits).chunks_exact(2)) {
            // far above every pair that was not looked at
            ranked[photo * n + text] += 100.0 + logits[1];
        }
    }
    report(&format!("matching, of the best {shortlist}"), n, &ranked);
    Ok(())
}

/// Mean cosine of two different rows of a picture.
fn likeness(head: &QFormerHead, patches: &[f32], each: usize, n: usize) -> f32 {
    let (width, queries) = (patches.len() / n / each, head.config().queries as f32);
    let pictures = patches.chunks(each * width).map(|rows| {
        let rows = normalize(head.rows(tensor(rows.to_vec(), [each, width]), 1));
        // the squared length of a sum of unit vectors is their number and twice the cosines of all pairs
        let length = values(rows.sum_dim(0)).iter().map(|v| v * v).sum::<f32>();
        (length - queries) / (queries * (queries - 1.0))
    });
    pictures.sum::<f32>() / n as f32
}

/// `[photos, captions]`: the best query's cosine.
fn contrast(head: &QFormerHead, patches: &[f32], each: usize, tokens: &[Vec<u32>]) -> Option<Vec<f32>> {
    let n = tokens.len();
    let width = patches.len() / n / each;
    let images: Option<Vec<Tensor<2>>> = patches
        .chunks(PAIRS * each * width)
        .map(|rows| {
            let count = rows.len() / (each * width);
            head.embed_images(tensor(rows.to_vec(), [count * each, width]), count)
        })
        .collect();
    let texts: Option<Vec<Tensor<2>>> = tokens
        .chunks(PAIRS)
        .map(|ids| head.embed_texts(&TokenBatch::pack(ids)))
        .collect();
    let (images, texts) = (Tensor::cat(images?, 0), Tensor::cat(texts?, 0));
    let queries = head.config().queries;
    Some(values(bifocal_align::losses::query_similarities(
        images, texts, queries,
    )))
}

/// Recall at 1, 5 and 10: the own one is among the best so many; of equals it comes last.
fn report(what: &str, n: usize, scores: &[f32]) {
    let recall = |score: &dyn Fn(usize, usize) -> f32| {
        let place = |i: usize| (0..n).filter(|&j| j != i && score(i, j) >= score(i, i)).count();
        let places: Vec<usize> = (0..n).map(place).collect();
        [1, 5, 10].map(|k| 100.0 * places.iter().filter(|&&place| place < k).count() as f64 / n as f64)
    };
    let [a, b] = [
        recall(&|text, photo| scores[photo * n + text]),
        recall(&|photo, text| scores[photo * n + text]),
    ];
    println!(
        "{what}: caption → photo {:.1} / {:.1} / {:.1}, photo → caption {:.1} / {:.1} / {:.1} ({n} pairs)",
        a[0], a[1], a[2], b[0], b[1], b[2]
    );
}
