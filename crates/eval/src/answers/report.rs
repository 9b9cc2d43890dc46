//! The result of a benchmark: a table whose columns say what they count, and how many answers there were.

use serde::Serialize;

/// How many questions and answers met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Questions of the benchmark.
    pub questions: usize,
    /// Those without an answer: they count as wrong.
    pub missing: usize,
    /// Answers to a question that had one already: the last one counts.
    pub double: usize,
    /// Answers to questions that are not there: they are left out.
    pub unknown: usize,
}

/// What the numbers of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// 1 is all; the table shows it times 100. CIDEr, which can be up to 10, is customarily shown so, too.
    Fraction,
    /// Points, as they are.
    Points,
}

/// A column of a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    /// What it counts.
    pub name: &'static str,
    /// Of what kind its numbers are.
    pub unit: Unit,
}

/// A row of a [`Report`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The part of the benchmark.
    pub name: String,
    /// How many questions it has (pictures, where pictures are scored).
    pub items: usize,
    /// A number for each column; none where it has no value (a ratio whose divisor is zero).
    pub values: Vec<Option<f64>>,
}

/// The result of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Which one.
    pub benchmark: &'static str,
    /// How answers were judged, in a sentence.
    pub rule: &'static str,
    /// Questions and answers.
    pub counts: Counts,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows; the first one is the headline.
    pub rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(
        benchmark: &'static str,
        rule: &'static str,
        counts: Counts,
        unit: Unit,
        columns: &[&'static str],
    ) -> Self {
        let columns = columns.iter().map(|&name| Column { name, unit }).collect();
        Self {
            benchmark,
            rule,
            counts,
            columns,
            rows: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, name: impl Into<String>, items: usize, values: Vec<Option<f64>>) {
        self.rows.push(Row {
            name: name.into(),
            items,
            values,
        });
    }

    /// One number of the table.
    #[must_use]
    pub fn value(&self, row: &str, column: &str) -> Option<f64> {
        let at = self.columns.iter().position(|c| c.name == column)?;
        self.rows.iter().find(|r| r.name == row)?.values.get(at).copied()?
    }

    /// The table as plain text, with what has to be said about the answers above it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Counts {
            questions,
            missing,
            double,
            unknown,
        } = self.counts;
        let mut out = format!("{}: {questions} questions\n{}\n", self.benchmark, self.rule);
        if missing > 0 {
            out.push_str(&format!(
                "MISSING: {missing} questions have no answer and count as wrong\n"
            ));
        }
        if double > 0 {
            out.push_str(&format!(
                "DOUBLE: {double} answers came after another to the same question; the last one counts\n"
            ));
        }
        if unknown > 0 {
            out.push_str(&format!(
                "UNKNOWN: {unknown} answers belong to no question and were left out\n"
            ));
        }
        out.push('\n');
        let mut lines = vec![vec![String::new(), "items".to_owned()]];
        lines[0].extend(self.columns.iter().map(|c| c.name.to_owned()));
        for row in &self.rows {
            let mut line = vec![row.name.clone(), row.items.to_string()];
            line.extend(
                self.columns
                    .iter()
                    .zip(&row.values)
                    .map(|(column, value)| shown(column.unit, *value)),
            );
            lines.push(line);
        }
        aligned(&lines, &mut out);
        out
    }
}

fn shown(unit: Unit, value: Option<f64>) -> String {
    match (unit, value) {
        (_, None) => "–".to_owned(),
        (Unit::Fraction, Some(value)) => format!("{:.2}", value * 100.0),
        (Unit::Points, Some(value)) => format!("{value:.2}"),
    }
}

/// Names to the left, numbers to the right.
fn aligned(lines: &[Vec<String>], out: &mut String) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        lines
            .iter()
            .filter_map(|l| l.get(at))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - cell.chars().count());
            match at {
                0 => out.extend([cell.as_str(), &space]),
                _ => out.extend(["  ", &space, cell]),
            }
        }
        out.push('\n');
    }
}

/// The mean of scores, if there are any.
pub(super) fn mean(scores: &[f64]) -> Option<f64> {
    (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
}

/// A ratio, if its divisor is not zero.
pub(super) fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The scores of items by a name that they carry, in the order in which the names first come.
pub(super) fn groups<'a>(items: impl Iterator<Item = (&'a str, f64)>) -> Vec<(&'a str, Vec<f64>)> {
    let mut groups: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (name, score) in items {
        let at = *places.entry(name).or_insert_with(|| {
            groups.push((name, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(score);
    }
    groups
}
