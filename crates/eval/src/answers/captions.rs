//! Captions against what people wrote about the same picture: BLEU-1 to BLEU-4 and CIDEr, as the COCO caption evaluation computes them.
//!
//! Words are those of [`ptb`]. A missing caption is an empty one: it shortens the corpus for BLEU and gets 0 from CIDEr.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::bleu::bleu;
use super::cider::cider;
use super::error::AnswersError;
use super::join::join;
use super::ptb;
use super::read::{Answer, Id, Source};
use super::report::{Report, Unit, mean};

const RULE: &str = "words as PTBTokenizer's without punctuation; BLEU over the corpus, CIDEr-D over all pictures given";
const EXPECTED: &str = r#"COCO's annotations as captions_val2014.json, like {"annotations": [{"image_id": 1, "caption": "A dog."}]}, or rows like {"image": "a.jpg", "captions": {"en": ["A dog.", "A brown dog."]}}"#;

#[derive(Deserialize)]
struct Annotations {
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Id,
    caption: String,
}

#[derive(Deserialize)]
struct Row {
    image: String,
    captions: HashMap<String, Value>,
}

/// A picture and what people wrote.
struct Picture<'a> {
    file: &'a str,
    id: String,
    references: Vec<String>,
}

/// BLEU-1 to BLEU-4 and CIDEr of captions with the references of their pictures.
#[must_use]
pub fn figures(captions: &[(&str, Vec<&str>)]) -> ([f64; 4], f64) {
    let words: Vec<(Vec<String>, Vec<Vec<String>>)> = captions
        .iter()
        .map(|(caption, references)| (ptb::words(caption), references.iter().map(|r| ptb::words(r)).collect()))
        .collect();
    let borrowed: Vec<(Vec<&str>, Vec<Vec<&str>>)> = words
        .iter()
        .map(|(caption, references)| (slices(caption), references.iter().map(|r| slices(r)).collect()))
        .collect();
    (bleu(&borrowed), mean(&cider(&borrowed)).unwrap_or(0.0))
}

fn slices(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Scores captions; `questions`: the captions of people. Rows of `captions.jsonl` give their English captions; its pictures are called by the name in the
/// row, or without folders and ending.
///
/// # Errors
/// Files that look otherwise, pictures without captions.
pub fn score(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let mut pictures = Vec::new();
    for source in questions {
        read(source, &mut pictures)?;
    }
    let short = |id: &str| {
        let name = id.rsplit('/').next().unwrap_or(id);
        name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
    };
    // names are compared as they are if any answer has one, else by their last part
    let names: std::collections::HashSet<&str> = pictures.iter().map(|p| p.id.as_str()).collect();
    let exact = answers.iter().any(|a| names.contains(a.id.as_str()));
    let called = |id: &str| if exact { id.to_owned() } else { short(id) };
    let joined = join(
        pictures.iter().map(|p| (called(&p.id), p.file)),
        answers.iter().map(|a| (called(&a.id), a.text.as_str())),
    )?;
    let pairs: Vec<(&str, Vec<&str>)> = pictures
        .iter()
        .zip(&joined.texts)
        .map(|(p, text)| (text.unwrap_or(""), p.references.iter().map(String::as_str).collect()))
        .collect();
    let (bleu, cider) = figures(&pairs);
    let columns = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"];
    let mut report = Report::new("captions", RULE, joined.counts, Unit::Fraction, &columns);
    let values = bleu.into_iter().chain([cider]).map(Some).collect();
    report.push("all", pictures.len(), values);
    Ok(report)
}

fn read<'a>(source: &Source<'a>, pictures: &mut Vec<Picture<'a>>) -> Result<(), AnswersError> {
    let begins = pictures.len();
    if let Ok(file) = serde_json::from_str::<Annotations>(source.text) {
        let mut places: HashMap<String, usize> = HashMap::new();
        for annotation in file.annotations {
            let id = annotation.image_id.0;
            let at = *places.entry(id.clone()).or_insert_with(|| {
                pictures.push(Picture {
                    file: source.name,
                    id,
                    references: Vec::new(),
                });
                pictures.len() - 1
            });
            pictures[at].references.push(annotation.caption);
        }
    } else {
        for (line, row) in source.rows::<Row>(EXPECTED)? {
            let references: Vec<String> = match row.captions.get("en") {
                Some(Value::String(one)) => vec![one.clone()],
                Some(Value::Array(all)) => all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
                _ => Vec::new(),
            };
            if references.is_empty() {
                return Err(source.wrong(line, format!("{:?} has no English caption", row.image), EXPECTED));
            }
            pictures.push(Picture {
                file: source.name,
                id: row.image,
                references,
            });
        }
    }
    if pictures.len() == begins {
        return Err(source.wrong(None, "it holds no captions", EXPECTED));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_do_not_count() {
        let same = figures(&[
            ("A dog runs on grass!", vec!["a dog runs on grass ."]),
            ("two cats", vec!["Two cats,"]),
        ]);
        assert!(same.0.iter().take(2).all(|b| (b - 1.0).abs() < 1e-8));
    }
}
