//! All tests after each task, and what they come to.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use bifocal_eval::{Continual, continual};
use serde::{Deserialize, Serialize};

use super::measure::{Measured, Recall};

/// The file that others read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// What was learnt so far, in order.
    pub tasks: Vec<String>,
    /// What was asked after each; held-out pictures of these tasks.
    pub tests: Vec<String>,
    /// Benchmarks of no task.
    pub keeps: Vec<String>,
    /// Whether the first row is the model before the first task; a chain that starts from two towers which were never joined has none.
    pub before: bool,
    /// Row by row.
    pub rows: Vec<Measured>,
    /// The whole in a few numbers, by what was asked: `i2t`, `t2i`, `merged_i2t`, `merged_t2i`.
    pub sums: BTreeMap<String, Continual>,
    /// What each benchmark of no task has lost since the model before the first: its headline then less that now.
    pub lost: BTreeMap<String, f64>,
}

/// What is asked of a test: its name, in words, and where the answer is.
pub type Question = (&'static str, &'static str, fn(&Recall) -> f64);

/// All that is asked.
pub const ASKED: [Question; 4] = [
    ("i2t", "picture → text", |r| r.i2t),
    ("t2i", "text → picture", |r| r.t2i),
    ("merged_i2t", "picture → text, one pool", |r| r.merged_i2t),
    ("merged_t2i", "text → picture, one pool", |r| r.merged_t2i),
];

impl Matrix {
    /// Sums up what was measured before the first task (if there is such a model) and after each.
    ///
    /// # Errors
    /// Measurements of different tests.
    pub fn of(
        tasks: Vec<String>,
        tests: Vec<String>,
        keeps: Vec<String>,
        before: Option<Measured>,
        after: Vec<Measured>,
    ) -> Result<Self> {
        let had_before = before.is_some();
        let rows: Vec<Measured> = before.into_iter().chain(after).collect();
        let learnt: Vec<Option<usize>> = tests
            .iter()
            .map(|test| tasks.iter().position(|task| task == test).map(|at| at + 1))
            .collect();
        let mut sums = BTreeMap::new();
        let mut lost = BTreeMap::new();
        if rows.len() > usize::from(had_before) {
            for (name, _, value) in ASKED {
                let mut values = Vec::new();
                for row in &rows {
                    let of = |test: &String| row.tests.get(test).map_or(f64::NAN, value);
                    values.push(tests.iter().map(of).collect::<Vec<f64>>());
                }
                if !had_before {
                    values.insert(0, vec![0.0; tests.len()]);
                }
                let mut sum = continual(&values, &learnt)?;
                if !had_before {
                    sum.forward = None;
                }
                sums.insert(name.to_owned(), sum);
            }
            if let (true, [first, .., last]) = (had_before, rows.as_slice()) {
                for (name, before) in &first.keeps {
                    if let Some(now) = last.keeps.get(name) {
                        lost.insert(name.clone(), before - now);
                    }
                }
            }
        }
        Ok(Self {
            tasks,
            tests,
            keeps,
            before: had_before,
            rows,
            sums,
            lost,
        })
    }

    /// What a row stands for.
    pub fn row_name(&self, row: usize) -> String {
        match (self.before, row) {
            (true, 0) => "before".to_owned(),
            _ => format!("after {}", self.tasks[row - usize::from(self.before)]),
        }
    }

    /// Tables for a terminal and for documents.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        let percent = |value: f64| format!("{:.1}", 100.0 * value);
        // writing into a string does not fail
        for (name, words, value) in ASKED {
            let _ = writeln!(out, "R@1, {words}\n\n| | {} | mean |", self.tests.join(" | "));
            let _ = writeln!(out, "|---|{}", "---:|".repeat(self.tests.len() + 1));
            for (i, row) in self.rows.iter().enumerate() {
                let values: Vec<f64> = self.tests.iter().filter_map(|t| row.tests.get(t).map(value)).collect();
                let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
                let cells: Vec<String> = values.iter().map(|&v| percent(v)).collect();
                let _ = writeln!(
                    out,
                    "| {} | {} | {} |",
                    self.row_name(i),
                    cells.join(" | "),
                    percent(mean)
                );
            }
            if let Some(sum) = self.sums.get(name) {
                let _ = writeln!(out, "\n{}\n", in_words(sum));
            }
        }
        if !self.keeps.is_empty() {
            let _ = writeln!(out, "Benchmarks of no task\n\n| | {} |", self.keeps.join(" | "));
            let _ = writeln!(out, "|---|{}", "---:|".repeat(self.keeps.len()));
            for (i, row) in self.rows.iter().enumerate() {
                let cell = |name: &String| row.keeps.get(name).map_or("–".to_owned(), |&v| percent(v));
                let cells: Vec<String> = self.keeps.iter().map(cell).collect();
                let _ = writeln!(out, "| {} | {} |", self.row_name(i), cells.join(" | "));
            }
        }
        out
    }
}

/// A matrix's numbers as a sentence.
pub fn in_words(sum: &Continual) -> String {
    let mut parts = vec![format!("average {:.1}", 100.0 * sum.average)];
    let more = [
        ("learnt", sum.learning),
        ("forgotten", sum.forgetting),
        ("backward transfer", sum.backward),
        ("forward transfer", sum.forward),
    ];
    parts.extend(
        more.into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {:.1}", 100.0 * value?))),
    );
    parts.join(", ")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Measurements of two tests: R@1 of `i2t`, and half of it everywhere else.
    pub fn measured(values: [f64; 2], kept: f64) -> Measured {
        let recall = |i2t: f64| Recall {
            pictures: 10,
            i2t,
            t2i: i2t / 2.0,
            merged_i2t: i2t / 2.0,
            merged_t2i: i2t / 2.0,
        };
        let names = ["a", "b"].map(str::to_owned);
        Measured {
            fingerprint: String::new(),
            asked: String::new(),
            tests: names.into_iter().zip(values.map(recall)).collect(),
            keeps: BTreeMap::from([("zero-shot=<x>".to_owned(), kept)]),
        }
    }

    pub fn matrix(before: bool) -> Matrix {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let first = before.then(|| measured([0.2, 0.1], 0.5));
        let after = vec![measured([0.6, 0.2], 0.4), measured([0.4, 0.8], 0.375)];
        Matrix::of(names(), names(), vec!["zero-shot=<x>".to_owned()], first, after).unwrap()
    }

    #[test]
    fn sums_and_losses() {
        let m = matrix(true);
        let sum = m.sums["i2t"];
        assert!((sum.average - 0.6).abs() < 1e-12 && (sum.forgetting.unwrap() - 0.2).abs() < 1e-12);
        assert!((sum.forward.unwrap() - 0.1).abs() < 1e-12);
        assert!((m.lost["zero-shot=<x>"] - 0.125).abs() < 1e-12);
        let text = m.to_markdown();
        assert!(text.contains("| after b | 40.0 | 80.0 | 60.0 |"), "{text}");
        assert!(
            text.contains("average 60.0, learnt 70.0, forgotten 20.0, backward transfer -20.0, forward transfer 10.0"),
            "{text}"
        );
    }

    #[test]
    fn without_a_model_before_nothing_is_compared_with_it() {
        let m = matrix(false);
        assert_eq!(m.sums["i2t"].forward, None);
        assert!(m.lost.is_empty());
        assert_eq!(m.row_name(0), "after a");
        assert!((m.sums["i2t"].forgetting.unwrap() - 0.2).abs() < 1e-12);
    }
}
