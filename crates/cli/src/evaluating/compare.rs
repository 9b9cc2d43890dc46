//! `bifocal eval compare A B`: whether two models differ by more than chance, picture by picture.

use std::path::Path;

use anyhow::{Context, Result};
use bifocal_eval::{Paired, paired};
use serde::Serialize;

use super::results::{FORMAT, Kind, Outcome};
use crate::failure::wrong_use;

/// Differences below this share of the resamples are called significant.
const LEVEL: f64 = 0.05;

/// A number of both.
#[derive(Debug, Serialize)]
pub struct Line {
    benchmark: String,
    metric: String,
    a: f64,
    b: f64,
    #[serde(flatten)]
    paired: Paired,
    /// `p` after Holm's correction for the number of benchmarks.
    corrected: f64,
    protocol: String,
    #[serde(skip)]
    unit: Option<Kind>,
}

/// Compares the results in two folders (`OUT/results/MODEL`) or two result files.
///
/// # Errors
/// Folders without results, results that nothing can be compared in.
pub fn compare(a: &Path, b: &Path) -> Result<Vec<Line>> {
    let (first, second) = (read(a)?, read(b)?);
    let mut lines = Vec::new();
    for one in &first {
        let Some(other) = second.iter().find(|o| o.column() == one.column()) else {
            continue;
        };
        if one.what.data != other.what.data || one.what.protocol != other.what.protocol {
            eprintln!(
                "left out {}: it was measured on other data or by another protocol",
                one.column()
            );
            continue;
        }
        let mut names: Vec<&str> = vec![&one.headline];
        // the other direction counts as much
        names.extend((one.headline == "t2i_r1").then_some("i2t_r1"));
        for name in names {
            let key = match one.units.contains_key(name) {
                true => Some(name.to_owned()),
                // a single group is the whole benchmark
                false => one
                    .units
                    .keys()
                    .find(|key| key.split('/').next() == Some(name))
                    .cloned(),
            };
            let both = key.and_then(|key| Some((one.units.get(&key)?, other.units.get(&key)?)));
            let Some((u, v)) = both else { continue };
            match paired(&u.units(), &v.units(), one.what.seed) {
                Ok(paired) => {
                    let mean = |units: &super::results::Units| {
                        let units = units.units();
                        units.iter().map(|u| u.sum).sum::<f64>() / units.iter().map(|u| u.count).sum::<f64>()
                    };
                    lines.push(Line {
                        benchmark: one.column(),
                        metric: name.to_owned(),
                        a: mean(u),
                        b: mean(v),
                        paired,
                        corrected: 1.0,
                        protocol: one.what.protocol.clone(),
                        unit: one.metrics.iter().find(|m| m.name == name).map(|m| m.unit),
                    });
                }
                // other pictures could be read
                Err(error) => eprintln!("left out {}: {error}", one.column()),
            }
        }
    }
    if lines.is_empty() {
        anyhow::bail!(
            "{} and {} have no benchmark in common that can be compared",
            a.display(),
            b.display()
        );
    }
    correct(&mut lines);
    Ok(lines)
}

/// Holm 1979: the smallest p times the number of them, the next times one less, never falling.
fn correct(lines: &mut [Line]) {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|&x, &y| lines[x].paired.p.total_cmp(&lines[y].paired.p));
    let mut least = 0.0f64;
    for (place, i) in order.into_iter().enumerate() {
        least = least.max(lines[i].paired.p * (lines.len() - place) as f64).min(1.0);
        lines[i].corrected = least;
    }
}

fn read(path: &Path) -> Result<Vec<Outcome>> {
    if path.is_file() {
        return Ok(vec![Outcome::read(path)?]);
    }
    let list = || {
        std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let mut files = list().with_context(|| {
        format!(
            "{}: give two folders below OUT/results, or two files in them, as `bifocal eval … --out OUT` writes them",
            path.display()
        )
    })?;
    files.retain(|file| file.extension().is_some_and(|e| e == "json"));
    files.sort();
    let all: Vec<Outcome> = files.iter().map(|file| Outcome::read(file)).collect::<Result<_>>()?;
    let all: Vec<Outcome> = all.into_iter().filter(|o| o.format == FORMAT).collect();
    if all.is_empty() {
        return Err(wrong_use(format!(
            "{} holds no results: give a folder below OUT/results, as `bifocal eval … --out OUT` writes them",
            path.display()
        )));
    }
    Ok(all)
}

/// The comparison as text.
pub fn table(lines: &[Line]) -> String {
    let mut cells = vec![["benchmark", "metric", "A", "B", "B − A", "95 %", "p", "p (Holm)", ""].map(str::to_owned)];
    for line in lines {
        let show = |v: f64| line.unit.unwrap_or(Kind::Share).show(v);
        let signed = |v: f64| format!("{:+.1}", 100.0 * v);
        let d = line.paired.difference;
        cells.push([
            line.benchmark.clone(),
            line.metric.clone(),
            show(line.a),
            show(line.b),
            signed(d.mean),
            format!("{} … {}", signed(d.low), signed(d.high)),
            format!("{:.3}", line.paired.p),
            format!("{:.3}", line.corrected),
            if line.corrected < LEVEL { "*" } else { "" }.to_owned(),
        ]);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - cell.chars().count());
            out.push_str(&if column < 2 {
                format!("{cell}{space}  ")
            } else {
                format!("{space}{cell}  ")
            });
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out.push_str("\nPaired bootstrap over pictures or items, 1000 resamples; *: p below 0.05 after Holm's correction for the number of lines.\n");
    for line in lines {
        let text = format!("{}: {}\n", line.benchmark, line.protocol);
        if !out.contains(&text) {
            out.push_str(&text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::export::tests::outcome;
    use super::super::results::Units;
    use super::*;

    fn with_units(model: &str, suite: &str, sums: &[f64]) -> Outcome {
        let mut made = outcome(model, suite, "classification", &[("top1", "en", 0.5)]);
        let units = Units {
            sum: sums.to_vec(),
            count: Vec::new(),
        };
        made.units.insert("top1/en".to_owned(), units);
        made
    }

    #[test]
    fn a_clear_difference_has_a_star_and_none_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let half: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
        for (model, suite, sums) in [
            ("a", "clear", vec![0.0; 200]),
            ("b", "clear", half.clone()),
            ("a", "same", half.clone()),
            ("b", "same", half.clone()),
            ("a", "alone", half.clone()),
            ("a", "shorter", half.clone()),
            ("b", "shorter", half[1..].to_vec()),
        ] {
            with_units(model, suite, &sums).write(dir.path()).unwrap();
        }
        let folder = |model: &str| dir.path().join("results").join(model);
        let lines = compare(&folder("a"), &folder("b")).unwrap();
        let text = table(&lines);
        assert_eq!(lines.len(), 2, "{text}");
        let line = |suite: &str| text.lines().find(|l| l.starts_with(suite)).unwrap().to_owned();
        assert!(
            line("clear").ends_with('*') && line("clear").contains("+50.0"),
            "{text}"
        );
        assert!(!line("same").ends_with('*') && line("same").contains("1.000"), "{text}");
        assert!(compare(&folder("a"), dir.path()).is_err());
    }

    #[test]
    fn many_lines_ask_for_more() {
        let mut lines: Vec<Line> = [0.01, 0.04, 0.03]
            .map(|p| {
                let difference = bifocal_eval::Interval {
                    mean: 0.0,
                    low: 0.0,
                    high: 0.0,
                };
                Line {
                    benchmark: String::new(),
                    metric: String::new(),
                    a: 0.0,
                    b: 0.0,
                    paired: Paired {
                        difference,
                        p,
                        units: 1,
                    },
                    corrected: 0.0,
                    protocol: String::new(),
                    unit: None,
                }
            })
            .into();
        correct(&mut lines);
        let found: Vec<f64> = lines.iter().map(|l| l.corrected).collect();
        for (f, e) in found.iter().zip([0.03, 0.06, 0.06]) {
            assert!((f - e).abs() < 1e-12, "{found:?}");
        }
    }
}
