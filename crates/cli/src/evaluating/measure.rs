//! One model on one benchmark.

use std::collections::BTreeMap;

use anyhow::Result;
use bifocal_benchmarks::{
    Accuracy, Benchmark, CaptionPairs, Classification, Composition, Group, Retrieval, Rule, Task, Templates, TextTask,
};
use bifocal_data::ImageSource;
use bifocal_data::corrupt::Corruption;
use bifocal_eval::calibration::{calibration, confused, decide};
use bifocal_eval::neighbours::nearest;
use bifocal_eval::probe::{Probe, ProbeOptions};
use bifocal_eval::rules::{first_of, first_of_equals, mmvp, spearman, winoground};
use bifocal_eval::{Asks, Direction, TemplateSet, Unit, class_weights, ranks, zero_shot};
use bifocal_models::bundle::Model;

use super::examples::{best, scores, small, typical};
use super::features::{Features, Pictures};
use super::results::{Answer, Confused, Counts, Example, Kind, Metric, Units, main};
use super::tally::Tally;

/// Neighbours that vote, as DINO evaluates.
const NEIGHBOURS: usize = 20;
/// Pairs of classes that a result names.
const CONFUSED: usize = 20;
/// Reasons that a result keeps.
const REASONS: usize = 20;

/// The larger group that is the benchmark itself.
const WHOLE: &str = "all";

/// What was found.
pub struct Found {
    pub headline: &'static str,
    pub metrics: Vec<Metric>,
    pub units: BTreeMap<String, Units>,
    pub confused: Vec<Confused>,
    pub examples: Vec<Example>,
    pub counts: Counts,
}

impl Found {
    /// The number that stands for all.
    pub fn main(&self) -> Option<f64> {
        Some(main(&self.metrics, self.headline)?.value)
    }
}

/// A measurement on its way.
struct Measure<'a> {
    features: &'a Features<'a>,
    model: &'a Model,
    corruption: Option<Corruption>,
    probe: bool,
    tally: Tally,
    counts: Counts,
    confused: Vec<Confused>,
    examples: Vec<Example>,
}

/// Measures a model.
///
/// # Errors
/// A model that lacks the tower that is asked for, a cache that cannot be used, pictures of which none can be read.
pub fn measure(
    features: &Features<'_>,
    model: &Model,
    benchmark: &Benchmark,
    corruption: Option<Corruption>,
    probe: bool,
    seed: u64,
) -> Result<Found> {
    let mut measure = Measure {
        features,
        model,
        corruption,
        probe,
        tally: Tally::new(seed),
        counts: Counts {
            left_out: benchmark.skipped.len(),
            reasons: benchmark
                .skipped
                .iter()
                .take(REASONS)
                .map(ToString::to_string)
                .collect(),
            ..Counts::default()
        },
        confused: Vec::new(),
        examples: Vec::new(),
    };
    let headline = match &benchmark.task {
        Task::Classification(task) => measure.classification(task)?,
        Task::Retrieval(task) => measure.retrieval(task)?,
        Task::Composition(task) => measure.composition(task, &benchmark.name)?,
        Task::Texts(TextTask::CaptionPairs(pairs)) => measure.caption_pairs(pairs)?,
        Task::Texts(TextTask::Similarity(pairs)) => measure.similarity(pairs)?,
    };
    let (metrics, units) = measure.tally.finish();
    Ok(Found {
        headline,
        metrics,
        units,
        confused: measure.confused,
        examples: measure.examples,
        counts: measure.counts,
    })
}

impl Measure<'_> {
    fn dim(&self) -> usize {
        self.model.dim()
    }

    fn see(&mut self, images: &[ImageSource], corruption: Option<Corruption>) -> Result<Pictures> {
        let pictures = self.features.pictures(self.model, images, corruption)?;
        self.counts.pictures += pictures.row_of.iter().flatten().count();
        self.counts.left_out += pictures.bad.len();
        let room = REASONS.saturating_sub(self.counts.reasons.len());
        self.counts.reasons.extend(pictures.bad.iter().take(room).cloned());
        Ok(pictures)
    }

    fn read(&mut self, texts: &[String]) -> Result<Vec<f32>> {
        self.counts.texts += texts.len();
        self.features.texts(self.model, texts)
    }

    fn classification(&mut self, task: &Classification) -> Result<&'static str> {
        let pictures = self.see(&task.images, self.corruption)?;
        let several = task.prompts.len() > 1;
        for prompts in &task.prompts {
            let templates = match &prompts.templates {
                Templates::Named(name) => TemplateSet::resolve(name)?,
                Templates::Given { name, texts } => TemplateSet::new(name, texts)?,
            };
            let texts = templates.prompts(&prompts.names);
            let per_class = texts.len() / prompts.names.len().max(1);
            let weights = class_weights(&self.read(&texts)?, per_class, self.dim())?;
            // only pictures whose class has a name in this language
            let (mut rows, mut labels, mut shown) = (Vec::new(), Vec::new(), Vec::new());
            for (i, label) in task.labels.iter().enumerate() {
                if let (Some(row), Ok(class)) = (pictures.row_of[i], prompts.classes.binary_search(label)) {
                    rows.extend_from_slice(&pictures.rows[row * self.dim()..][..self.dim()]);
                    labels.push(class);
                    shown.push(i);
                }
            }
            let report = zero_shot(&rows, &weights, self.dim(), &labels)?;
            let decisions = decide(&rows, &weights, self.dim(), &labels, self.model.logit_scale())?;
            let group = &prompts.language;
            let within = |k: usize| {
                decisions
                    .iter()
                    .map(|d| Unit::one(f64::from(u8::from(d.before < k))))
                    .collect::<Vec<_>>()
            };
            let each = |label: &usize| 1.0 / report.per_class[*label].images as f64;
            let by_class = decisions.iter().zip(&labels).map(|(d, label)| Unit {
                sum: f64::from(u8::from(d.before < 1)) * each(label),
                count: each(label),
            });
            self.tally.share("top1", group, within(1), Some(report.chance_top1))?;
            self.tally.share("top5", group, within(5), Some(report.chance_top5))?;
            self.tally
                .share("mean_per_class", group, by_class.collect(), Some(report.chance_top1))?;
            let calibrated = calibration(&decisions, &labels)?;
            self.tally.plain("ece", group, calibrated.ece, Kind::Error, None);
            if self.examples.is_empty() {
                let name = |class: usize| prompts.names[class].clone();
                let pairs = confused(&decisions, &labels, CONFUSED)?;
                self.confused = pairs
                    .into_iter()
                    .map(|(right, taken, pictures)| Confused {
                        right: name(right),
                        taken: name(taken),
                        pictures,
                    })
                    .collect();
                let right: Vec<bool> = decisions.iter().map(|d| d.before < 1).collect();
                for at in typical(&right) {
                    let row = scores(&rows[at * self.dim()..][..self.dim()], &weights);
                    let answer = |class: usize| Answer {
                        right: class == labels[at],
                        score: row[class],
                        text: name(class),
                        picture: None,
                    };
                    self.examples.push(Example {
                        right: right[at],
                        text: name(labels[at]),
                        picture: small(&task.images[shown[at]]),
                        answers: best(&row).into_iter().map(answer).collect(),
                    });
                }
            }
        }
        if several {
            for name in ["top1", "top5", "mean_per_class"] {
                self.tally.mean(name, "", |_| true)?;
            }
        }
        if let (true, Some((images, labels))) = (self.probe, &task.train) {
            self.probes(task, &pictures, images, labels)?;
        }
        Ok(match task.headline {
            Accuracy::Top1 => "top1",
            Accuracy::MeanPerClass => "mean_per_class",
        })
    }

    /// What features of pictures are good for without text.
    fn probes(
        &mut self,
        task: &Classification,
        test: &Pictures,
        images: &[ImageSource],
        labels: &[usize],
    ) -> Result<()> {
        let train = self.see(images, None)?;
        let with_row = |pictures: &Pictures, labels: &[usize]| -> Vec<usize> {
            labels
                .iter()
                .zip(&pictures.row_of)
                .filter(|(_, row)| row.is_some())
                .map(|(&label, _)| label)
                .collect()
        };
        let (known, wanted) = (with_row(&train, labels), with_row(test, &task.labels));
        let voted = nearest(&train.rows, &known, &test.rows, self.dim(), task.classes, NEIGHBOURS)?;
        let probe = Probe::fit(&train.rows, &known, self.dim(), task.classes, &ProbeOptions::default())?;
        let chance = Some(1.0 / task.classes.max(1) as f64);
        for (name, answers) in [("knn", voted), ("linear_probe", probe.predict(&test.rows)?)] {
            let right = answers
                .iter()
                .zip(&wanted)
                .map(|(a, b)| Unit::one(f64::from(u8::from(a == b))));
            self.tally.share(name, "", right.collect(), chance)?;
        }
        Ok(())
    }

    fn retrieval(&mut self, task: &Retrieval) -> Result<&'static str> {
        let pictures = self.see(&task.images, self.corruption)?;
        let mut place = vec![0; pictures.rows.len() / self.dim().max(1)];
        for (i, row) in pictures.row_of.iter().enumerate() {
            if let Some(row) = row {
                place[*row] = i;
            }
        }
        let english = task.languages.iter().any(|language| language.language == "en");
        for language in &task.languages {
            let there = |(text, image): &(String, usize)| Some((text.clone(), pictures.row_of[*image]?));
            let (texts, owners): (Vec<String>, Vec<usize>) = language.captions.iter().filter_map(there).unzip();
            if texts.is_empty() {
                continue;
            }
            let rows = self.read(&texts)?;
            let found = ranks(&pictures.rows, &rows, self.dim(), &owners)?;
            let report = found.report();
            let group = &language.language;
            for (way, asks, direction) in [
                ("t2i", Asks::Text, &report.text_to_image),
                ("i2t", Asks::Image, &report.image_to_text),
            ] {
                let Direction {
                    chance,
                    median_rank,
                    map,
                    ..
                } = *direction;
                for (k, chance) in [(1, chance.r1), (5, chance.r5), (10, chance.r10)] {
                    self.tally
                        .share(&format!("{way}_r{k}"), group, found.units(asks, k), Some(chance))?;
                }
                self.tally.plain(
                    &format!("{way}_median"),
                    group,
                    median_rank,
                    Kind::Rank,
                    Some(chance.median_rank),
                );
                self.tally.plain(&format!("{way}_map"), group, map, Kind::Share, None);
            }
            if self.examples.is_empty() && (language.language == "en" || !english) {
                let right: Vec<bool> = found.of_texts().iter().map(|&rank| rank == 1).collect();
                for at in typical(&right) {
                    let row = scores(&rows[at * self.dim()..][..self.dim()], &pictures.rows);
                    let answer = |picture: usize| Answer {
                        right: picture == owners[at],
                        score: row[picture],
                        text: String::new(),
                        picture: small(&task.images[place[picture]]),
                    };
                    self.examples.push(Example {
                        right: right[at],
                        text: texts[at].clone(),
                        picture: None,
                        answers: best(&row).into_iter().map(answer).collect(),
                    });
                }
            }
        }
        if task.languages.len() > 1 {
            for name in ["t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10"] {
                self.tally.mean(name, "", |_| true)?;
            }
        }
        Ok("t2i_r1")
    }

    fn composition(&mut self, task: &Composition, benchmark: &str) -> Result<&'static str> {
        let pictures = self.see(&task.images, self.corruption)?;
        let mut headline = "accuracy";
        for group in &task.groups {
            let texts: Vec<String> = group.items.iter().flat_map(|item| item.texts.iter().cloned()).collect();
            let rows = self.read(&texts)?;
            let mut rows = rows.chunks_exact(self.dim().max(1));
            // [item][picture][text]; none when a picture could not be read
            let tables: Vec<Option<Vec<Vec<f32>>>> = group
                .items
                .iter()
                .map(|item| {
                    let texts: Vec<f32> = rows.by_ref().take(item.texts.len()).flatten().copied().collect();
                    let row = |&image: &usize| {
                        let row = pictures.row_of.get(image).copied().flatten()?;
                        Some(scores(&pictures.rows[row * self.dim()..][..self.dim()], &texts))
                    };
                    item.images.iter().map(row).collect()
                })
                .collect();
            self.group(group, &tables)?;
            if group.rule == Rule::Winoground {
                headline = "group_score";
            }
            if self.examples.len() < 2 * super::examples::SHOWN {
                self.composition_examples(task, group, &tables);
            }
        }
        for name in ["accuracy", "text_score", "image_score", "group_score"] {
            self.overall(name, task, benchmark)?;
        }
        Ok(headline)
    }

    /// What is put together from groups, as each benchmark's authors do it: Winoground counts all items, whatever their tag; ARO is the mean of its
    /// tasks, of which two are means over relations and attributes; of the others, each group counts the same.
    fn overall(&mut self, name: &str, task: &Composition, benchmark: &str) -> Result<()> {
        let all: Vec<&str> = task.groups.iter().map(|group| group.name.as_str()).collect();
        if task.groups.iter().all(|group| group.rule == Rule::Winoground) {
            return self.tally.pool(name, "", |group| all.contains(&group));
        }
        let mut tasks: Vec<&str> = Vec::new();
        for group in &task.groups {
            let larger = group.part_of.as_deref().unwrap_or(&group.name);
            if tasks.contains(&larger) || larger == WHOLE {
                continue;
            }
            tasks.push(larger);
            if group.part_of.is_some() && !all.contains(&larger) {
                let member = |name: &str| {
                    task.groups
                        .iter()
                        .any(|g| g.name == name && g.part_of.as_deref() == Some(larger))
                };
                self.tally.mean(name, larger, member)?;
            }
        }
        match benchmark {
            "aro" => self.tally.mean(name, "", |group| tasks.contains(&group)),
            _ => self.tally.mean(name, "", |group| all.contains(&group)),
        }
    }

    /// Scores of a group's items by its rule.
    fn group(&mut self, group: &Group, tables: &[Option<Vec<Vec<f32>>>]) -> Result<()> {
        let there: Vec<&Vec<Vec<f32>>> = tables.iter().flatten().collect();
        self.counts.left_out += tables.len() - there.len();
        if there.is_empty() {
            return Ok(());
        }
        let share = |right: &dyn Fn(&Vec<Vec<f32>>) -> bool| -> Vec<Unit> {
            there
                .iter()
                .map(|table| Unit::one(f64::from(u8::from(right(table)))))
                .collect()
        };
        let square = |t: &Vec<Vec<f32>>| {
            [0, 1].map(|i| [0, 1].map(|k| t.get(i).and_then(|row| row.get(k)).copied().unwrap_or(f32::NAN)))
        };
        let name = &group.name;
        match group.rule {
            Rule::Strict | Rule::FirstOfEqual => {
                let rule = if group.rule == Rule::Strict {
                    first_of
                } else {
                    first_of_equals
                };
                let chance = there.iter().map(|t| 1.0 / t[0].len().max(1) as f64).sum::<f64>() / there.len() as f64;
                self.tally
                    .share("accuracy", name, share(&|t| rule(&t[0])), Some(chance))
            }
            Rule::Mmvp => self
                .tally
                .share("accuracy", name, share(&|t| mmvp(square(t))), Some(0.25)),
            Rule::Winoground => {
                self.tally
                    .share("text_score", name, share(&|t| winoground(square(t)).text), Some(0.25))?;
                self.tally
                    .share("image_score", name, share(&|t| winoground(square(t)).image), Some(0.25))?;
                self.tally.share(
                    "group_score",
                    name,
                    share(&|t| winoground(square(t)).group),
                    Some(1.0 / 6.0),
                )
            }
        }
    }

    /// One success and one failure of a group whose items have one picture.
    fn composition_examples(&mut self, task: &Composition, group: &Group, tables: &[Option<Vec<Vec<f32>>>]) {
        if !matches!(group.rule, Rule::Strict | Rule::FirstOfEqual) {
            return;
        }
        for wanted in [true, false] {
            let of = |table: &Option<Vec<Vec<f32>>>| table.as_ref().is_some_and(|t| first_of(&t[0]) == wanted);
            if let Some((item, Some(table))) = group.items.iter().zip(tables).find(|(_, table)| of(table)) {
                let answer = |k: usize| Answer {
                    right: k == 0,
                    score: table[0][k],
                    text: item.texts[k].clone(),
                    picture: None,
                };
                self.examples.push(Example {
                    right: wanted,
                    text: group.name.clone(),
                    picture: small(&task.images[item.images[0]]),
                    answers: best(&table[0]).into_iter().map(answer).collect(),
                });
            }
        }
    }

    fn caption_pairs(&mut self, tasks: &[CaptionPairs]) -> Result<&'static str> {
        for pairs in tasks {
            let (queries, candidates) = (self.read(&pairs.queries)?, self.read(&pairs.candidates)?);
            let owners: Vec<usize> = (0..pairs.queries.len()).collect();
            let found = ranks(&candidates, &queries, self.dim(), &owners)?;
            let direction = found.report().text_to_image;
            for (k, chance) in [
                (1, direction.chance.r1),
                (5, direction.chance.r5),
                (10, direction.chance.r10),
            ] {
                self.tally
                    .share(&format!("r{k}"), &pairs.name, found.units(Asks::Text, k), Some(chance))?;
            }
            self.tally.plain("map", &pairs.name, direction.map, Kind::Share, None);
        }
        if tasks.len() > 1 {
            self.tally.mean("r1", "", |_| true)?;
        }
        Ok("r1")
    }

    fn similarity(&mut self, pairs: &[(String, String, f64)]) -> Result<&'static str> {
        let first: Vec<String> = pairs.iter().map(|pair| pair.0.clone()).collect();
        let second: Vec<String> = pairs.iter().map(|pair| pair.1.clone()).collect();
        let (a, b) = (self.read(&first)?, self.read(&second)?);
        let rows = a.chunks_exact(self.dim().max(1)).zip(b.chunks_exact(self.dim().max(1)));
        let cosines: Vec<f64> = rows
            .map(|(a, b)| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum())
            .collect();
        let wanted: Vec<f64> = pairs.iter().map(|pair| pair.2).collect();
        self.tally.plain(
            "spearman",
            "",
            spearman(&cosines, &wanted)?,
            Kind::Correlation,
            Some(0.0),
        );
        Ok("spearman")
    }
}
