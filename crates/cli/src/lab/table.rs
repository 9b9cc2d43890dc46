//! The table: means and spreads over seeds, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::cost::Cost;
use super::judge::Scores;

/// Percentages, with their headings.
const COLUMNS: [(&str, &str); 11] = [
    ("en_t2i", "en t→i"),
    ("en_i2t", "en i→t"),
    ("long_t2i", "long t→i"),
    ("long_i2t", "long i→t"),
    ("zh_t2i", "zh"),
    ("de_t2i", "de"),
    ("fr_t2i", "fr"),
    ("cs_t2i", "cs"),
    ("zero_shot", "zero-shot"),
    ("zero_shot_top5", "top-5"),
    ("forgetting", "forgotten"),
];
const MORE: [(&str, &str); 2] = [("sugarcrepe", "SugarCrepe"), ("c2c", "C2C")];

/// A measurement over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (n − 1); none for one value.
    pub sd: Option<f64>,
    /// The values, in the order of the seeds.
    pub values: Vec<f64>,
}

impl Summary {
    /// `None` without values.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Self {
            mean,
            sd: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
            values,
        })
    }

    /// As a percentage.
    pub fn percent(&self) -> String {
        match self.sd {
            Some(sd) => format!("{:.1} ± {:.1}", 100.0 * self.mean, 100.0 * sd),
            None => format!("{:.1}", 100.0 * self.mean),
        }
    }
}

/// The middle one, the lower of two.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its row.
    pub row: String,
    /// What the row is.
    pub what: &'static str,
    /// Its seed.
    pub seed: u64,
    /// What was measured.
    pub scores: Scores,
    /// What it cost.
    pub cost: Cost,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    name: String,
    what: &'static str,
    seeds: Vec<u64>,
    scores: BTreeMap<String, Summary>,
    seconds: Option<Summary>,
    cpu_seconds: Option<Summary>,
    peak_bytes: Option<u64>,
}

/// The whole lab, as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Lab {
    /// What reproduces it.
    pub command: String,
    /// Of the program.
    pub version: &'static str,
    /// Of the machine that were used.
    pub threads: usize,
    /// What was measured on.
    pub data: String,
    /// Caption-to-caption retrieval of language models that nothing was done to: how they were read, and R@1.
    pub untuned_c2c: BTreeMap<String, f64>,
    /// The base first.
    pub rows: Vec<Row>,
}

/// Rows in the order in which they first occur. `forgetting` is what the base's zero-shot accuracy (the first run's) lost.
pub fn rows(finished: &[Finished]) -> Vec<Row> {
    let base = finished.first().and_then(|run| run.scores.get("zero_shot")).copied();
    let mut names: Vec<&str> = Vec::new();
    for run in finished {
        if !names.contains(&run.row.as_str()) {
            names.push(&run.row);
        }
    }
    let row = |name: &str| {
        let runs: Vec<&Finished> = finished.iter().filter(|run| run.row == name).collect();
        let mut scores: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for run in &runs {
            for (metric, value) in &run.scores {
                scores.entry(metric.clone()).or_default().push(*value);
            }
            if let (Some(base), Some(own)) = (base, run.scores.get("zero_shot")) {
                scores.entry("forgetting".to_owned()).or_default().push(base - own);
            }
        }
        let whole = || runs.iter().filter(|run| !run.cost.resumed);
        Row {
            name: name.to_owned(),
            what: runs.first().map_or("", |run| run.what),
            seeds: runs.iter().map(|run| run.seed).collect(),
            scores: scores
                .into_iter()
                .filter_map(|(metric, values)| Some((metric, Summary::of(values)?)))
                .collect(),
            seconds: Summary::of(whole().map(|run| run.cost.seconds).collect()),
            cpu_seconds: Summary::of(whole().map(|run| run.cost.cpu_seconds).collect()),
            peak_bytes: median(whole().map(|run| run.cost.peak_bytes).collect()),
        }
    };
    names.into_iter().map(row).collect()
}

impl Lab {
    /// As Markdown: rows with all columns, then what the rows are.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        let columns: Vec<(&str, &str)> = COLUMNS.into_iter().chain(MORE).collect();
        let headings: Vec<&str> = columns.iter().map(|(_, heading)| *heading).collect();
        // writing into a string does not fail
        let _ = writeln!(out, "| row | n | {} | s | CPU s | MB |", headings.join(" | "));
        let _ = writeln!(out, "|---|{}", "---:|".repeat(columns.len() + 4));
        for row in &self.rows {
            let cell = |(metric, _): &(&str, &str)| row.scores.get(*metric).map_or("–".to_owned(), Summary::percent);
            let cells: Vec<String> = columns.iter().map(cell).collect();
            let seconds = |time: &Option<Summary>| match time {
                Some(time) => format!("{:.0}", time.mean),
                None => "–".to_owned(),
            };
            let peak = row.peak_bytes.map_or("–".to_owned(), |bytes| (bytes >> 20).to_string());
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {peak} |",
                row.name,
                row.seeds.len(),
                cells.join(" | "),
                seconds(&row.seconds),
                seconds(&row.cpu_seconds)
            );
        }
        let _ = writeln!(out, "\n{}.\n", self.data);
        for (reading, r1) in &self.untuned_c2c {
            let _ = writeln!(out, "- C2C of {reading}: {:.1}", 100.0 * r1);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_deviation() {
        let summary = Summary::of(vec![0.2, 0.4, 0.9]).unwrap();
        assert!((summary.mean - 0.5).abs() < 1e-12);
        // ((0.3)² + (0.1)² + (0.4)²) / 2 = 0.13
        assert!((summary.sd.unwrap() - 0.13f64.sqrt()).abs() < 1e-12);
        assert_eq!(summary.percent(), "50.0 ± 36.1");
        let one = Summary::of(vec![0.125]).unwrap();
        assert_eq!((one.sd, one.percent()), (None, "12.5".to_owned()));
        assert_eq!(Summary::of(Vec::new()), None);
        assert_eq!(
            (median(vec![5, 1, 9]), median(vec![7, 3]), median(vec![])),
            (Some(5), Some(3), None)
        );
    }

    fn run(row: &str, seed: u64, zero_shot: f64, resumed: bool) -> Finished {
        Finished {
            row: row.to_owned(),
            what: "",
            seed,
            scores: Scores::from([("zero_shot".to_owned(), zero_shot)]),
            cost: Cost {
                seconds: seed as f64,
                peak_bytes: seed << 20,
                resumed,
                ..Cost::default()
            },
        }
    }

    #[test]
    fn forgetting_is_against_the_base_and_interrupted_runs_have_no_cost() {
        let finished = [
            run("base", 0, 0.5, false),
            run("a", 1, 0.25, false),
            run("b", 1, 0.75, true),
            run("a", 2, 0.75, true),
        ];
        let rows = rows(&finished);
        assert_eq!(
            rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
            ["base", "a", "b"]
        );
        let forgetting = |i: usize| rows[i].scores["forgetting"].values.clone();
        assert_eq!(
            (forgetting(0), forgetting(1), forgetting(2)),
            (vec![0.0], vec![0.25, -0.25], vec![-0.25])
        );
        assert_eq!(rows[1].seconds.as_ref().unwrap().values, [1.0]);
        assert_eq!((rows[1].peak_bytes, rows[2].peak_bytes), (Some(1 << 20), None));
        let lab = Lab {
            command: String::new(),
            version: "",
            threads: 1,
            data: "some photos".to_owned(),
            untuned_c2c: BTreeMap::new(),
            rows,
        };
        let markdown = lab.to_markdown();
        let line = markdown.lines().find(|line| line.starts_with("| a |")).unwrap();
        assert!(line.contains("| 50.0 ± 35.4 | – | 0.0 ± 35.4 |"), "{line}");
        let cells = |line: &str| line.matches('|').count();
        assert!(markdown.lines().take(5).all(|l| cells(l) == cells(line)), "{markdown}");
    }
}
