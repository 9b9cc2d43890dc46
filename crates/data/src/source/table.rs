//! Rows of `captions.jsonl` and `labels.jsonl`. A row that cannot be used is counted with its line and its reason.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Component, Path};

use serde::Deserialize;

use super::{Sample, Skipped, SourceError};

/// Longest line that is accepted, in bytes.
const MAX_LINE: usize = 16 << 20;

/// What a table says about its pictures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Captions,
    Labels,
}

/// One caption or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// Other fields are allowed and ignored.
#[derive(Deserialize)]
struct CaptionRow {
    image: String,
    captions: BTreeMap<String, Texts>,
}

#[derive(Deserialize)]
struct LabelRow {
    image: String,
    name: String,
}

/// Reads a table into `samples`. A picture that comes again gets the further captions; a second, different label is refused.
pub(super) fn read(
    path: &Path,
    root: &Path,
    table: Table,
    samples: &mut Vec<Sample>,
    skipped: &mut Vec<Skipped>,
) -> Result<(), SourceError> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| SourceError::io(path, &e))?);
    let mut known: HashMap<String, usize> = samples.iter().enumerate().map(|(i, s)| (s.key.clone(), i)).collect();
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
            let reason = format!("longer than {MAX_LINE} bytes");
            skipped.push(Skipped {
                line: Some(number),
                what: String::new(),
                reason,
            });
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
        if let Err((what, reason)) = add(row, root, table, samples, &mut known) {
            skipped.push(Skipped {
                line: Some(number),
                what,
                reason,
            });
        }
    }
    Ok(())
}

/// Adds one row; the error is (what, reason).
fn add(
    row: &[u8],
    root: &Path,
    table: Table,
    samples: &mut Vec<Sample>,
    known: &mut HashMap<String, usize>,
) -> Result<(), (String, String)> {
    let json = |e: serde_json::Error| {
        // the position inside the line is column only; serde_json calls the line 1
        let reason = e.to_string().replace(" at line 1 column", ", column");
        (String::new(), reason)
    };
    let (image, captions, label) = match table {
        Table::Captions => {
            let row: CaptionRow = serde_json::from_slice(row).map_err(json)?;
            let texts = |t| match t {
                Texts::One(text) => vec![text],
                Texts::Many(texts) => texts,
            };
            let captions: BTreeMap<_, _> = row
                .captions
                .into_iter()
                .map(|(l, t)| (l, texts(t)))
                .filter(|(_, t)| !t.is_empty())
                .collect();
            if captions.is_empty() {
                return Err((row.image, "no caption in any language".into()));
            }
            (row.image, captions, None)
        }
        Table::Labels => {
            let row: LabelRow = serde_json::from_slice(row).map_err(json)?;
            (row.image, BTreeMap::new(), Some(row.name))
        }
    };
    let key = inside(&image).map_err(|reason| (image.clone(), reason))?;
    if let Some(&at) = known.get(&key) {
        let sample = &mut samples[at];
        match (&sample.label, label) {
            (Some(old), Some(new)) if *old != new => {
                return Err((image, format!("already labelled {old:?}, now {new:?}")));
            }
            (None, Some(new)) => sample.label = Some(new),
            _ => {}
        }
        for (lang, texts) in captions {
            sample.captions.entry(lang).or_default().extend(texts);
        }
        return Ok(());
    }
    let path = root.join(&key);
    if !path.is_file() {
        return Err((image, "there is no such file".into()));
    }
    known.insert(key.clone(), samples.len());
    samples.push(Sample {
        captions,
        label,
        ..Sample::bare(key, path)
    });
    Ok(())
}

/// The path with `/` between its parts when it stays inside the root.
fn inside(image: &str) -> Result<String, String> {
    let outside = || "the path leads out of the data folder; only paths below it are read".to_owned();
    let mut parts = Vec::new();
    for part in Path::new(image).components() {
        match part {
            Component::Normal(p) => parts.push(p.to_str().ok_or_else(outside)?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(outside());
            }
        }
    }
    if parts.is_empty() || image.contains('\0') {
        return Err("the path of the picture is empty or not a path".into());
    }
    Ok(parts.join("/"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(inside("images/1.jpg"), Ok("images/1.jpg".into()));
        assert_eq!(inside("./images//1.jpg"), Ok("images/1.jpg".into()));
        assert_eq!(inside("a..b/c...jpg"), Ok("a..b/c...jpg".into()));
        for bad in [
            "../1.jpg",
            "a/../../1.jpg",
            "a/..",
            "/etc/passwd",
            "",
            ".",
            "a\0b",
            "//x",
        ] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
    }
}
