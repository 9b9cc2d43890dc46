//! `report.html` of a chain: the matrix as maps, and a curve for each test.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use bifocal_eval::page::{escape, whole};

use super::matrix::{ASKED, Matrix, in_words};
use super::measure::Recall;
use crate::evaluating::{self, Kind, Metric, Scale, heat, put};

/// Lines of one chart; there are as many colours.
const LINES: usize = 6;
/// Size of a chart.
const SIZE: (f64, f64) = (560.0, 240.0);
/// Room for labels: left, right, top, bottom.
const ROOM: (f64, f64, f64, f64) = (34.0, 96.0, 10.0, 22.0);

const STYLE: &str = "
.panels svg { width: 100%; height: auto; display: block; font: 11px system-ui, sans-serif; fill: var(--soft) }
.panels svg path { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.panels svg .grid { stroke: var(--rule); stroke-width: 1 }
.panels svg .end { fill: var(--c) }
";

/// Writes the page.
///
/// # Errors
/// When it cannot be written.
pub fn write(out: &Path, matrix: &Matrix) -> Result<()> {
    put(&out.join("report.html"), &html(matrix))
}

fn html(matrix: &Matrix) -> String {
    let mut main = String::new();
    facts(&mut main, matrix);
    let rows: Vec<String> = (0..matrix.rows.len()).map(|row| matrix.row_name(row)).collect();
    main.push_str(
        "<h2>After each task</h2>\n<p class=lead>R@1 in percent on the held-out pictures of each task. What a task has taught stands on the \
         diagonal; below it is what was kept of it.</p>\n",
    );
    for (name, words, value) in ASKED {
        let _ = writeln!(main, "<h3>{words}</h3>");
        map(&mut main, matrix, &rows, value);
        if let Some(sum) = matrix.sums.get(name) {
            let _ = writeln!(main, "<p class=lead>{}</p>", in_words(sum));
        }
    }
    if !matrix.keeps.is_empty() {
        main.push_str("<h3>Benchmarks of no task</h3>\n");
        let heads: Vec<(String, String)> = matrix.keeps.iter().map(|name| (escape(name), String::new())).collect();
        let table: Vec<Vec<Option<Metric>>> = matrix
            .rows
            .iter()
            .map(|row| {
                matrix
                    .keeps
                    .iter()
                    .map(|name| row.keeps.get(name).map(|&v| share(v)))
                    .collect()
            })
            .collect();
        let value = |name: &str, column: usize| table[rows.iter().position(|row| row == name)?][column].as_ref();
        heat(&mut main, Scale::Columns, &heads, &rows, value, |_| None);
    }
    main.push_str("<h2>Test by test</h2>\n<div class=panels>\n");
    for (_, words, value) in &ASKED[..2] {
        for tests in matrix.tests.chunks(LINES) {
            let lines = tests.iter().map(|test| {
                let of = |row: &super::measure::Measured| row.tests.get(test).map(value);
                (test.as_str(), matrix.rows.iter().map(of).collect())
            });
            chart(&mut main, words, &rows, &lines.collect::<Vec<_>>());
        }
    }
    main.push_str("</div>\n");
    let style = format!("{}{STYLE}", evaluating::STYLE);
    whole("Task after task", &style, &main, "")
}

fn facts(out: &mut String, matrix: &Matrix) {
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    let mut facts = vec![("Tasks learnt".to_owned(), matrix.tasks.len().to_string())];
    for (name, words, _) in &ASKED[..2] {
        if let Some(sum) = matrix.sums.get(*name) {
            facts.push((format!("R@1 {words}"), percent(sum.average)));
            if let Some(forgetting) = sum.forgetting {
                facts.push((format!("forgotten, {words}"), percent(forgetting)));
            }
        }
    }
    facts.extend(
        matrix
            .lost
            .iter()
            .map(|(name, lost)| (format!("lost of {name}"), percent(*lost))),
    );
    out.push_str("<dl class=facts>");
    for (what, value) in facts {
        let _ = write!(out, "<div><dt>{}</dt><dd>{value}</dd></div>", escape(&what));
    }
    out.push_str("</dl>\n");
}

fn map(out: &mut String, matrix: &Matrix, rows: &[String], value: fn(&Recall) -> f64) {
    let heads: Vec<(String, String)> = matrix
        .tests
        .iter()
        .map(|test| {
            let pictures = matrix
                .rows
                .last()
                .and_then(|row| row.tests.get(test))
                .map_or(0, |r| r.pictures);
            (escape(test), format!("{pictures} pictures"))
        })
        .collect();
    let table: Vec<Vec<Option<Metric>>> = matrix
        .rows
        .iter()
        .map(|row| {
            matrix
                .tests
                .iter()
                .map(|test| row.tests.get(test).map(|r| share(value(r))))
                .collect()
        })
        .collect();
    let value = |name: &str, column: usize| table[rows.iter().position(|row| row == name)?][column].as_ref();
    heat(out, Scale::Columns, &heads, rows, value, |_| None);
}

fn share(value: f64) -> Metric {
    Metric {
        name: String::new(),
        group: String::new(),
        value,
        low: None,
        high: None,
        chance: None,
        unit: Kind::Share,
    }
}

/// Lines from the first row to the last; a value that is missing is a gap.
fn chart(out: &mut String, title: &str, rows: &[String], lines: &[(&str, Vec<Option<f64>>)]) {
    let (left, right, top, bottom) = ROOM;
    let (width, height) = (SIZE.0 - left - right, SIZE.1 - top - bottom);
    let values = || lines.iter().flat_map(|(_, values)| values.iter().flatten());
    let high = values().copied().fold(0.01, f64::max);
    let x = |row: usize| left + width * row as f64 / (rows.len().max(2) - 1) as f64;
    let y = |value: f64| top + height * (1.0 - value / high);
    let _ = write!(
        out,
        "<section class=panel><h3>{}</h3><svg role=img aria-label=\"{}\" viewBox=\"0 0 {} {}\">",
        escape(title),
        escape(&format!("{title}: {} lines over the tasks", lines.len())),
        SIZE.0,
        SIZE.1
    );
    for share in [0.0, 0.5, 1.0] {
        let at = y(high * share);
        let _ = write!(
            out,
            "<path class=grid d=\"M{left:.0} {at:.1}H{:.0}\"/><text x={:.0} y={:.1} text-anchor=end>{:.0}</text>",
            left + width,
            left - 6.0,
            at + 4.0,
            100.0 * high * share
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let label = row.strip_prefix("after ").unwrap_or(row);
        let _ = write!(
            out,
            "<text x={:.0} y={:.0} text-anchor=middle>{}</text>",
            x(i),
            SIZE.1 - 5.0,
            escape(label)
        );
    }
    // names at the ends of their lines, moved apart
    let mut ends: Vec<(usize, f64)> = Vec::new();
    for (i, (_, values)) in lines.iter().enumerate() {
        let mut path = String::new();
        let mut drawing = false;
        for (row, value) in values.iter().enumerate() {
            match value {
                Some(value) => {
                    let _ = write!(
                        path,
                        "{}{:.1} {:.1}",
                        if drawing { 'L' } else { 'M' },
                        x(row),
                        y(*value)
                    );
                    drawing = true;
                }
                None => drawing = false,
            }
        }
        let _ = write!(out, "<path class=c{i} d=\"{path}\"/>");
        ends.extend(values.last().copied().flatten().map(|value| (i, y(value))));
    }
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut free = 0.0f64;
    for (i, at) in ends {
        let at = at.max(free);
        free = at + 12.0;
        let _ = write!(
            out,
            "<g class=c{i}><text class=end x={:.0} y={:.1}>{}</text></g>",
            left + width + 8.0,
            at + 4.0,
            escape(lines[i].0)
        );
    }
    out.push_str("</svg></section>\n");
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::matrix;
    use super::*;

    #[test]
    fn the_page_has_maps_and_curves_and_nothing_is_markup() {
        let html = html(&matrix(true));
        assert_eq!(html.matches("class=heat").count(), 5);
        assert_eq!(html.matches("<svg").count(), 2);
        assert!(html.contains("zero-shot=&lt;x&gt;") && !html.contains("<x>"));
        assert!(html.contains("lost of zero-shot") && html.contains("<dd>12.5</dd>"));
        // two points of three rows, a line for each test
        assert_eq!(html.matches("class=c0 d=\"M").count(), 2);
    }

    #[test]
    fn a_chain_that_has_just_begun_has_a_page_too() {
        let mut m = matrix(false);
        m.rows.truncate(1);
        m.tasks.truncate(1);
        m.sums.clear();
        assert!(html(&m).contains("after a"));
    }
}
