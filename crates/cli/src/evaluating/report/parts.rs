//! What all pages begin with: how much there is, and the matrix.

use std::fmt::Write;

use bifocal_eval::page::escape;

use super::super::results::{Metric, Outcome};
use super::All;

/// How much there is, in numbers.
pub fn facts(out: &mut String, all: &All<'_>) {
    if all.outcomes.is_empty() {
        out.push_str("<p class=note>No results yet.</p>\n");
        return;
    }
    let pictures = all.outcomes.iter().map(|o| o.counts.pictures).max().unwrap_or(0);
    let version = all.outcomes.last().map_or("", |o| &o.what.bifocal);
    let facts = [
        ("Models", all.models.len().to_string()),
        ("Benchmarks", all.clean().len().to_string()),
        ("Results", all.outcomes.len().to_string()),
        ("Pictures in the largest", pictures.to_string()),
        ("Bifocal", version.to_owned()),
    ];
    out.push_str("<dl class=facts>");
    for (what, value) in facts {
        let _ = write!(out, "<div><dt>{what}</dt><dd>{}</dd></div>", escape(&value));
    }
    out.push_str("</dl>\n");
}

/// Models × benchmarks.
pub fn matrix(out: &mut String, all: &All<'_>) {
    let columns = all.clean();
    if columns.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Models × benchmarks</h2>\n<p class=lead>The number that the literature gives for each benchmark, in percent; below it 95 % of 1000 \
         bootstrap resamples of pictures or items. The best of a column is bold. Protocols are below, one for each benchmark.</p>\n",
    );
    let heads: Vec<(String, String)> = columns
        .iter()
        .map(|column| {
            let name = all.of_column(column).first().map_or(String::new(), |o| headline(o));
            (format!("<a href=\"#{}\">{}</a>", anchor(column), escape(column)), name)
        })
        .collect();
    let value = |model: &str, column: usize| all.get(model, &columns[column]).and_then(Outcome::main);
    let chance = |column: usize| {
        all.of_column(&columns[column])
            .first()
            .and_then(|o| o.main())
            .and_then(|m| Some(m.unit.show(m.chance?)))
    };
    heat(out, Scale::Columns, &heads, &all.models, value, chance);
}

/// The metric of the matrix in words, and of how many languages or categories it is the mean.
fn headline(outcome: &Outcome) -> String {
    let groups = outcome
        .metrics
        .iter()
        .filter(|m| m.name == outcome.headline && !m.group.is_empty())
        .count();
    let name = metric_name(&outcome.headline);
    match outcome.what.task.as_str() {
        "retrieval" | "classification" if groups > 1 => format!("{name}, mean of {groups} languages"),
        _ => name,
    }
}

/// What a colour is in proportion to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The worst and the best of each column: different benchmarks.
    Columns,
    /// The worst and the best of the whole table: languages, categories, corruptions of one benchmark.
    Whole,
}

/// A table of numbers, coloured from the worst to the best.
pub fn heat<'a>(
    out: &mut String,
    scale: Scale,
    heads: &[(String, String)],
    rows: &[String],
    value: impl Fn(&str, usize) -> Option<&'a Metric>,
    chance: impl Fn(usize) -> Option<String>,
) {
    out.push_str("<div class=scroll tabindex=0><table class=heat><thead><tr><th></th>");
    for (head, below) in heads {
        let _ = write!(out, "<th>{head}<small>{}</small></th>", escape(below));
    }
    out.push_str("</tr></thead><tbody>\n");
    let rising = |m: &Metric| if m.unit.rises() { m.value } else { -m.value };
    let range = |columns: std::ops::Range<usize>| {
        let all = columns
            .flat_map(|column| rows.iter().map(move |row| (row, column)))
            .filter_map(|(row, column)| value(row, column));
        all.map(rising)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            })
    };
    let scales: Vec<(f64, f64)> = (0..heads.len()).map(|column| range(column..column + 1)).collect();
    let whole = range(0..heads.len());
    for row in rows {
        let _ = write!(out, "<tr><th>{}</th>", escape(row));
        for (column, own) in scales.iter().enumerate() {
            let Some(m) = value(row, column) else {
                out.push_str("<td>–</td>");
                continue;
            };
            let v = rising(m);
            let (low, high) = if scale == Scale::Whole { whole } else { *own };
            let share = if high > low { (v - low) / (high - low) } else { 0.0 };
            let class = if v == own.1 && rows.len() > 1 { " class=top" } else { "" };
            let interval = match (m.low, m.high) {
                (Some(low), Some(high)) => format!("<small>{}–{}</small>", m.unit.show(low), m.unit.show(high)),
                _ => String::new(),
            };
            let _ = write!(
                out,
                "<td{class} style=\"--v:{share:.2}\">{}{interval}</td>",
                m.unit.show(m.value)
            );
        }
        out.push_str("</tr>\n");
    }
    let chances: Vec<Option<String>> = (0..heads.len()).map(chance).collect();
    if chances.iter().any(Option::is_some) {
        out.push_str("<tr class=chance><th>chance</th>");
        for chance in chances {
            let _ = write!(out, "<td>{}</td>", chance.unwrap_or_else(|| "–".to_owned()));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

/// Where a benchmark is on the page.
pub fn anchor(column: &str) -> String {
    column
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

/// A metric in words.
pub fn metric_name(name: &str) -> String {
    let text = match name {
        "top1" => "top-1",
        "top5" => "top-5",
        "mean_per_class" => "mean per class",
        "ece" => "calibration error",
        "knn" => "20 nearest neighbours",
        "linear_probe" => "linear probe",
        "accuracy" => "accuracy",
        "text_score" => "text score",
        "image_score" => "picture score",
        "group_score" => "group score",
        "spearman" => "rank correlation × 100",
        "map" => "mean average precision",
        "r1" => "R@1",
        "r5" => "R@5",
        "r10" => "R@10",
        other => {
            let (way, rest) = other.split_once('_').unwrap_or(("", other));
            let rest = match rest {
                "median" => "median rank".to_owned(),
                "map" => "mAP".to_owned(),
                rest => rest.replace('r', "R@"),
            };
            return match way {
                "t2i" => format!("text → picture {rest}"),
                "i2t" => format!("picture → text {rest}"),
                _ => other.to_owned(),
            };
        }
    };
    text.to_owned()
}
