//! `bifocal eval list`: every suite, and whether its data is there.

use std::path::Path;

use anyhow::Result;
use bifocal_benchmarks::{self as benchmark, Benchmark, BenchmarkError, Options, Task, TextTask};

use super::plan::{GROUPS, targets};

/// All suites as text; with `data`, what was found of each, or the first thing that is missing.
///
/// # Errors
/// None of its own: what cannot be opened is part of the text.
pub fn list(data: Option<&Path>, options: &Options) -> Result<String> {
    let mut out = String::new();
    let width = benchmark::list()
        .iter()
        .map(|suite| suite.name.len())
        .max()
        .unwrap_or(0)
        .max(15);
    for suite in benchmark::list() {
        let found = match data {
            None => String::new(),
            Some(data) => {
                let target = &targets(&[suite.name.to_owned()], data)?[0];
                match target.open(options) {
                    Ok(benchmark) => format!("  [found: {}]", size(&benchmark)),
                    Err(error) => format!("  [{}]", absent(&error)),
                }
            }
        };
        out.push_str(&format!("{:<width$}  {}{found}\n", suite.name, suite.what));
    }
    out.push('\n');
    for (name, what) in GROUPS {
        out.push_str(&format!("{name:<width$}  {what}\n"));
    }
    Ok(out)
}

/// Why a benchmark cannot be measured, in a few words: the layouts would fill pages. Measuring it tells the rest.
fn absent(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(BenchmarkError::Missing { missing, .. }) => format!("not there: {missing}"),
        Some(BenchmarkError::Incomplete { what, .. }) => format!("incomplete: {what}"),
        _ => format!("{error:#}").lines().next().unwrap_or_default().to_owned(),
    }
}

/// How much a benchmark holds, in words.
fn size(benchmark: &Benchmark) -> String {
    match &benchmark.task {
        Task::Classification(task) => format!("{} pictures, {} classes", task.images.len(), task.classes),
        Task::Retrieval(task) => {
            let captions: usize = task.languages.iter().map(|language| language.captions.len()).sum();
            let languages = task.languages.len();
            let s = if languages == 1 { "" } else { "s" };
            format!(
                "{} pictures, {captions} captions, {languages} language{s}",
                task.images.len()
            )
        }
        Task::Composition(task) => {
            let items: usize = task.groups.iter().map(|group| group.items.len()).sum();
            format!("{items} items about {} pictures", task.images.len())
        }
        Task::Texts(TextTask::CaptionPairs(pairs)) => {
            format!(
                "{} pairs of texts",
                pairs.iter().map(|pairs| pairs.queries.len()).sum::<usize>()
            )
        }
        Task::Texts(TextTask::Similarity(pairs)) => format!("{} pairs of texts", pairs.len()),
    }
}
