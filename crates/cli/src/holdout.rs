//! After training: the pictures that were held out, next to chance and to a ridge regression on the same data.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bifocal_align::recipe::Recipe;
use bifocal_align::train::collective::Alone;
use bifocal_align::train::{self, Pairs, Silent};
use bifocal_data::atomic::write_atomic;
use bifocal_data::source::{Dataset, Sample};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_eval::{Lambda, Ridge, Role, Table, retrieval};
use bifocal_models::bundle::Model;
use serde::Deserialize;

use crate::model;
use crate::pictures::{self, Embedded};

/// More languages than this are summed up in one row beside English.
const LANGUAGES: usize = 5;

/// A line of `holdout.json`.
#[derive(Deserialize)]
struct HeldOut {
    source: String,
    image: String,
}

/// Evaluates a finished run on what it held out, prints a table for each source and writes `holdout-report.json`.
pub fn evaluate(recipe: &Recipe, bundle: &Path, run: &Path) -> Result<()> {
    recipe.compute.device.scope(|| evaluate_here(recipe, bundle, run))
}

/// The towers of the run's cache and the finished model have to be in one place.
fn evaluate_here(recipe: &Recipe, bundle: &Path, run: &Path) -> Result<()> {
    let path = run.join("holdout.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let held: Vec<HeldOut> = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    if held.is_empty() {
        return Ok(());
    }
    let model = model::open_joint(bundle)?;
    // The features are in the cache since the run used them; only towers that learnt are read again.
    let pairs = train::pairs(recipe, &mut Silent)?;
    let ridge = Ridge::fit(
        &pairs.images,
        &pairs.texts,
        pairs.image_dim,
        pairs.text_dim,
        Lambda::Validated(None),
    )?;
    let mut tables = Vec::new();
    let sources: BTreeSet<&str> = held.iter().map(|h| h.source.as_str()).collect();
    for source in sources {
        let wanted: BTreeSet<&str> = held
            .iter()
            .filter(|h| h.source == source)
            .map(|h| h.image.as_str())
            .collect();
        let mut samples = Dataset::open(Path::new(source))?.samples;
        samples.retain(|s| wanted.contains(s.key.as_str()));
        let stages = recipe
            .running()
            .into_iter()
            .map(|stage| recipe.of_stage(stage).data.sources);
        let spec = stages.flatten().find(|s| s.path == source || s.test == source);
        let languages = spec.as_ref().map_or(&[][..], |s| &s.languages);
        let judge = Judge {
            prompt: recipe
                .text
                .facets
                .first()
                .or(recipe.text.prompt.as_ref())
                .map(String::as_str),
            model: &model,
            ridge: &ridge,
            pairs: &pairs,
        };
        tables.push(judge.table(source, &samples, languages)?);
    }
    for table in &tables {
        println!("\n{}", table.to_text());
    }
    let report = run.join("holdout-report.json");
    let json = serde_json::to_string_pretty(&tables)?;
    write_atomic(&report, |file| file.write_all(json.as_bytes()))
        .with_context(|| format!("writing {}", report.display()))
}

/// The model and the baseline.
struct Judge<'a> {
    prompt: Option<&'a str>,
    model: &'a Model,
    ridge: &'a Ridge,
    pairs: &'a Pairs,
}

/// The pictures' unit rows of both systems.
struct Gallery {
    model: Embedded,
    ridge: Vec<f32>,
}

impl Judge<'_> {
    fn table(&self, source: &str, samples: &[Sample], languages: &[String]) -> Result<Table> {
        let gallery = self.gallery(samples)?;
        let mut table = Table::new(&format!("held out of {source}"));
        for (name, wanted) in groups(samples, languages) {
            let mut texts = Vec::new();
            let mut owners = Vec::new();
            for (row, &sample) in gallery.model.samples.iter().enumerate() {
                let captions = wanted.iter().filter_map(|&l| samples[sample].captions.get(l)).flatten();
                texts.extend(captions.map(String::as_str));
                owners.resize(texts.len(), row);
            }
            let rows = pictures::embed_texts(self.model, &texts, &Alone)?;
            let report = retrieval(&gallery.model.rows, &rows, self.model.dim(), &owners)?;
            table.push(&name, Role::Model, report);
            let report = retrieval(
                &gallery.ridge,
                &self.text_features(&texts)?,
                self.pairs.text_dim,
                &owners,
            )?;
            table.push(&format!("{name}, ridge"), Role::Baseline, report);
        }
        Ok(table)
    }

    fn gallery(&self, samples: &[Sample]) -> Result<Gallery> {
        let model = pictures::embed(self.model, samples, &Alone)?;
        let paths: Vec<&ImageSource> = model.samples.iter().map(|&s| &samples[s].image).collect();
        let mut ridge = Vec::new();
        for chunk in paths.chunks(pictures::BATCH) {
            let vision = &self.pairs.vision;
            let loaded = load_images(chunk, &vision.preprocess, &Limits::default())?;
            ridge.extend(self.ridge.predict(&vision.embed(&loaded.pixels, loaded.good.len())?)?);
        }
        Ok(Gallery { model, ridge })
    }

    /// Unit rows of the pretrained text tower.
    fn text_features(&self, texts: &[&str]) -> Result<Vec<f32>> {
        let prompted: Vec<String> = texts
            .iter()
            .map(|text| {
                self.prompt
                    .map_or_else(|| (*text).to_owned(), |prompt| prompt.replace("{}", text))
            })
            .collect();
        let (mut rows, dim) = self
            .pairs
            .text
            .embed(&prompted.iter().map(String::as_str).collect::<Vec<_>>())?;
        for row in rows.chunks_exact_mut(dim.max(1)) {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|v| *v /= length);
        }
        Ok(rows)
    }
}

/// Languages that make a row each, by name.
fn groups<'a>(samples: &'a [Sample], languages: &'a [String]) -> Vec<(String, Vec<&'a str>)> {
    let there: BTreeSet<&str> = samples
        .iter()
        .flat_map(|s| s.captions.keys().map(String::as_str))
        .collect();
    let all: Vec<&str> = there
        .into_iter()
        .filter(|l| languages.is_empty() || languages.iter().any(|k| k == l))
        .collect();
    if all.len() <= LANGUAGES {
        return all.into_iter().map(|l| (l.to_owned(), vec![l])).collect();
    }
    let mut groups = vec![(format!("{} languages", all.len()), all.clone())];
    if all.contains(&"en") {
        groups.insert(0, ("en".to_owned(), vec!["en"]));
    }
    groups
}
