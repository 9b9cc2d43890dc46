//! Sets of the user's own: any folder of captioned or labelled pictures, and CLIP_benchmark's webdataset layout.

use std::path::Path;

use crate::context::{Context, bytes, malformed, text, words};
use crate::languages::{all_or_asked, first_captions};
use crate::names::{english, english_only};
use crate::{Accuracy, BenchmarkError, Captions, Classification, Prompts, Retrieval, Task, Templates};
use bifocal_data::source::{Dataset, ImageSource};

/// Labelled pictures: `labels.jsonl`, a CSV with labels, or a folder for each class.
pub(crate) fn zero_shot(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    if ctx.optional(&["test/nshards.txt"]).is_some() {
        return webdataset(ctx);
    }
    english_only(ctx)?;
    let (test, train) = match (ctx.optional(&["test"]), ctx.optional(&["train"])) {
        (Some(test), Some(train)) => (
            Dataset::open(&test)?,
            ctx.options.train.then(|| Dataset::open(&train)).transpose()?,
        ),
        _ => (Dataset::open(ctx.root)?, None),
    };
    ctx.skipped.extend(test.skipped.clone());
    let mut names: Vec<String> = test.samples.iter().filter_map(|s| s.label.clone()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() < 2 {
        return Err(ctx.absent(&format!(
            "labels.jsonl or a folder for each of at least two classes ({} found)",
            names.len()
        )));
    }
    let labelled = |data: Dataset| -> (Vec<ImageSource>, Vec<usize>) {
        let class = |label: &Option<String>| names.binary_search(label.as_ref()?).ok();
        let pairs = data.samples.into_iter().filter(|s| !s.image.is_none());
        pairs.filter_map(|s| Some((s.image, class(&s.label)?))).unzip()
    };
    let (images, labels) = labelled(test);
    let train = train.map(labelled);
    let task = Task::Classification(Classification {
        images,
        labels,
        classes: names.len(),
        prompts: english(names, "simple"),
        headline: Accuracy::Top1,
        train,
    });
    Ok((task, "The labels as names, sorted; seven templates.".to_owned()))
}

/// Captioned pictures: `captions.jsonl` and all else that [`Dataset::open`] reads.
pub(crate) fn retrieval(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    if ctx.optional(&["test/nshards.txt"]).is_some() {
        return webdataset(ctx);
    }
    let data = Dataset::open(ctx.root)?;
    ctx.skipped.extend(data.skipped.clone());
    let known: Vec<String> = data.languages().keys().map(|l| (*l).to_owned()).collect();
    if known.is_empty() {
        return Err(ctx.absent("captions.jsonl, or captions in any other form"));
    }
    let languages = all_or_asked(ctx, &known)?;
    let limit = ctx.options.captions.unwrap_or(usize::MAX);
    let mut images = Vec::new();
    let mut captions: Vec<Captions> = languages.iter().map(|l| Captions::new(l)).collect();
    for sample in data.samples.into_iter().filter(|s| !s.image.is_none()) {
        for (language, to) in languages.iter().zip(&mut captions) {
            let texts = sample.captions.get(language).into_iter().flatten().take(limit);
            to.captions.extend(texts.map(|t| (t.clone(), images.len())));
        }
        images.push(sample.image);
    }
    let protocol = format!(
        "{} of each picture; pictures without one are searched too.",
        first_captions(limit)
    );
    Ok((
        Task::Retrieval(Retrieval {
            images,
            languages: captions,
        }),
        protocol,
    ))
}

/// CLIP_benchmark's own layout: `test/nshards.txt`, `test/0.tar` …, `classnames.txt`, `zeroshot_classification_templates.txt`, and
/// `dataset_type.txt` with "retrieval" for captions (one a line of `.txt`).
pub(crate) fn webdataset(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let kind = match ctx.optional(&["dataset_type.txt"]) {
        Some(path) => text(&path)?.trim().to_lowercase(),
        None => "classification".to_owned(),
    };
    let test = shards(ctx, "test")?;
    match kind.as_str() {
        "classification" => classification(ctx, test),
        "retrieval" => captions(ctx, test),
        other => Err(malformed(
            &ctx.root.join("dataset_type.txt"),
            None,
            format!("the kind {other:?} is not read, but classification and retrieval are"),
        )),
    }
}

fn classification(ctx: &mut Context, test: Dataset) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let names = words(&ctx.path(&["classnames.txt"])?)?;
    let templates = match ctx.optional(&["zeroshot_classification_templates.txt"]) {
        Some(path) => Templates::Given {
            name: "zeroshot_classification_templates.txt".to_owned(),
            texts: words(&path)?,
        },
        None => Templates::Named("imagenet"),
    };
    let labelled = |data: Dataset| {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for sample in data.samples {
            let class = sample
                .label
                .as_deref()
                .and_then(|l| l.parse::<usize>().ok())
                .filter(|&c| c < names.len());
            let wrong = || {
                malformed(
                    &data.root,
                    None,
                    format!("{} has no .cls with a class below {}", sample.key, names.len()),
                )
            };
            labels.push(class.ok_or_else(wrong)?);
            images.push(sample.image);
        }
        Ok::<_, BenchmarkError>((images, labels))
    };
    let (images, labels) = labelled(test)?;
    let train = match ctx.options.train && ctx.optional(&["train/nshards.txt"]).is_some() {
        true => Some(labelled(shards(ctx, "train")?)?),
        false => None,
    };
    let task = Task::Classification(Classification {
        images,
        labels,
        classes: names.len(),
        prompts: vec![Prompts {
            language: "en".to_owned(),
            classes: (0..names.len()).collect(),
            names,
            templates,
        }],
        headline: Accuracy::Top1,
        train,
    });
    Ok((task, "Pictures, names and templates of the webdataset.".to_owned()))
}

fn captions(ctx: &mut Context, test: Dataset) -> Result<(Task, String), BenchmarkError> {
    let limit = ctx.options.captions.unwrap_or(usize::MAX);
    let mut english = Captions::new("en");
    let mut images = Vec::new();
    for sample in test.samples {
        let texts = sample.captions.values().flatten().flat_map(|t| t.lines());
        english
            .captions
            .extend(texts.take(limit).map(|t| (t.to_owned(), images.len())));
        images.push(sample.image);
    }
    let protocol = format!("{} of each picture of the webdataset.", first_captions(limit));
    let languages = vec![english];
    Ok((Task::Retrieval(Retrieval { images, languages }), protocol))
}

/// All pictures of a split, in the order of its shards.
fn shards(ctx: &mut Context, split: &str) -> Result<Dataset, BenchmarkError> {
    let path = ctx.path(&[&format!("{split}/nshards.txt")])?;
    let count = String::from_utf8_lossy(&bytes(&path)?).trim().parse::<usize>().ok();
    let count = count.filter(|c| (1..=100_000).contains(c));
    let count = count.ok_or_else(|| malformed(&path, None, "expected the number of shards, from 1 to 100000"))?;
    let mut whole: Option<Dataset> = None;
    for number in 0..count {
        let path = ctx.path(&[&format!("{split}/{number}.tar")])?;
        let shard = Dataset::open(Path::new(&path))?;
        ctx.skipped.extend(shard.skipped);
        match &mut whole {
            Some(whole) => whole.samples.extend(shard.samples),
            None => {
                whole = Some(Dataset {
                    skipped: Vec::new(),
                    ..shard
                })
            }
        }
    }
    let whole = whole.ok_or_else(|| ctx.absent(&format!("{split}/0.tar")))?;
    if !ctx.skipped.is_empty() {
        // each is a member or the rest of an archive that should be there
        let first = ctx.skipped[0].to_string();
        if !ctx.options.partial {
            return Err(malformed(
                &whole.root,
                None,
                format!("{first}; allow a part of the set to go on without it"),
            ));
        }
        ctx.part = Some(format!("Only a part: {} members could not be used.", ctx.skipped.len()));
    }
    Ok(whole)
}
