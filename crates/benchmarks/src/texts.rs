//! The text side alone: captions that find each other, and sentence similarity.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde_json::{Map, Value};

use crate::context::{Context, json_lines, lines, malformed};
use crate::karpathy::listed;
use crate::languages::all_or_asked;
use crate::names::english_only;
use crate::{BenchmarkError, CaptionPairs, Task, TextTask};
use bifocal_data::source::{Dataset, Record, Records};

/// The first caption of a picture is the query and its second is what is looked for (LLM2CLIP); in a table of translations the queries are in
/// one language and the candidates in the other.
pub(crate) fn caption_pairs(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    if let Some(path) = ctx.optional(&["multi30k.jsonl"]) {
        return translations(ctx, &path);
    }
    let mut by: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    if let Some(path) = ctx.optional(&["coco_karpathy_test.json", "flickr30k_test.json"]) {
        by.insert("en".to_owned(), listed(&path)?.into_iter().map(|(_, c)| c).collect());
    } else {
        let data = Dataset::open(ctx.root)?;
        ctx.skipped.extend(data.skipped);
        for sample in data.samples {
            for (language, captions) in sample.captions {
                by.entry(language).or_default().push(captions);
            }
        }
    }
    by.retain(|_, rows| {
        rows.retain(|captions| captions.len() > 1);
        rows.len() > 1
    });
    let known: Vec<String> = by.keys().cloned().collect();
    if known.is_empty() {
        return Err(ctx.absent("captions.jsonl with at least two captions of at least two pictures"));
    }
    let mut pairs = Vec::new();
    for name in all_or_asked(ctx, &known)? {
        let rows = by.remove(&name).unwrap_or_default();
        let (queries, candidates) = rows
            .into_iter()
            .filter_map(|c| {
                let mut two = c.into_iter();
                Some((two.next()?, two.next()?))
            })
            .unzip();
        pairs.push(CaptionPairs {
            name,
            queries,
            candidates,
        });
    }
    let protocol = "The first caption of each picture finds its second among the second ones of all.";
    Ok((Task::Texts(TextTask::CaptionPairs(pairs)), protocol.to_owned()))
}

/// Rows of one sentence in several languages: English finds each of the others.
fn translations(ctx: &Context, path: &Path) -> Result<(Task, String), BenchmarkError> {
    let mut by: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for row in json_lines::<Map<String, Value>>(path)? {
        let Some(english) = row.get("en").and_then(Value::as_str) else {
            continue;
        };
        for (language, text) in row.iter().filter(|(k, _)| k.len() == 2 && *k != "en" && *k != "id") {
            if let Some(text) = text.as_str() {
                let (queries, candidates) = by.entry(language.clone()).or_default();
                queries.push(english.to_owned());
                candidates.push(text.to_owned());
            }
        }
    }
    if by.is_empty() {
        return Err(malformed(
            path,
            None,
            "expected rows such as {\"en\": \"…\", \"de\": \"…\"}",
        ));
    }
    let known: Vec<String> = by.keys().cloned().collect();
    let mut pairs = Vec::new();
    for language in all_or_asked(ctx, &known)? {
        let (queries, candidates) = by.remove(&language).unwrap_or_default();
        pairs.push(CaptionPairs {
            name: format!("en-{language}"),
            queries,
            candidates,
        });
    }
    let protocol = "The English sentence finds its translation among all translations.";
    Ok((Task::Texts(TextTask::CaptionPairs(pairs)), protocol.to_owned()))
}

/// The STS benchmark's test pairs: the official table without headings, GLUE's or the hub's with headings, or JSON lines.
pub(crate) fn sts(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    english_only(ctx)?;
    let rows = if let Some(path) = ctx.optional(&["stsbenchmark/sts-test.csv", "sts-test.csv"]) {
        official(&path)?
    } else if let Some(path) = ctx.optional(&["stsb_test.csv", "test.csv", "test.tsv"]) {
        table(&path)?
    } else if let Some(path) = ctx.optional(&["test.jsonl"]) {
        objects(&path)?
    } else {
        return Err(ctx.absent("stsbenchmark/sts-test.csv"));
    };
    ctx.complete(rows.len(), 1_379, "pairs")?;
    let protocol = "The 1,379 test pairs, Spearman's rank correlation of cosines with the scores.";
    Ok((Task::Texts(TextTask::Similarity(rows)), protocol.to_owned()))
}

type Rows = Vec<(String, String, f64)>;

fn score(path: &Path, line: usize, text: &str) -> Result<f64, BenchmarkError> {
    let score = text.trim().parse().ok().filter(|s: &f64| s.is_finite());
    score.ok_or_else(|| malformed(path, Some(line), format!("the score {text:?} is no number")))
}

/// Tabs between genre, file, year, number, score and two sentences; quotes mean nothing, and sources may follow.
fn official(path: &Path) -> Result<Rows, BenchmarkError> {
    let row = |(line, text): (usize, String)| {
        let fields: Vec<&str> = text.split('\t').collect();
        let [_, _, _, _, value, first, second, ..] = fields[..] else {
            return Err(malformed(
                path,
                Some(line),
                "expected seven fields with tabs between them",
            ));
        };
        Ok((first.to_owned(), second.to_owned(), score(path, line, value)?))
    };
    lines(path)?.into_iter().map(row).collect()
}

/// A table with the headings sentence1, sentence2 and score.
fn table(path: &Path) -> Result<Rows, BenchmarkError> {
    let io = |e: std::io::Error| malformed(path, None, format!("cannot be read: {e}"));
    let mut records = Records::new(File::open(path).map_err(io)?).map_err(io)?;
    let mut at: Option<[usize; 3]> = None;
    let mut rows = Rows::new();
    while let Some((line, record)) = records.read().map_err(io)? {
        let line = line as usize;
        let Record::Fields(fields) = record else {
            return Err(malformed(path, Some(line), "the row is too long"));
        };
        let text = |i: usize| fields.get(i).and_then(|f| std::str::from_utf8(f).ok());
        match at {
            None => {
                let column = |name: &str| {
                    (0..fields.len()).find(|&i| text(i).is_some_and(|t| t.trim().eq_ignore_ascii_case(name)))
                };
                let all = (
                    column("sentence1"),
                    column("sentence2"),
                    column("score").or(column("similarity_score")),
                );
                let (Some(first), Some(second), Some(value)) = all else {
                    return Err(malformed(
                        path,
                        Some(line),
                        "expected the headings sentence1, sentence2 and score",
                    ));
                };
                at = Some([first, second, value]);
            }
            Some([first, second, value]) => {
                let wrong = || malformed(path, Some(line), "a field is missing or not UTF-8");
                let (first, second) = (text(first).ok_or_else(wrong)?, text(second).ok_or_else(wrong)?);
                let value = score(path, line, text(value).ok_or_else(wrong)?)?;
                rows.push((first.to_owned(), second.to_owned(), value));
            }
        }
    }
    Ok(rows)
}

fn objects(path: &Path) -> Result<Rows, BenchmarkError> {
    #[derive(serde::Deserialize)]
    struct Row {
        sentence1: String,
        sentence2: String,
        score: f64,
    }
    let rows = json_lines::<Row>(path)?;
    Ok(rows.into_iter().map(|r| (r.sentence1, r.sentence2, r.score)).collect())
}
