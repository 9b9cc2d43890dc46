//! Models × benchmarks: what is done is left alone, what is missing is measured.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::train::collective::{Ranks, Wait};
use bifocal_benchmarks::{Benchmark, Options, Task, Templates, TextTask};
use bifocal_data::ImageSource;
use bifocal_data::corrupt::Corruption;
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
use bifocal_nn::precision::Precision;

use super::features::Features;
use super::measure::measure;
use super::plan::Target;
use super::results::{FORMAT, Identity, Outcome};
use super::{export, report};
use crate::model::Compute;

/// What is asked.
pub struct Plan {
    /// The benchmarks.
    pub targets: Vec<Target>,
    /// None of them corrupted, or each corruption of all pictures.
    pub corruptions: Vec<Option<Corruption>>,
    /// How they are read.
    pub options: Options,
    /// Whether features are probed without text.
    pub probe: bool,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// How towers compute.
    pub compute: Compute,
    /// Where results go.
    pub out: PathBuf,
    /// Where features are kept.
    pub cache: PathBuf,
}

/// A benchmark that is open.
pub struct Opened {
    name: String,
    benchmark: Benchmark,
    digest: String,
}

/// A model and what it is called in tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// In tables and file names.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Named {
    /// `NAME=M`, or `M` alone: the folder's name, or that of the run when the folder is called `model`.
    pub fn parse(text: &str) -> Self {
        if let Some((name, path)) = text
            .split_once('=')
            .filter(|(name, _)| !name.contains('/') && !name.is_empty())
        {
            return Self {
                name: name.to_owned(),
                path: PathBuf::from(path),
            };
        }
        let path = PathBuf::from(text);
        let part = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let own = part(&path).unwrap_or_else(|| text.to_owned());
        let run = path.parent().and_then(part).filter(|_| own == "model");
        Self {
            name: run.unwrap_or(own),
            path,
        }
    }
}

impl Plan {
    /// Opens all benchmarks; one that came with a group and is not there is told and left out.
    ///
    /// # Errors
    /// A benchmark that was named and is not there, or none at all.
    pub fn open(&self, ranks: &dyn Ranks) -> Result<Vec<Opened>> {
        let mut opened = Vec::new();
        for target in &self.targets {
            match target.open(&self.options) {
                Ok(benchmark) => opened.push(Opened {
                    name: target.name.clone(),
                    digest: digest(&benchmark),
                    benchmark,
                }),
                Err(error) if target.optional => {
                    if ranks.first() {
                        let text = format!("{error:#}");
                        eprintln!("left out {}: {}", target.name, text.lines().next().unwrap_or_default());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if opened.is_empty() {
            anyhow::bail!("no benchmark was found; `bifocal eval list --data DIR` says what is missing of each");
        }
        Ok(opened)
    }

    /// Measures what is missing for a model; all results are on the disk afterwards. Gives how many were measured.
    ///
    /// # Errors
    /// A model that cannot be opened, a benchmark that cannot be measured.
    pub fn run(&self, named: &Named, opened: &[Opened], ranks: &dyn Ranks) -> Result<usize> {
        let model = self.compute.open(&named.path, &TextOptions::default())?;
        let features = Features {
            cache: self.cache.clone(),
            ranks,
        };
        let mut measured = 0;
        for one in opened {
            for &corruption in &self.corruptions {
                let texts_only = matches!(one.benchmark.task, Task::Texts(_));
                if corruption.is_some() && texts_only {
                    continue;
                }
                if let Some(lacks) = lacks(&model, texts_only) {
                    if ranks.first() {
                        eprintln!("{}: left out {}: it has no {lacks} tower", named.name, one.name);
                    }
                    continue;
                }
                let what = self.identity(named, &model, one, corruption);
                // rank 0 decides for all
                let done = ranks.first()
                    && Outcome::read(&what.path(&self.out)).is_ok_and(|o| o.what == what && o.format == FORMAT);
                if ranks.any(done)? {
                    continue;
                }
                let found = measure(&features, &model, &one.benchmark, corruption, self.probe, self.seed)
                    .with_context(|| format!("{} on {}", named.name, what.column()))?;
                if ranks.first() {
                    let outcome = Outcome {
                        format: FORMAT,
                        what,
                        counts: found.counts,
                        headline: found.headline.to_owned(),
                        metrics: found.metrics,
                        units: found.units,
                        confused: found.confused,
                        examples: found.examples,
                    };
                    outcome.write(&self.out)?;
                    tell(&outcome);
                }
                measured += 1;
            }
        }
        ranks.barrier(Wait::Work)?;
        Ok(measured)
    }

    fn identity(&self, named: &Named, model: &Model, one: &Opened, corruption: Option<Corruption>) -> Identity {
        let mut protocol = one.benchmark.protocol.clone();
        if let Some(corruption) = corruption {
            protocol.push_str(&format!(
                " Pictures were scaled to {} pixels on their shorter side and corrupted: {}, level {} of 5, strengths of ImageNet-C.",
                bifocal_data::corrupt::SIDE,
                corruption.kind().name(),
                corruption.level()
            ));
        }
        if model.precision() != Precision::F32 {
            protocol.push_str(&format!(" Towers multiplied {}.", model.precision().name()));
        }
        Identity {
            suite: one.name.clone(),
            task: task(&one.benchmark.task).to_owned(),
            corruption: corruption.map(|corruption| corruption.to_string()),
            protocol,
            data: one.digest.clone(),
            model: named.name.clone(),
            fingerprint: model.fingerprint().to_owned(),
            seed: self.seed,
            probe: self.probe,
            bifocal: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Writes tables and the page of everything that has been measured into `--out`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn publish(&self) -> Result<Vec<Outcome>> {
        let outcomes = Outcome::all(&self.out)?;
        export::write(&self.out, &outcomes)?;
        report::write(&self.out, &outcomes)?;
        Ok(outcomes)
    }
}

/// Which tower is missing.
fn lacks(model: &Model, texts_only: bool) -> Option<&'static str> {
    match (model.text(), model.vision()) {
        (None, _) => Some("text"),
        (_, None) if !texts_only => Some("vision"),
        _ => None,
    }
}

fn tell(outcome: &Outcome) {
    let main = outcome.main().map_or_else(String::new, |m| {
        let interval = match (m.low, m.high) {
            (Some(low), Some(high)) => format!(" ({}–{})", m.unit.show(low), m.unit.show(high)),
            _ => String::new(),
        };
        format!(": {} {}{interval}", m.name, m.unit.show(m.value))
    });
    eprintln!("{}, {}{main}", outcome.what.model, outcome.column());
    if outcome.counts.left_out > 0 {
        let first = outcome.counts.reasons.first().map_or("", String::as_str);
        eprintln!("  left out {}: {first}", outcome.counts.left_out);
    }
}

/// What a task is called in files.
fn task(task: &Task) -> &'static str {
    match task {
        Task::Classification(_) => "classification",
        Task::Retrieval(_) => "retrieval",
        Task::Composition(_) => "composition",
        Task::Texts(_) => "texts",
    }
}

/// Digest of what a benchmark lists: a number is taken again only for the same pictures, labels, names and texts. What the pictures show is not read here; a
/// changed picture has another key in the cache, but keeps its name.
fn digest(benchmark: &Benchmark) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut put = |text: &str| {
        hasher
            .update(&(text.len() as u64).to_le_bytes())
            .update(text.as_bytes());
    };
    let images =
        |images: &[ImageSource], put: &mut dyn FnMut(&str)| images.iter().for_each(|image| put(&image.to_string()));
    let numbers = |numbers: &[usize], put: &mut dyn FnMut(&str)| numbers.iter().for_each(|n| put(&n.to_string()));
    match &benchmark.task {
        Task::Classification(task) => {
            images(&task.images, &mut put);
            numbers(&task.labels, &mut put);
            for prompts in &task.prompts {
                put(&prompts.language);
                numbers(&prompts.classes, &mut put);
                prompts.names.iter().for_each(|name| put(name));
                match &prompts.templates {
                    Templates::Named(name) => put(name),
                    Templates::Given { name, texts } => {
                        put(name);
                        texts.iter().for_each(|text| put(text));
                    }
                }
            }
            if let Some((train, labels)) = &task.train {
                images(train, &mut put);
                numbers(labels, &mut put);
            }
        }
        Task::Retrieval(task) => {
            images(&task.images, &mut put);
            for language in &task.languages {
                put(&language.language);
                for (text, image) in &language.captions {
                    put(text);
                    put(&image.to_string());
                }
            }
        }
        Task::Composition(task) => {
            images(&task.images, &mut put);
            for group in &task.groups {
                put(&group.name);
                for item in &group.items {
                    numbers(&item.images, &mut put);
                    item.texts.iter().for_each(|text| put(text));
                }
            }
        }
        Task::Texts(TextTask::CaptionPairs(pairs)) => {
            for pairs in pairs {
                put(&pairs.name);
                pairs.queries.iter().chain(&pairs.candidates).for_each(|text| put(text));
            }
        }
        Task::Texts(TextTask::Similarity(pairs)) => {
            for (a, b, score) in pairs {
                [a, b].into_iter().for_each(|text| put(text));
                put(&score.to_string());
            }
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_called_after_their_run() {
        let named = |text: &str| Named::parse(text).name;
        assert_eq!(named("runs/lab/clip-1/model"), "clip-1");
        assert_eq!(named("ours=runs/lab/clip-1/model"), "ours");
        assert_eq!(named("models/minilm"), "minilm");
        assert_eq!(Named::parse("a/b=c").path, PathBuf::from("a/b=c"));
        assert_eq!(named("hf:org/name"), "name");
    }
}
