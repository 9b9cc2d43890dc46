//! From a run's folder to what the page shows.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::numbers::{count, duration, number};
use super::thin::smooth;
use super::{Curve, Histogram, Report, ReportError};
use crate::train::metrics::{Metrics, Timing};
use crate::train::watch::{Best, Evaluation};

/// Longest line of a log, and longest small file.
const LONGEST: u64 = 1 << 20;
/// Different terms of a loss, or metrics, that are shown.
const NAMES: usize = 64;

pub(super) fn collect(dir: &Path) -> Result<Report, ReportError> {
    let mut report = Report {
        title: dir
            .file_name()
            .unwrap_or(dir.as_os_str())
            .to_string_lossy()
            .into_owned(),
        ..Report::default()
    };
    let recipe = read_recipe(&dir.join("recipe.toml"))?;
    if let Some((_, method)) = recipe.iter().find(|(key, _)| key == "method") {
        report.title = format!("{}: {}", report.title, method.trim_matches('"'));
    }
    report.recipe = recipe;
    let mut steps = Steps::default();
    let path = dir.join("metrics.jsonl");
    let whole = lines(&path, |m: &Metrics| m.step, |m| steps.add(m));
    report
        .notes
        .extend(whole.map_err(|source| ReportError::Io { path, source })?);
    let (mut seconds, mut throughput) = (0.0, Vec::new());
    let timings = |t: Timing| {
        seconds += t.seconds.max(0.0);
        throughput.push((t.step, t.samples_per_second));
    };
    report.notes.extend(optional(lines(
        &dir.join("timings.jsonl"),
        |t: &Timing| t.step,
        timings,
    )));
    let mut evaluations: Vec<Evaluation> = Vec::new();
    let path = dir.join(Evaluation::FILE);
    report
        .notes
        .extend(optional(lines(&path, |e: &Evaluation| e.step, |e| evaluations.push(e))));
    let best = small_file(&dir.join("best.json")).ok();
    let best: Option<Best> = best.and_then(|text| serde_json::from_str(&text).ok());

    report.facts.push(("steps".to_owned(), count(steps.last)));
    report.facts.push(("pictures seen".to_owned(), count(steps.samples)));
    if let Some((_, loss)) = smooth(&steps.loss).last() {
        report.facts.push(("loss, running mean".to_owned(), number(*loss)));
    }
    if let Some((best, value)) = best.as_ref().and_then(|b| Some((b, b.value?))) {
        let what = format!("best {}, step {}", best.metric, count(best.step));
        report.facts.push((what, number(value)));
    }
    if seconds > 0.0 {
        report.facts.push(("time in steps".to_owned(), duration(seconds)));
    }
    if steps.skipped > 0 {
        let (n, s) = (count(steps.skipped), if steps.skipped == 1 { " was" } else { "s were" });
        let note =
            format!("{n} step{s} left out because loss or gradient was not finite; see the files bad-step-*.json.");
        report.notes.push(note);
    }
    report.curves = steps.curves();
    let at = report.curves.iter().take_while(|c| c.chart == "Loss").count();
    report.curves.splice(at..at, evaluation_curves(&evaluations));
    if !throughput.is_empty() {
        report
            .curves
            .push(noisy("Throughput", "throughput", "pictures/s", throughput));
    }
    report.histograms = histograms(&evaluations);
    Ok(report)
}

/// What single steps say, as curves.
#[derive(Default)]
struct Steps {
    last: u64,
    samples: u64,
    skipped: u64,
    loss: Vec<(u64, f64)>,
    terms: BTreeMap<String, Vec<(u64, f64)>>,
    lr: Vec<(u64, f64)>,
    grad_norm: Vec<(u64, f64)>,
    scale: Vec<(u64, f64)>,
    bias: Vec<(u64, f64)>,
}

impl Steps {
    fn add(&mut self, m: Metrics) {
        self.last = m.step;
        self.samples = m.samples;
        self.skipped += u64::from(m.skipped);
        self.loss.push((m.step, f64::from(m.loss)));
        for (name, value) in m.terms {
            if self.terms.len() < NAMES || self.terms.contains_key(&name) {
                self.terms.entry(name).or_default().push((m.step, f64::from(value)));
            }
        }
        self.lr.push((m.step, m.lr));
        self.grad_norm.push((m.step, m.grad_norm));
        self.scale.push((m.step, f64::from(m.logit_scale)));
        self.bias.extend(m.logit_bias.map(|b| (m.step, f64::from(b))));
    }

    fn curves(self) -> Vec<Curve> {
        let mut curves = vec![noisy("Loss", "loss", "", self.loss)];
        // a single term is the loss itself
        if self.terms.len() > 1 {
            let terms = self.terms.into_iter();
            curves.extend(terms.map(|(name, points)| noisy("Loss terms", &name, "", points)));
        }
        curves.push(Curve {
            log: true,
            ..noisy("Gradient norm", "gradient norm", "", self.grad_norm)
        });
        curves.push(curve("Learning rate", "learning rate", "", self.lr));
        curves.push(curve("Temperature", "logit scale", "× similarity", self.scale));
        if !self.bias.is_empty() {
            curves.push(curve("Logit bias", "logit bias", "", self.bias));
        }
        curves
    }
}

fn curve(chart: &str, name: &str, unit: &str, points: Vec<(u64, f64)>) -> Curve {
    Curve {
        chart: chart.to_owned(),
        name: name.to_owned(),
        unit: unit.to_owned(),
        points,
        log: false,
        smooth: false,
    }
}

/// A curve whose single values say little.
fn noisy(chart: &str, name: &str, unit: &str, points: Vec<(u64, f64)>) -> Curve {
    Curve {
        smooth: true,
        ..curve(chart, name, unit, points)
    }
}

/// Metrics share a chart when their names begin with the same word (`t2i_r1` and `t2i_r5` do); ranks, which go with no share, have one
/// of their own.
fn evaluation_curves(evaluations: &[Evaluation]) -> Vec<Curve> {
    let mut metrics: BTreeMap<&str, Vec<(u64, f64)>> = BTreeMap::new();
    for evaluation in evaluations {
        for (name, value) in &evaluation.metrics {
            if metrics.len() < NAMES || metrics.contains_key(name.as_str()) {
                metrics.entry(name).or_default().push((evaluation.step, *value));
            }
        }
    }
    let mut metrics: Vec<_> = metrics.into_iter().collect();
    // r5 before r10
    metrics.sort_by_key(|(name, _)| {
        let word = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[word.len()..].parse::<u64>().unwrap_or(0);
        (name.contains("rank"), word.to_owned(), number)
    });
    let curves = metrics.into_iter().map(|(name, points)| {
        let rank = name.contains("rank");
        let chart = match name.split_once('_').map_or(name, |(first, _)| first) {
            _ if rank => "Evaluation: rank".to_owned(),
            "t2i" => "Evaluation: text → image".to_owned(),
            "i2t" => "Evaluation: image → text".to_owned(),
            other => format!("Evaluation: {other}"),
        };
        Curve {
            log: rank,
            ..curve(&chart, name, "", points)
        }
    });
    curves.collect()
}

/// Of the first and the last evaluation.
fn histograms(evaluations: &[Evaluation]) -> Vec<Histogram> {
    let mut with = evaluations
        .iter()
        .filter_map(|e| Some((e.step, e.similarities.as_ref()?)));
    let first = with.next();
    let last = with.next_back();
    let both = first.into_iter().chain(last);
    both.map(|(step, s)| {
        let margin = s
            .margin
            .map_or(String::new(), |m| format!(", mean margin {}", number(m)));
        Histogram {
            title: format!("Similarities after step {}", count(step)),
            caption: format!("% of pairs{margin}"),
            low: -1.0,
            high: 1.0,
            series: vec![
                ("own pairs".to_owned(), s.positive.clone()),
                ("other pairs".to_owned(), s.negative.clone()),
            ],
        }
    })
    .collect()
}

/// Calls `each` for the lines of a log. The note that comes back says from which line on it is damaged; a torn last line, which every
/// killed run may leave, is not worth one.
fn lines<T: DeserializeOwned>(
    path: &Path,
    step: impl Fn(&T) -> u64,
    mut each: impl FnMut(T),
) -> io::Result<Option<String>> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut line, mut before) = (Vec::new(), None);
    for at in 1.. {
        line.clear();
        let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        let whole = line.last() == Some(&b'\n');
        if !whole && (read as u64) < LONGEST {
            break;
        }
        let parsed = serde_json::from_slice::<T>(&line).map_err(|e| e.to_string());
        let parsed = parsed.and_then(|parsed| match before.is_some_and(|before| step(&parsed) <= before) {
            true => Err("its step is not after the one before".to_owned()),
            false => Ok(parsed),
        });
        match parsed {
            Ok(parsed) => {
                before = Some(step(&parsed));
                each(parsed);
            }
            Err(message) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                return Ok(Some(format!(
                    "{name} is damaged from line {} on ({message}); what follows is not shown.",
                    count(at)
                )));
            }
        }
    }
    Ok(None)
}

/// A log that may be absent.
fn optional(read: io::Result<Option<String>>) -> Option<String> {
    match read {
        Ok(note) => note,
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => Some(format!("A log of the run cannot be read: {e}")),
    }
}

fn small_file(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {LONGEST} bytes"),
        ));
    }
    fs::read_to_string(path)
}

/// Keys with dots, and values as they would be written in TOML.
fn read_recipe(path: &Path) -> Result<Vec<(String, String)>, ReportError> {
    let text = small_file(path).map_err(|source| ReportError::Io {
        path: path.to_owned(),
        source,
    })?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| ReportError::Recipe {
        path: path.to_owned(),
        message: e.to_string(),
    })?;
    let mut rows = Vec::new();
    flatten("", &toml::Value::Table(table), &mut rows);
    Ok(rows)
}

fn flatten(key: &str, value: &toml::Value, rows: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            // a table's own values stand before those of its tables, as in the file
            let (tables, values): (Vec<_>, Vec<_>) = table.iter().partition(|(_, v)| has_tables(v));
            for (name, value) in values.into_iter().chain(tables) {
                let name = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                flatten(&name, value, rows);
            }
        }
        toml::Value::Array(items) if has_tables(value) => {
            for (i, item) in items.iter().enumerate() {
                flatten(&format!("{key}[{}]", i + 1), item, rows);
            }
        }
        value => rows.push((key.to_owned(), value.to_string())),
    }
}

fn has_tables(value: &toml::Value) -> bool {
    match value {
        toml::Value::Table(_) => true,
        toml::Value::Array(items) => items.iter().any(toml::Value::is_table),
        _ => false,
    }
}
