//! Results for other programs: CSV, Markdown, and the JSON of CLIP_benchmark.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bifocal_data::atomic::write_atomic;
use serde_json::{Value, json};

use super::results::{Outcome, file_name};

/// Writes `results.csv`, `results.md` and `clip_benchmark/*.json`.
///
/// # Errors
/// When they cannot be written.
pub fn write(out: &Path, outcomes: &[Outcome]) -> Result<()> {
    put(&out.join("results.csv"), &csv(outcomes))?;
    put(&out.join("results.md"), &markdown(outcomes))?;
    let folder = out.join("clip_benchmark");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for outcome in outcomes {
        for value in clip_benchmark(outcome) {
            let part = |name: &str| file_name(value[name].as_str().unwrap_or_default());
            let name = format!(
                "{}_{}_{}_{}.json",
                part("dataset"),
                part("model"),
                part("language"),
                part("task")
            );
            put(&folder.join(name), &serde_json::to_string(&value)?)?;
        }
    }
    Ok(())
}

/// Writes a text whole or not at all.
pub fn put(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, |file| file.write_all(text.as_bytes())).with_context(|| format!("writing {}", path.display()))
}

/// One line for each number.
fn csv(outcomes: &[Outcome]) -> String {
    let mut out = String::from(
        "model,fingerprint,benchmark,corruption,metric,group,value,low,high,chance,unit,pictures,texts,left_out,seed,bifocal,protocol\n",
    );
    for o in outcomes {
        for m in &o.metrics {
            let number = |v: Option<f64>| v.map_or_else(String::new, |v| v.to_string());
            let unit = serde_json::to_value(m.unit)
                .ok()
                .and_then(|v| v.as_str().map(str::to_owned))
                .unwrap_or_default();
            let cells = [
                o.what.model.clone(),
                o.what.fingerprint.clone(),
                o.what.suite.clone(),
                o.what.corruption.clone().unwrap_or_default(),
                m.name.clone(),
                m.group.clone(),
                m.value.to_string(),
                number(m.low),
                number(m.high),
                number(m.chance),
                unit,
                o.counts.pictures.to_string(),
                o.counts.texts.to_string(),
                o.counts.left_out.to_string(),
                o.what.seed.to_string(),
                o.what.bifocal.clone(),
                o.what.protocol.clone(),
            ];
            out.push_str(&cells.map(|cell| quoted(&cell)).join(","));
            out.push('\n');
        }
    }
    out
}

/// RFC 4180. A cell that a spreadsheet would run as a formula begins with an apostrophe; numbers stay numbers.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    }
}

/// Names in the order in which they first come.
pub(super) fn in_order<'a>(names: impl Iterator<Item = String> + 'a) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// The matrix, and what stands behind each column.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let columns = in_order(outcomes.iter().map(Outcome::column));
    let models = in_order(outcomes.iter().map(|o| o.what.model.clone()));
    let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let mut by: BTreeMap<(&str, String), &Outcome> = BTreeMap::new();
    for outcome in outcomes {
        by.insert((&outcome.what.model, outcome.column()), outcome);
    }
    let mut out = String::from("| |");
    for column in &columns {
        let _ = write!(out, " {} |", cell(column));
    }
    let _ = writeln!(out, "\n|---|{}", "---:|".repeat(columns.len()));
    for model in &models {
        let _ = write!(out, "| {} |", cell(model));
        for column in &columns {
            let text = by
                .get(&(model.as_str(), column.clone()))
                .and_then(|o| o.main())
                .map_or_else(
                    || "–".to_owned(),
                    |m| match (m.low, m.high) {
                        (Some(low), Some(high)) => {
                            format!("{} ({}–{})", m.unit.show(m.value), m.unit.show(low), m.unit.show(high))
                        }
                        _ => m.unit.show(m.value),
                    },
                );
            let _ = write!(out, " {text} |");
        }
        out.push('\n');
    }
    let _ = write!(out, "| *chance* |");
    for column in &columns {
        let main = outcomes.iter().find(|o| o.column() == *column).and_then(Outcome::main);
        let text = main
            .and_then(|m| Some(m.unit.show(m.chance?)))
            .unwrap_or_else(|| "–".to_owned());
        let _ = write!(out, " {text} |");
    }
    out.push_str("\n\nIn brackets: 95 % of 1000 bootstrap resamples of pictures or items.\n\n");
    for column in &columns {
        let mut protocols = in_order(
            outcomes
                .iter()
                .filter(|o| o.column() == *column)
                .map(|o| o.what.protocol.clone()),
        );
        let headline = outcomes
            .iter()
            .find(|o| o.column() == *column)
            .map_or("", |o| &o.headline);
        let first = protocols.first().cloned().unwrap_or_default();
        let _ = writeln!(out, "- **{}** ({headline}): {}", cell(column), cell(&first));
        for other in protocols.drain(1..) {
            let _ = writeln!(out, "  Other rows: {}", cell(&other));
        }
    }
    out
}

/// As `clip_benchmark eval` writes it, one value for each language.
fn clip_benchmark(outcome: &Outcome) -> Vec<Value> {
    let (task, names): (_, &[(&str, &str)]) = match outcome.what.task.as_str() {
        "classification" => (
            "zeroshot_classification",
            &[
                ("top1", "acc1"),
                ("top5", "acc5"),
                ("mean_per_class", "mean_per_class_recall"),
            ],
        ),
        "retrieval" => (
            "zeroshot_retrieval",
            &[
                ("t2i_r1", "image_retrieval_recall@1"),
                ("i2t_r1", "text_retrieval_recall@1"),
                ("t2i_r5", "image_retrieval_recall@5"),
                ("i2t_r5", "text_retrieval_recall@5"),
                ("t2i_r10", "image_retrieval_recall@10"),
                ("i2t_r10", "text_retrieval_recall@10"),
            ],
        ),
        "composition" => ("image_caption_selection", &[("accuracy", "acc")]),
        _ => return Vec::new(),
    };
    let groups = in_order(
        outcome
            .metrics
            .iter()
            .filter(|m| m.name == names[0].0)
            .map(|m| m.group.clone()),
    );
    let only = groups.len() == 1;
    let of = |group: &String| {
        let metrics: serde_json::Map<String, Value> = names
            .iter()
            .filter_map(|(ours, theirs)| Some(((*theirs).to_owned(), json!(outcome.metric(ours, group)?.value))))
            .collect();
        // a composition benchmark's groups are data sets there
        let (dataset, language) = match outcome.what.task.as_str() {
            "composition" if !group.is_empty() => (format!("{}/{group}", outcome.column()), "en"),
            "composition" => (outcome.column(), "en"),
            _ => (outcome.column(), if group.is_empty() { "en" } else { group.as_str() }),
        };
        json!({
            "dataset": dataset,
            "model": outcome.what.model,
            "pretrained": outcome.what.fingerprint,
            "task": task,
            "metrics": metrics,
            "language": language,
        })
    };
    // the mean over languages has no place there
    groups
        .iter()
        .filter(|group| only || !group.is_empty())
        .map(of)
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::super::results::{Counts, FORMAT, Identity, Kind, Metric};
    use super::*;

    pub fn outcome(model: &str, suite: &str, task: &str, metrics: &[(&str, &str, f64)]) -> Outcome {
        Outcome {
            format: FORMAT,
            what: Identity {
                suite: suite.to_owned(),
                task: task.to_owned(),
                corruption: None,
                protocol: format!("the protocol of {suite}, with \"quotes\" & <signs>"),
                data: String::new(),
                model: model.to_owned(),
                fingerprint: "f00d".to_owned(),
                seed: 0,
                probe: false,
                bifocal: "0".to_owned(),
            },
            counts: Counts::default(),
            headline: metrics[0].0.to_owned(),
            metrics: metrics
                .iter()
                .map(|(name, group, value)| Metric {
                    name: (*name).to_owned(),
                    group: (*group).to_owned(),
                    value: *value,
                    low: Some(value - 0.01),
                    high: Some(value + 0.01),
                    chance: Some(0.001),
                    unit: Kind::Share,
                })
                .collect(),
            units: BTreeMap::new(),
            confused: Vec::new(),
            examples: Vec::new(),
        }
    }

    #[test]
    fn users_of_clip_benchmark_find_their_names() {
        let retrieval = outcome(
            "m",
            "flickr30k",
            "retrieval",
            &[
                ("t2i_r1", "", 0.2),
                ("t2i_r1", "en", 0.3),
                ("t2i_r5", "en", 0.5),
                ("t2i_r1", "de", 0.1),
            ],
        );
        let found = clip_benchmark(&retrieval);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["language"], "en");
        assert_eq!(found[0]["task"], "zeroshot_retrieval");
        assert_eq!(found[0]["metrics"]["image_retrieval_recall@5"], 0.5);
        let named = outcome(
            "m",
            "cifar10",
            "classification",
            &[("top1", "en", 0.9), ("top5", "en", 1.0)],
        );
        assert_eq!(clip_benchmark(&named)[0]["metrics"], json!({"acc1": 0.9, "acc5": 1.0}));
    }

    #[test]
    fn tables_hold_every_number_with_its_protocol() {
        let all = [
            outcome("=cmd|x", "a", "classification", &[("top1", "en", 0.5)]),
            outcome("b", "c", "classification", &[("top1", "en", 0.25)]),
        ];
        let csv = csv(&all);
        assert!(
            csv.lines().nth(1).unwrap().starts_with("'=cmd|x,f00d,a,,top1,en,0.5,"),
            "{csv}"
        );
        assert!(
            csv.contains("\"the protocol of a, with \"\"quotes\"\" & <signs>\""),
            "{csv}"
        );
        let table = markdown(&all);
        assert!(table.contains("| =cmd\\|x | 50.0 (49.0–51.0) | – |"), "{table}");
        assert!(table.contains("| *chance* | 0.10 | 0.10 |"), "{table}");
        assert!(table.contains("the protocol of c"), "{table}");
    }
}
