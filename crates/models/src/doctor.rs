//! Checks a model end to end and says what is wrong with it: what cannot be read, what reads and cannot be right, and what is only likely.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::bundle::reference::{self, TEXTS};
use crate::bundle::{BundleError, Located, MANIFEST, Manifest, Model, VisionPart, locate};
use crate::chat::{ChatModel, Conversation, Speech};
use crate::inspect::{Hashing, inspect};
use crate::open::TextOptions;
use crate::unified::{self, Brush};
use crate::weights::{self, HostTensor};

/// How far an embedding may be from its reference, as for the fixtures of the tests: largest difference, and cosine.
const TOLERANCE: f32 = 2e-4;
const COSINE: f64 = 0.9999;
/// How far a text's embedding may be from the one that it has in a batch.
const BATCH_TOLERANCE: f32 = 1e-4;
/// Names that a list of tensors shows.
const SHOWN: usize = 5;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It was looked at and is as it should be.
    Good,
    /// It may be meant so.
    Note,
    /// Embeddings are wrong or there are none.
    Problem,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at and found, and for a problem what to do.
    pub text: String,
}

/// Families of checkpoints that people know: a part of their names, and the activation that they were trained with.
const FAMILIES: [(&str, &str); 5] = [
    ("openai", "quick_gelu"),
    ("dfn", "quick_gelu"),
    ("laion", "gelu"),
    ("datacomp", "gelu"),
    ("commonpool", "gelu"),
];

/// Findings in the order in which they were made; that nothing is wrong is said as well.
pub fn examine(path: &Path) -> Vec<Finding> {
    let mut report = Report::default();
    report.settings(path);
    report.weights(path);
    match Model::open(path, &TextOptions::default()) {
        Ok(model) => {
            report.good(format!("it opens, embeddings have {} values", model.dim()));
            report.tokenizer(&model);
            report.embeddings(path, &model);
        }
        Err(error) => match ChatModel::open(path) {
            Ok(model) if model.eyes.is_some() => report.talk(&model),
            _ => report.problem(error.to_string()),
        },
    }
    report.findings
}

/// What is wrong with what an opened model computes: nothing finite, the same for everything, or not what the bundle in `path` was written
/// with. Nothing when it is as it should be; takes a few embeddings' time.
pub fn self_test(path: &Path, model: &Model) -> Vec<Finding> {
    let mut report = Report::default();
    report.embeddings(path, model);
    report.findings.retain(|finding| finding.severity == Severity::Problem);
    report.findings
}

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, text: impl Into<String>) {
        let text = text.into();
        self.findings.push(Finding { severity, text });
    }

    fn good(&mut self, text: impl Into<String>) {
        self.add(Severity::Good, text);
    }

    fn note(&mut self, text: impl Into<String>) {
        self.add(Severity::Note, text);
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.add(Severity::Problem, text);
    }

    /// A model that talks and embeds nothing: whether it can say a word about a picture.
    fn talk(&mut self, model: &ChatModel) {
        let grey = model
            .eyes
            .as_ref()
            .map(|eyes| vec![0.0; eyes.vision.preprocess.values()]);
        let speech = Speech {
            max_tokens: 1,
            ..Speech::default()
        };
        let said = Conversation::new(model, grey.as_deref(), None, speech).and_then(|mut talk| talk.ask("", |_| true));
        match said {
            Ok(_) => {
                self.good("it talks about pictures and has no embeddings to search with: use it with `bifocal chat`")
            }
            Err(error) => self.problem(error.to_string()),
        }
        if model.eyes.as_ref().is_some_and(|eyes| eyes.drawing.is_some()) {
            self.draw(model);
        }
    }

    /// Whether a model that draws can say the first code of a picture, and its decoder make pixels of a code.
    fn draw(&mut self, model: &ChatModel) {
        if let Err(error) = unified::draw(model, "a", &Brush::default(), |_| false) {
            return self.problem(error.to_string());
        }
        let tower = model.eyes.as_ref().and_then(|eyes| eyes.vision.tower.token_encoder());
        match tower
            .and_then(|tower| tower.codec())
            .map(|codec| codec.decode(&[0], [1; 2]))
        {
            Some(Ok(pixels)) if pixels.iter().all(|v| v.is_finite()) => {
                self.good("it draws pictures from texts: `bifocal chat --draw FILE.png --prompt TEXT`");
            }
            Some(Err(error)) => self.problem(error.to_string()),
            _ => self
                .problem("its decoder gives no numbers for a code; its weights are damaged, fetch or train it again"),
        }
    }

    /// What is missing beside the weights, and activations that a family was not trained with.
    fn settings(&mut self, path: &Path) {
        let Ok(found) = inspect(path, Hashing::Small) else {
            // opening it says the same, and more
            return;
        };
        self.good(format!("it is described as: {}", found.kind));
        for folder in folders(path) {
            let here = |name: &str| folder.join(name).is_file();
            let settings = here("config.json") && !here("open_clip_config.json");
            if found.vision_tower.is_some() && settings && !here("preprocessor_config.json") {
                self.note(format!(
                    "{} has no preprocessor_config.json: what is usual for such towers is taken; fetch the file if the model has another",
                    folder.display()
                ));
            }
            let bert = found.kind == "transformers bert";
            if bert && !here("1_Pooling/config.json") {
                self.note(format!(
                    "{} does not say how token vectors become one (1_Pooling/config.json): the mean is taken; check it with the model's page",
                    folder.display()
                ));
            }
            let name = checkpoint_name(&folder).to_lowercase();
            let family = FAMILIES.iter().find(|(family, _)| name.contains(family));
            let activation = found.vision_tower.as_ref().and_then(|t| t.facts.activation.as_deref());
            if let (Some((family, right)), Some(said)) = (family, activation) {
                if said == *right {
                    self.good(format!("the activation {said} is that of the {family} family"));
                } else {
                    self.problem(format!(
                        "the settings say {said}, but checkpoints of the {family} family were trained with {right}; set {}",
                        if here("open_clip_config.json") { "\"quick_gelu\" in model_cfg" } else { "\"hidden_act\" of both towers" }
                    ));
                }
            }
        }
        if found.kind.starts_with("GGUF") {
            self.note("a bare language model: nothing says how token vectors become one, the mean is taken; choose with --pooling");
        }
    }

    /// Numbers that are none, and tables of zeros.
    fn weights(&mut self, path: &Path) {
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => return self.problem(error.to_string()),
        };
        for file in files {
            let source = match weights::open(&file) {
                Ok(source) => source,
                Err(error) => {
                    self.problem(error.to_string());
                    continue;
                }
            };
            let (mut broken, mut zero, mut count) = (Vec::new(), Vec::new(), 0usize);
            for name in source.names() {
                match source.load(&name) {
                    Ok(HostTensor { shape, data }) => {
                        count += data.len();
                        let bad = data.iter().filter(|v| !v.is_finite()).count();
                        if bad > 0 {
                            broken.push(format!("{name} ({bad} of {})", data.len()));
                        } else if shape.len() > 1 && data.iter().all(|&v| v == 0.0) {
                            zero.push(name);
                        }
                    }
                    Err(error) => self.problem(error.to_string()),
                }
            }
            let at = file.display();
            if broken.is_empty() {
                self.good(format!("{at}: all {count} weights are numbers"));
            } else {
                self.problem(format!(
                    "{at}: not finite: {}; the file is damaged, or its training diverged: fetch it again or take an earlier checkpoint",
                    listed(&broken)
                ));
            }
            if !zero.is_empty() {
                self.note(format!(
                    "{at}: nothing but zeros: {}; such a layer was never trained",
                    listed(&zero)
                ));
            }
        }
    }

    /// A tokenizer that gives ids for which there is no row, or far fewer than there are.
    fn tokenizer(&mut self, model: &Model) {
        let Some(text) = model.text() else { return };
        let (ids, rows) = (text.tokenizer.vocab_size(), text.tower.vocabulary());
        if ids > rows {
            self.problem(format!(
                "the tokenizer knows {ids} ids, the tower has {rows} rows for them; the tokenizer is another model's, fetch the one that came with the weights"
            ));
        } else if rows - ids > 1024 && rows > ids + ids / 20 {
            self.note(format!(
                "the tower has {rows} rows, the tokenizer only {ids} ids; check that it came with the weights"
            ));
        } else {
            self.good(format!("{ids} token ids, {rows} rows"));
        }
    }

    fn embeddings(&mut self, path: &Path, model: &Model) {
        let found = match reference::embeddings(model) {
            Ok(found) => found,
            Err(error) => return self.problem(format!("it cannot embed: {error}")),
        };
        let mut sound = true;
        for (what, rows) in &found {
            if !rows.data.iter().all(|v| v.is_finite()) {
                self.problem(format!(
                    "embeddings of {what} are not finite; see what is said of its weights"
                ));
                sound = false;
            } else if collapsed(rows, model.dim()) {
                self.problem(format!(
                    "all {what} have the same embedding; weights and settings do not fit, or the model was not trained"
                ));
                sound = false;
            }
        }
        if !sound {
            return;
        }
        self.good("built-in pictures and texts have different embeddings of finite numbers");
        if let Some(batched) = found.get("texts") {
            self.alone(model, batched);
        }
        match stored(path) {
            Ok(Some(expected)) => self.compare(&found, &expected, model.dim()),
            Ok(None) if path.join(MANIFEST).is_file() => {
                self.note("the bundle was written without reference embeddings: whether it computes the same as then is not known");
            }
            Ok(None) => {}
            Err(error) => self.problem(error.to_string()),
        }
    }

    /// Each text by itself against the batch.
    fn alone(&mut self, model: &Model, batched: &HostTensor) {
        let mut worst = 0f32;
        for (text, row) in TEXTS.iter().zip(batched.data.chunks_exact(model.dim().max(1))) {
            match model.embed_texts(&[text]) {
                Ok(alone) => worst = worst.max(difference(&alone, row)),
                Err(error) => return self.problem(format!("it cannot embed {text:?}: {error}")),
            }
        }
        if worst <= BATCH_TOLERANCE {
            self.good(format!(
                "a text has the same embedding alone and in a batch (within {worst:.0e})"
            ));
        } else {
            self.problem(format!(
                "a text's embedding depends on the batch (by {worst:.1e}); please report this"
            ));
        }
    }

    fn compare(&mut self, found: &BTreeMap<String, HostTensor>, expected: &BTreeMap<String, HostTensor>, dim: usize) {
        for (what, expected) in expected {
            let same = found.get(what).filter(|found| found.shape == expected.shape);
            let Some(found) = same else {
                self.problem(format!(
                    "its reference embeddings of {what} are of another shape; copy the whole bundle again"
                ));
                continue;
            };
            let worst = difference(&found.data, &expected.data);
            let cosine = found
                .data
                .chunks_exact(dim.max(1))
                .zip(expected.data.chunks_exact(dim.max(1)))
                .map(|(a, b)| cosine(a, b))
                .fold(1.0, f64::min);
            if worst <= TOLERANCE && cosine >= COSINE {
                self.good(format!(
                    "{what}: the embeddings are as when the bundle was written (within {worst:.0e})"
                ));
            } else {
                self.problem(format!(
                    "{what}: embeddings differ by {worst:.1e} (cosine {cosine:.5}) from when the bundle was written; what it refers to has changed, or this version of Bifocal computes it differently"
                ));
            }
        }
    }
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if a.len() == b.len() { worst } else { f32::INFINITY }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Whether all rows point in one direction.
fn collapsed(rows: &HostTensor, dim: usize) -> bool {
    let mut rows = rows.data.chunks_exact(dim.max(1));
    let Some(first) = rows.next() else { return false };
    // (a row of zeros has no direction, and its cosine is not a number)
    rows.map(|row| cosine(first, row))
        .all(|cosine| cosine.is_nan() || cosine >= 0.999_999)
}

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown}, and {more} more"),
    }
}

fn stored(path: &Path) -> Result<Option<BTreeMap<String, HostTensor>>, BundleError> {
    if !path.join(MANIFEST).is_file() {
        return Ok(None);
    }
    reference::stored(path, &Manifest::read(path)?)
}

/// The folders with settings: the model's own, or those of a bundle's towers.
fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(manifest) = Manifest::read(path) else {
        return vec![path.to_owned()];
    };
    let mut names = vec![manifest.text.pretrained.path];
    if let VisionPart::Pretrained(reference) = manifest.vision {
        names.push(reference.path);
    }
    names.sort();
    names.dedup();
    let found = |name: &String| match locate(name, Some(path)) {
        Located::At(folder) => Some(folder),
        Located::Nowhere(_) => None,
    };
    names.iter().filter_map(found).collect()
}

/// All weights that a model is made of: folders and files.
fn files(path: &Path) -> Result<Vec<PathBuf>, BundleError> {
    if !path.join(MANIFEST).is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let own = |bundle: &Path| {
        Manifest::read(bundle).map(|m| m.files.keys().map(|file| bundle.join(file)).collect::<Vec<_>>())
    };
    let mut all = Vec::new();
    for folder in folders(path) {
        // a tower may be that of another bundle, which has it in a file
        match folder.join(MANIFEST).is_file() {
            true => all.extend(own(&folder)?),
            false => all.push(folder),
        }
    }
    all.extend(own(path)?);
    Ok(all)
}

/// What a checkpoint is called: by its folder, and by the settings, which often remember.
fn checkpoint_name(folder: &Path) -> String {
    let here = folder.display().to_string();
    let settings = std::fs::read(folder.join("config.json")).ok();
    let settings = settings.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let remembered = settings.as_ref().and_then(|s| s["_name_or_path"].as_str());
    // the path above the folder says where it lies and not what it is; the hub's cache has the name three levels up
    let parts: Vec<&str> = here.rsplit('/').take(3).collect();
    format!("{} {}", parts.join(" "), remembered.unwrap_or_default())
}
