//! Tables of one JSON object a line: {image, captions: {lang: …}}, {image, caption}, {file_name, text}, {image, name}, rows of texts without
//! a picture. A row that cannot be used is counted with its line and its reason.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::{Role, UNNAMED, role};
use super::rows::{Captions, Refusal, Rows};
use super::{ImageSource, SourceError};

/// Longest line that is accepted, in bytes.
pub(super) const MAX_LINE: usize = 16 << 20;

/// What a table says about its pictures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Captions,
    /// `name` is the class.
    Labels,
}

/// Reads a table; `prefix` begins the keys of rows without a picture.
pub(super) fn read(path: &Path, prefix: &str, table: Table, rows: &mut Rows) -> Result<(), SourceError> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| SourceError::io(path, &e))?);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut line)
            .map_err(|e| SourceError::io(path, &e))?;
        if read == 0 {
            break;
        }
        if line.len() == MAX_LINE && line.last() != Some(&b'\n') {
            skip_line(&mut reader).map_err(|e| SourceError::io(path, &e))?;
            rows.skip(Some(number), (String::new(), format!("longer than {MAX_LINE} bytes")));
            continue;
        }
        let row = if number == 1 {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line)
        } else {
            &line
        };
        if row.trim_ascii().is_empty() {
            continue;
        }
        if let Err(refusal) = add(row, number, prefix, table, rows) {
            rows.skip(Some(number), refusal);
        }
    }
    Ok(())
}

fn add(row: &[u8], number: u64, prefix: &str, table: Table, rows: &mut Rows) -> Result<(), Refusal> {
    let object: Map<String, Value> = serde_json::from_slice(row).map_err(|e| {
        // the position inside the line is column only; serde_json calls the line 1
        (String::new(), e.to_string().replace(" at line 1 column", ", column"))
    })?;
    let fields = Fields::of(&object).map_err(|reason| (String::new(), reason))?;
    let what = || fields.image.unwrap_or_default().to_owned();
    let label = match table {
        Table::Labels => match object.get("name") {
            Some(Value::String(name)) => Some(name.clone()),
            _ => return Err((what(), "no name of a class".into())),
        },
        Table::Captions => fields.label.clone(),
    };
    if fields.captions.is_empty() && label.is_none() {
        return Err((what(), "no caption in any language".into()));
    }
    match fields.image {
        Some(image) => rows.file(image, fields.captions, label),
        None if fields.captions.is_empty() => Err((what(), "neither a picture nor a caption".into())),
        None => rows.push(format!("{prefix}/{number}"), ImageSource::None, fields.captions, label),
    }
}

/// What an object says about a picture. Other fields are allowed and ignored.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub image: Option<&'a str>,
    pub captions: Captions,
    pub label: Option<String>,
}

impl<'a> Fields<'a> {
    pub fn of(object: &'a Map<String, Value>) -> Result<Self, String> {
        let mut fields = Self::default();
        let (mut surest_image, mut surest_label) = (usize::MAX, usize::MAX);
        for (name, value) in object {
            match (role(name), value) {
                (_, Value::Null) => {}
                (Role::Image(place), value) if place < surest_image => {
                    let Value::String(path) = value else {
                        return Err(format!("{name} is no text but must be the path of a picture"));
                    };
                    surest_image = place;
                    fields.image = Some(path);
                }
                (Role::Label(place), value) if place < surest_label => {
                    fields.label = match value {
                        Value::String(label) => Some(label.clone()),
                        Value::Number(number) if number.is_u64() => Some(number.to_string()),
                        _ => continue,
                    };
                    surest_label = place;
                }
                (Role::Captions(group), Value::Object(groups)) if group == UNNAMED => {
                    for (group, value) in groups {
                        texts(group, group, value, &mut fields.captions)?;
                    }
                }
                (Role::Captions(group), value) => texts(name, &group, value, &mut fields.captions)?,
                // a field may be called like a language and be something else
                (Role::Language(group), Value::String(_) | Value::Array(_)) => {
                    let _ = texts(name, &group, value, &mut fields.captions);
                }
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// One text or several.
fn texts(name: &str, group: &str, value: &Value, captions: &mut Captions) -> Result<(), String> {
    let mut add = |value: &Value| match value {
        Value::String(text) => {
            if !text.trim().is_empty() {
                captions.entry(group.to_owned()).or_default().push(text.clone());
            }
            Ok(())
        }
        Value::Null => Ok(()),
        _ => Err(format!("{name} must be a text or a list of texts")),
    };
    match value {
        Value::Array(values) => values.iter().try_for_each(add),
        value => add(value),
    }
}

fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, done) = match buffer.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if done {
            return Ok(());
        }
    }
}
