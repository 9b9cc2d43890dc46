//! Files of questions and answers, as text in memory: JSON, JSON lines, tab-separated tables.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::AnswersError;

/// A file: its name, for errors and where names carry meaning (`coco_pope_random.json`, `existence.txt`), and its text.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its name without folders.
    pub name: &'a str,
    /// All of it.
    pub text: &'a str,
}

/// How files of answers look.
const ANSWERS: &str = r#"one answer a line, like {"question_id": 7, "text": "a dog"}, or a JSON list of such answers; also read are image_id or questionId with caption, answer or prediction"#;

impl<'a> Source<'a> {
    /// A source of that name.
    #[must_use]
    pub fn new(name: &'a str, text: &'a str) -> Self {
        // what editors of one family put before a text
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { name, text }
    }

    /// The name up to its last period.
    pub(super) fn stem(&self) -> &'a str {
        self.name.rsplit_once('.').map_or(self.name, |(stem, _)| stem)
    }

    pub(super) fn wrong(&self, line: Option<usize>, why: impl Into<String>, expected: &'static str) -> AnswersError {
        AnswersError::File {
            file: self.name.to_owned(),
            line,
            why: why.into(),
            expected,
        }
    }

    /// The whole file as one JSON value.
    pub(super) fn json<T: DeserializeOwned>(&self, expected: &'static str) -> Result<T, AnswersError> {
        serde_json::from_str(self.text).map_err(|e| self.wrong(Some(e.line()), e.to_string(), expected))
    }

    /// The rows of a file of JSON lines or of one JSON list, with their lines (list: none).
    pub(super) fn rows<T: DeserializeOwned>(
        &self,
        expected: &'static str,
    ) -> Result<Vec<(Option<usize>, T)>, AnswersError> {
        if self.text.trim_start().starts_with('[') {
            return Ok(self
                .json::<Vec<T>>(expected)?
                .into_iter()
                .map(|row| (None, row))
                .collect());
        }
        let lines = self
            .text
            .split('\n')
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(at, line)| {
                let row = serde_json::from_str(line).map_err(|e| self.wrong(Some(at + 1), e.to_string(), expected))?;
                Ok((Some(at + 1), row))
            })
            .collect()
    }
}

/// One answer of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it is an answer to; numbers as they are written.
    pub id: String,
    /// What the model said.
    pub text: String,
    /// What the model was asked, if the file says it.
    pub prompt: Option<String>,
    /// The split or task, if the file says it.
    pub category: Option<String>,
    /// Which rotation of the options, from 0.
    pub round: usize,
}

/// Reads answers.
///
/// # Errors
/// Lines that are not objects, and objects without a question's id or without a text.
pub fn answers(source: &Source) -> Result<Vec<Answer>, AnswersError> {
    let rows: Vec<(Option<usize>, Value)> = source.rows(ANSWERS)?;
    let read = |(line, row): (Option<usize>, Value)| {
        let first = |names: &[&str]| names.iter().find_map(|name| row.get(*name).and_then(word));
        let id = first(&["question_id", "questionId", "image_id", "index"]);
        let text = first(&["text", "caption", "answer", "prediction"]);
        let id = id.ok_or_else(|| source.wrong(line, "an answer without question_id", ANSWERS))?;
        let text = text.ok_or_else(|| source.wrong(line, format!("the answer to {id:?} has no text"), ANSWERS))?;
        let round = match row.get("round_id") {
            None | Some(Value::Null) => 0,
            Some(value) => value
                .as_u64()
                .filter(|&n| n < 26)
                .ok_or_else(|| source.wrong(line, format!("round_id is {value}"), ANSWERS))?,
        };
        Ok(Answer {
            id,
            text,
            prompt: first(&["prompt"]),
            category: first(&["category"]),
            round: round as usize,
        })
    };
    let answers: Vec<Answer> = rows.into_iter().map(read).collect::<Result<_, _>>()?;
    if answers.is_empty() {
        return Err(source.wrong(None, "it holds no answers", ANSWERS));
    }
    Ok(answers)
}

/// A text, or a number as it is written.
pub(super) fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An id in a file of questions: a text or a number.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "Value")]
pub(super) struct Id(pub(super) String);

impl From<Value> for Id {
    fn from(value: Value) -> Self {
        Self(word(&value).unwrap_or_else(|| value.to_string()))
    }
}

/// The cells of a line of a table.
pub(super) type Record<'a> = Vec<Cow<'a, str>>;

/// The records of a table separated by tabs, with the line each begins at. Fields in double quotes may hold tabs, ends of lines and doubled quotes; a quote
/// elsewhere is a character as any other.
///
/// # Errors
/// The line of a quote that is never closed.
pub(super) fn table(text: &str) -> Result<Vec<(usize, Record<'_>)>, usize> {
    let (mut records, mut record) = (Vec::new(), Vec::new());
    let (mut rest, mut line, mut begins) = (text, 1, 1);
    while !rest.is_empty() {
        let (field, after) = match rest.strip_prefix('"') {
            None => bare(rest),
            Some(inside) => quoted(inside).ok_or(line)?,
        };
        let read = &rest[..rest.len() - after.len()];
        line += read.matches('\n').count();
        record.push(field);
        let ends = after.strip_prefix("\r\n").or_else(|| after.strip_prefix('\n'));
        match (after.strip_prefix('\t'), ends) {
            (Some(more), _) => {
                rest = more;
                if rest.is_empty() {
                    record.push(Cow::Borrowed(""));
                }
            }
            (None, ends) => {
                if record.len() > 1 || !record[0].is_empty() {
                    records.push((begins, std::mem::take(&mut record)));
                }
                record.clear();
                line += usize::from(ends.is_some());
                begins = line;
                rest = ends.unwrap_or("");
            }
        }
    }
    if !record.is_empty() {
        records.push((begins, record));
    }
    Ok(records)
}

/// A field up to a tab or the end of the line.
fn bare(text: &str) -> (Cow<'_, str>, &str) {
    let end = text.find(['\t', '\n']).unwrap_or(text.len());
    let end = if text[end..].starts_with('\n') && text[..end].ends_with('\r') {
        end - 1
    } else {
        end
    };
    let (field, after) = text.split_at(end);
    (Cow::Borrowed(field), after)
}

/// A field after its opening quote, and what follows it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut field = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        let after = &rest[end + 1..];
        let part = &rest[..end];
        match after.strip_prefix('"') {
            Some(more) => {
                field.to_mut().push_str(part);
                field.to_mut().push('"');
                rest = more;
            }
            None => {
                let (tail, after) = bare(after);
                if field.is_empty() && tail.is_empty() {
                    return Some((Cow::Borrowed(part), after));
                }
                field.to_mut().push_str(part);
                field.to_mut().push_str(&tail);
                return Some((field, after));
            }
        }
    }
}
