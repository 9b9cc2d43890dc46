//! Flickr30k and COCO with Karpathy's split, in the forms that the annotations are passed around in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::context::{Context, json, lines, malformed};
use crate::languages::{english_retrieval, first_captions};
use crate::{BenchmarkError, Task};

/// File name and captions of each picture.
pub(crate) type Rows = Vec<(String, Vec<String>)>;

/// BLIP's lists, and LLM2CLIP's of long captions.
#[derive(Deserialize)]
pub(crate) struct Listed {
    image: String,
    caption: OneOrMany,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

pub(crate) fn flickr30k(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let rows = if let Some(path) = ctx.optional(&["flickr30k_test.json"]) {
        listed(&path)?
    } else if let Some(path) = ctx.optional(&["flickr30k_test_karpathy.txt"]) {
        caption_lines(&path)?
    } else if let Some(path) = ctx.optional(&["dataset_flickr30k.json"]) {
        karpathy(&path)?
    } else if let Some(path) = ctx.optional(&["results_20130124.token"]) {
        let test = ctx.path(&["test.txt", "flickr30k_test.txt"])?;
        let names = lines(&test)?
            .into_iter()
            .map(|(_, l)| l.trim_end_matches(".jpg").to_owned());
        tokens(&path, &names.collect())?
    } else {
        return Err(ctx.absent("flickr30k_test.json"));
    };
    let folders = ["", "flickr30k-images", "flickr30k_images", "Images"].map(|f| ctx.root.join(f));
    let captions = ctx.options.captions.unwrap_or(5);
    let task = english_retrieval(ctx, &folders, rows, captions, 1_000)?;
    Ok((
        task,
        format!("Karpathy's 1,000 test pictures, {}.", first_captions(captions)),
    ))
}

/// Some of the 5,000 pictures have six or seven captions, 25,010 in all: the first five count.
pub(crate) fn coco(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let rows = if let Some(path) = ctx.optional(&["coco_karpathy_test.json"]) {
        listed(&path)?
    } else if let Some(path) = ctx.optional(&["coco_test_karpathy.json"]) {
        instances(&path)?
    } else if let Some(path) = ctx.optional(&["dataset_coco.json"]) {
        karpathy(&path)?
    } else {
        return Err(ctx.absent("coco_karpathy_test.json"));
    };
    let folders = ["", "val2014", "images"].map(|f| ctx.root.join(f));
    let captions = ctx.options.captions.unwrap_or(5);
    let task = english_retrieval(ctx, &folders, rows, captions, 5_000)?;
    Ok((
        task,
        format!("Karpathy's 5,000 test pictures, {}.", first_captions(captions)),
    ))
}

/// COCO's validation pictures of 2017 (Long-CLIP; LIFT with one caption each).
pub(crate) fn coco_2017(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let path = ctx.path(&["annotations/captions_val2017.json", "captions_val2017.json"])?;
    let rows = instances(&path)?;
    let captions = ctx.options.captions.unwrap_or(5);
    let folders = ["val2017", "", "images"].map(|f| ctx.root.join(f));
    let task = english_retrieval(ctx, &folders, rows, captions, 5_000)?;
    Ok((
        task,
        format!("The 5,000 validation pictures of 2017, {}.", first_captions(captions)),
    ))
}

/// `[{"image": …, "caption": "…" or ["…"]}]`.
pub(crate) fn listed(path: &Path) -> Result<Rows, BenchmarkError> {
    let rows: Vec<Listed> = json(path)?;
    let texts = |caption| match caption {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    };
    Ok(rows.into_iter().map(|row| (row.image, texts(row.caption))).collect())
}

/// CLIP_benchmark's text files: a line of headings, then `name.jpg,caption`. The pictures are in the order of their first caption.
pub(crate) fn caption_lines(path: &Path) -> Result<Rows, BenchmarkError> {
    let mut rows = Grouped::default();
    for (number, line) in lines(path)?.into_iter().skip(1) {
        // captions have commas, names may have ones too
        let (name, caption) = line
            .split_once(".jpg,")
            .ok_or_else(|| malformed(path, Some(number), "expected name.jpg,caption"))?;
        rows.add(&format!("{name}.jpg"), caption);
    }
    Ok(rows.0)
}

/// The original file: `name.jpg#0<tab>caption`. Only pictures that `wanted` names, without their ending.
pub(crate) fn tokens(path: &Path, wanted: &HashSet<String>) -> Result<Rows, BenchmarkError> {
    let mut rows = Grouped::default();
    for (number, line) in lines(path)? {
        let parts = line
            .split_once(['\t', ' '])
            .and_then(|(id, caption)| Some((id.split_once('#')?.0, caption)));
        let (name, caption) = parts.ok_or_else(|| malformed(path, Some(number), "expected name.jpg#0<tab>caption"))?;
        let stem = name.trim_end_matches(".jpg");
        if wanted.contains(stem) {
            rows.add(&format!("{stem}.jpg"), caption.trim());
        }
    }
    Ok(rows.0)
}

/// Rows by picture, in the order of their first caption.
#[derive(Default)]
struct Grouped(Rows, HashMap<String, usize>);

impl Grouped {
    fn add(&mut self, name: &str, caption: &str) {
        let at = *self.1.entry(name.to_owned()).or_insert_with(|| {
            self.0.push((name.to_owned(), Vec::new()));
            self.0.len() - 1
        });
        self.0[at].1.push(caption.to_owned());
    }
}

#[derive(Deserialize)]
struct Karpathy {
    images: Vec<KarpathyImage>,
}

#[derive(Deserialize)]
struct KarpathyImage {
    #[serde(default)]
    filepath: PathBuf,
    filename: PathBuf,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

/// Karpathy's own files, with all splits in one.
fn karpathy(path: &Path) -> Result<Rows, BenchmarkError> {
    let all: Karpathy = json(path)?;
    let test = all.images.into_iter().filter(|i| i.split == "test");
    let name = |i: &KarpathyImage| i.filepath.join(&i.filename).to_string_lossy().into_owned();
    Ok(test
        .map(|i| (name(&i), i.sentences.into_iter().map(|s| s.raw).collect()))
        .collect())
}

#[derive(Deserialize)]
struct Instances {
    images: Vec<InstanceImage>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct InstanceImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    caption: String,
}

/// COCO's own form; pictures by id, captions in the order of the file.
fn instances(path: &Path) -> Result<Rows, BenchmarkError> {
    let all: Instances = json(path)?;
    let mut rows: BTreeMap<u64, (String, Vec<String>)> = all
        .images
        .into_iter()
        .map(|i| (i.id, (i.file_name, Vec::new())))
        .collect();
    for (at, annotation) in all.annotations.into_iter().enumerate() {
        let row = rows.get_mut(&annotation.image_id);
        row.ok_or_else(|| {
            malformed(
                path,
                Some(at + 1),
                format!("the caption's picture {} is not in images", annotation.image_id),
            )
        })?
        .1
        .push(annotation.caption);
    }
    Ok(rows.into_values().collect())
}
