//! What the lab asks of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::recipe::{Precision, Recipe};
use bifocal_align::train;
use bifocal_align::train::collective::Alone;
use bifocal_data::source::{Dataset, Sample};
use bifocal_eval::{CompositionReport, ZeroShotReport, class_weights, composition, retrieval, zero_shot};
use bifocal_models::bundle::Model;
use bifocal_models::open::TextEncoder;
use bifocal_nn::precision;
use serde::Deserialize;

use crate::output::training::Console;
use crate::pictures::{self, Embedded};

/// Languages of captions beside English that are asked for, text to picture.
pub const LANGUAGES: [&str; 4] = ["zh", "de", "fr", "cs"];

/// The prompt of zero-shot classification.
const TEMPLATE: &str = "a photo of a {}.";

/// Largest file of SugarCrepe that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// Measurements by name; what the data does not allow is not there.
pub type Scores = BTreeMap<String, f64>;

/// Everything that models are asked.
#[derive(Debug)]
pub struct Suite {
    /// Held-out pictures with captions.
    held: Vec<Sample>,
    /// Labelled pictures.
    labelled: Vec<Sample>,
    /// Pictures of the composition items.
    scenes: Vec<Sample>,
    /// Items by file.
    composition: BTreeMap<String, Vec<Item>>,
    /// Where features of texts are kept.
    cache: PathBuf,
    /// What they are computed in.
    precision: Precision,
}

/// An item of SugarCrepe whose picture is there.
#[derive(Debug)]
struct Item {
    scene: usize,
    caption: String,
    negative: String,
}

#[derive(Deserialize)]
struct HeldOut {
    image: String,
}

#[derive(Deserialize)]
struct CrepeItem {
    filename: String,
    caption: String,
    negative_caption: String,
}

impl Suite {
    /// Opens what there is, for runs of a recipe like this: `flickr8k` (the pictures that `holdout.json` of a run names), `imagenet-sample`, `sugarcrepe` with `coco`.
    ///
    /// # Errors
    /// Without held-out pictures; files that are there and cannot be read.
    pub fn open(data: &Path, holdout: &Path, recipe: &Recipe) -> Result<Self> {
        let (scenes, composition) = crepe(data)?;
        Ok(Self {
            held: held_out(data, holdout)?,
            labelled: samples(&data.join("imagenet-sample"))?,
            scenes,
            composition,
            cache: PathBuf::from(&recipe.run.cache),
            precision: recipe.compute.precision,
        })
    }

    /// How much there is of each, in words.
    pub fn describe(&self) -> String {
        let items: Vec<String> = self
            .composition
            .iter()
            .map(|(file, items)| format!("{file} {}", items.len()))
            .collect();
        format!(
            "{} held-out photos; zero-shot on {} photos; SugarCrepe items with their photo: {}",
            self.held.len(),
            self.labelled.len(),
            if items.is_empty() {
                "none".to_owned()
            } else {
                items.join(", ")
            }
        )
    }

    /// Measures a model.
    ///
    /// # Errors
    /// A model that joins no two towers, pictures of which none can be read.
    pub fn judge(&self, model: &Model) -> Result<Scores> {
        let mut scores = Scores::new();
        self.retrieval(model, &mut scores)?;
        if !self.labelled.is_empty() {
            let report = self.zero_shot(model)?;
            scores.insert("zero_shot".to_owned(), report.top1);
            scores.insert("zero_shot_top5".to_owned(), report.top5);
        }
        if !self.composition.is_empty() {
            self.compose(model, &mut scores)?;
        }
        if let Some(encoder) = model.text() {
            scores.insert("c2c".to_owned(), self.caption_to_caption(encoder, prompt(model))?);
        }
        Ok(scores)
    }

    fn retrieval(&self, model: &Model, scores: &mut Scores) -> Result<()> {
        let pictures = self.see(model, &self.held)?;
        let mut ask = |name: &str, language: &str, joined: bool, back: bool| -> Result<()> {
            let (mut texts, mut owners) = (Vec::new(), Vec::new());
            for (row, &sample) in pictures.samples.iter().enumerate() {
                let captions = self.held[sample].captions.get(language).into_iter().flatten();
                match joined {
                    true => texts.extend(long(captions.map(String::as_str))),
                    false => texts.extend(captions.cloned()),
                }
                owners.resize(texts.len(), row);
            }
            if texts.is_empty() {
                return Ok(());
            }
            let report = retrieval(&pictures.rows, &self.embed(model, &texts)?, model.dim(), &owners)?;
            scores.insert(format!("{name}_t2i"), report.text_to_image.r1);
            if back {
                scores.insert(format!("{name}_i2t"), report.image_to_text.r1);
            }
            Ok(())
        };
        ask("en", "en", false, true)?;
        ask("long", "en", true, true)?;
        for language in LANGUAGES {
            ask(language, language, false, false)?;
        }
        Ok(())
    }

    /// Among the classes of the labelled pictures.
    fn zero_shot(&self, model: &Model) -> Result<ZeroShotReport> {
        let names: BTreeSet<&str> = self.labelled.iter().filter_map(|s| s.label.as_deref()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let prompts: Vec<String> = names.iter().map(|name| TEMPLATE.replace("{}", name)).collect();
        let weights = class_weights(&self.embed(model, &prompts)?, 1, model.dim())?;
        let pictures = self.see(model, &self.labelled)?;
        let label = |&sample: &usize| names.binary_search(&self.labelled[sample].label.as_deref()?).ok();
        let labels: Vec<usize> = pictures.samples.iter().filter_map(label).collect();
        Ok(zero_shot(&pictures.rows, &weights, model.dim(), &labels)?)
    }

    /// The mean over the files of SugarCrepe of the share of items that are right, and each file's.
    fn compose(&self, model: &Model, scores: &mut Scores) -> Result<()> {
        let pictures = self.see(model, &self.scenes)?;
        let row: BTreeMap<usize, usize> = pictures.samples.iter().enumerate().map(|(row, &s)| (s, row)).collect();
        let mut accuracies = Vec::new();
        for (file, items) in &self.composition {
            let there: Vec<(usize, &Item)> = items
                .iter()
                .filter_map(|item| Some((*row.get(&item.scene)?, item)))
                .collect();
            if there.is_empty() {
                continue;
            }
            let images: Vec<usize> = there.iter().map(|(row, _)| *row).collect();
            let own: Vec<String> = there.iter().map(|(_, item)| item.caption.clone()).collect();
            let other: Vec<String> = there.iter().map(|(_, item)| item.negative.clone()).collect();
            let report: CompositionReport = composition(
                &pictures.rows,
                &self.embed(model, &own)?,
                &self.embed(model, &other)?,
                model.dim(),
                &images,
            )?;
            scores.insert(format!("sugarcrepe_{file}"), report.accuracy());
            accuracies.push(report.accuracy());
        }
        if !accuracies.is_empty() {
            let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
            scores.insert("sugarcrepe".to_owned(), mean);
        }
        Ok(())
    }

    /// How often the first English caption of a held-out picture finds its second among all second ones, by a text tower alone.
    ///
    /// # Errors
    /// Texts that the tower does not take.
    pub fn caption_to_caption(&self, encoder: &TextEncoder, prompt: Option<&str>) -> Result<f64> {
        let pairs = self
            .held
            .iter()
            .filter_map(|sample| match sample.captions.get("en")?.as_slice() {
                [first, second, ..] => Some((first.clone(), second.clone())),
                _ => None,
            });
        let (first, second): (Vec<String>, Vec<String>) = pairs.unzip();
        let unit = |texts: &[String]| -> Result<Vec<f32>> {
            let mut rows = train::text_features(
                &self.cache,
                encoder,
                prompt,
                self.precision,
                texts,
                &mut Console::new(true)?,
                &Alone,
            )?;
            for row in rows.chunks_exact_mut(encoder.tower.dim().max(1)) {
                let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                row.iter_mut().for_each(|v| *v /= length);
            }
            Ok(rows)
        };
        let owners: Vec<usize> = (0..first.len()).collect();
        let report = retrieval(&unit(&second)?, &unit(&first)?, encoder.tower.dim(), &owners)?;
        Ok(report.text_to_image.r1)
    }

    /// Unit rows of pictures.
    fn see(&self, model: &Model, samples: &[Sample]) -> Result<Embedded> {
        precision::scope(self.precision.into(), || pictures::embed(model, samples, &Alone))
    }

    /// Unit rows of texts. What a text tower makes of a text comes from the cache of the runs: rows with the same frozen tower share it.
    fn embed(&self, model: &Model, texts: &[String]) -> Result<Vec<f32>> {
        let encoder = model.text().context("the model has no text tower")?;
        let features = train::text_features(
            &self.cache,
            encoder,
            prompt(model),
            self.precision,
            texts,
            &mut Console::new(true)?,
            &Alone,
        )?;
        Ok(model.embed_text_features(features)?)
    }
}

/// What the model puts texts into.
fn prompt(model: &Model) -> Option<&str> {
    model.manifest().and_then(|manifest| manifest.text.prompt.as_deref())
}

/// The pictures of `flickr8k` that `holdout.json` of a run names.
///
/// # Errors
/// Files that cannot be read; none of the pictures is there.
pub fn held_out(data: &Path, holdout: &Path) -> Result<Vec<Sample>> {
    let text = std::fs::read_to_string(holdout).with_context(|| format!("reading {}", holdout.display()))?;
    let wanted: Vec<HeldOut> = serde_json::from_str(&text).with_context(|| format!("reading {}", holdout.display()))?;
    let wanted: BTreeSet<String> = wanted.into_iter().map(|held| held.image).collect();
    let mut held = Dataset::open(&data.join("flickr8k"))?.samples;
    held.retain(|sample| wanted.contains(&sample.key));
    if held.is_empty() {
        anyhow::bail!(
            "{} names no picture of {}: the lab needs a holdout to measure on",
            holdout.display(),
            data.join("flickr8k").display()
        );
    }
    Ok(held)
}

/// All captions of a picture as one text.
fn long<'a>(captions: impl Iterator<Item = &'a str>) -> Option<String> {
    let joined: Vec<&str> = captions.map(str::trim).collect();
    (!joined.is_empty()).then(|| joined.join(" "))
}

/// The samples of a folder, none when it is not there.
fn samples(folder: &Path) -> Result<Vec<Sample>> {
    Ok(match folder.is_dir() {
        true => Dataset::open(folder)?.samples,
        false => Vec::new(),
    })
}

/// Photos, and by file the items about them.
type Crepe = (Vec<Sample>, BTreeMap<String, Vec<Item>>);

/// The pictures of `coco` that items of `sugarcrepe/*.json` are about, and the items.
fn crepe(data: &Path) -> Result<Crepe> {
    let mut by_name: BTreeMap<String, Sample> = BTreeMap::new();
    for sample in samples(&data.join("coco"))? {
        let name = sample.key.rsplit('/').next().unwrap_or_default().to_owned();
        by_name.insert(name, sample);
    }
    let folder = data.join("sugarcrepe");
    let mut files: Vec<PathBuf> = match folder.is_dir() {
        true => std::fs::read_dir(&folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .with_context(|| format!("listing {}", folder.display()))?,
        false => Vec::new(),
    };
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    let (names, scenes): (Vec<String>, Vec<Sample>) = by_name.into_iter().unzip();
    let mut all = BTreeMap::new();
    for path in files {
        let length = path
            .metadata()
            .with_context(|| format!("reading {}", path.display()))?
            .len();
        if length > MAX_FILE {
            anyhow::bail!(
                "{} holds {length} bytes, more than a file of SugarCrepe",
                path.display()
            );
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let read: BTreeMap<String, CrepeItem> =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let items = read.into_values().filter_map(|item| {
            Some(Item {
                scene: names.binary_search(&item.filename).ok()?,
                caption: item.caption,
                negative: item.negative_caption,
            })
        });
        let items: Vec<Item> = items.collect();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !items.is_empty() {
            all.insert(name, items);
        }
    }
    Ok((scenes, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_caption_is_all_of_them() {
        assert_eq!(
            long([" a dog .", "a brown dog "].into_iter()).as_deref(),
            Some("a dog . a brown dog")
        );
        assert_eq!(long(std::iter::empty()), None);
    }

    #[test]
    fn items_without_their_photo_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let photo = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos/images"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        std::fs::create_dir_all(dir.path().join("coco/images")).unwrap();
        std::fs::copy(photo.path(), dir.path().join("coco/images/7.jpg")).unwrap();
        write(
            "coco/captions.jsonl",
            "{\"image\": \"images/7.jpg\", \"captions\": {\"en\": [\"a thing\"]}}\n",
        );
        let item =
            |file: &str| format!("{{\"filename\": \"{file}\", \"caption\": \"a\", \"negative_caption\": \"b\"}}");
        write(
            "sugarcrepe/swap_obj.json",
            &format!("{{\"0\": {}, \"1\": {}}}", item("7.jpg"), item("8.jpg")),
        );
        write("sugarcrepe/add_obj.json", &format!("{{\"0\": {}}}", item("8.jpg")));
        let (scenes, items) = crepe(dir.path()).unwrap();
        assert_eq!(scenes.len(), 1);
        assert_eq!(items.keys().collect::<Vec<_>>(), ["swap_obj"]);
        assert_eq!((items["swap_obj"].len(), items["swap_obj"][0].scene), (1, 0));
        assert!(crepe(&dir.path().join("nowhere")).unwrap().1.is_empty());
    }
}
