//! Parquet files: pictures in a column of bytes or of {bytes, path} as Hugging Face's `datasets` writes them, or named by their files;
//! captions in columns of texts or lists of texts. Texts are read when a file is opened, pictures one by one when they are needed.

mod cell;
mod pages;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArrayType, DataType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::schema::types::ColumnDescriptor;

pub use cell::Cell;
use cell::Pictures;
use pages::Source;

use super::columns::{Role, UNNAMED, role};
use super::rows::{Captions, Refusal, Rows, add_caption};
use super::{ImageSource, Skipped, SourceError};

/// Longest text that is taken, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// Most bytes of texts in a file.
const MAX_TEXTS: usize = 2 << 30;
/// Rows that are read at a time.
const BATCH: usize = 1024;

/// What a file holds.
pub(super) struct Shard {
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
}

/// A row as far as it has been read.
#[derive(Default)]
struct Row {
    number: u64,
    picture: Option<Cell>,
    path: Option<String>,
    captions: Captions,
    label: Option<String>,
}

/// Which leaf of the schema is what.
#[derive(Default)]
struct Leaves {
    picture: Option<usize>,
    path: Option<usize>,
    label: Option<usize>,
    captions: Vec<(usize, String)>,
}

impl Shard {
    /// Reads the description of a file, and its texts. A group of rows that cannot be read is counted.
    ///
    /// # Errors
    /// [`SourceError`] for a file that is no parquet file, and one with neither pictures nor captions.
    pub fn read(path: &Path) -> std::result::Result<Self, SourceError> {
        let unsupported = |reason: String| SourceError::Unsupported {
            path: path.to_owned(),
            reason,
        };
        let source = Arc::new(Source::open(path).map_err(|e| SourceError::io(path, &e))?);
        let metadata = unpanicked(|| source.metadata()).map_err(unsupported)?;
        let leaves = Leaves::of(&metadata);
        if leaves.picture.is_none() && leaves.path.is_none() && leaves.captions.is_empty() {
            let columns = metadata.file_metadata().schema_descr().columns().iter();
            return Err(SourceError::NoColumns {
                path: path.to_owned(),
                found: columns.map(|c| c.path().string()).collect(),
            });
        }
        // a row has a byte at least, whatever the description says: this bounds what comes of a small file
        let claimed: u64 = metadata
            .row_groups()
            .iter()
            .fold(0, |sum: u64, g| sum.saturating_add(g.num_rows().max(0) as u64));
        if claimed > source.size() {
            return Err(unsupported(format!(
                "it claims {claimed} rows and has {} bytes; fetch it again",
                source.size()
            )));
        }
        let names = class_names(&metadata);
        let mut shard = Self {
            rows: Vec::new(),
            skipped: Vec::new(),
        };
        let pictures = Arc::new(Pictures::new(source, metadata, leaves.picture.unwrap_or(0)));
        let (mut texts, mut first) = (0, 1);
        for (group, facts) in pictures.metadata.row_groups().iter().enumerate() {
            let count = facts.num_rows().max(0) as u64;
            match unpanicked(|| group_rows(&pictures, &leaves, group, facts, first, &mut texts)) {
                Ok(rows) => shard.rows.extend(rows),
                Err(reason) => shard.skipped.push(Skipped {
                    line: None,
                    what: format!("rows {first} to {}", first + count.saturating_sub(1)),
                    reason,
                }),
            }
            first += count;
        }
        if let Some(names) = names {
            for label in shard.rows.iter_mut().filter_map(|row| row.label.as_mut()) {
                if let Some(name) = label.parse().ok().and_then(|n: usize| names.get(n)) {
                    label.clone_from(name);
                }
            }
        }
        Ok(shard)
    }

    /// Moves the samples over; keys of pictures without a file begin with `prefix`.
    pub fn into_rows(self, prefix: &str, rows: &mut Rows) {
        for Skipped { what, reason, .. } in self.skipped {
            rows.skip(None, (format!("{prefix}: {what}"), reason));
        }
        for row in self.rows {
            let number = row.number;
            if let Err((what, reason)) = row.add(prefix, rows) {
                let what = if what.is_empty() { prefix.to_owned() } else { what };
                rows.skip(Some(number), (what, reason));
            }
        }
    }
}

impl Row {
    fn add(self, prefix: &str, rows: &mut Rows) -> std::result::Result<(), Refusal> {
        let key = || format!("{prefix}/{}", self.number);
        match (self.picture, self.path) {
            (Some(cell), _) => rows.push(key(), ImageSource::Cell(cell), self.captions, self.label),
            (None, Some(path)) => rows.file(&path, self.captions, self.label),
            (None, None) if self.captions.is_empty() => Err((key(), "neither a picture nor a caption".to_owned())),
            (None, None) => rows.push(key(), ImageSource::None, self.captions, self.label),
        }
    }
}

impl Leaves {
    fn of(metadata: &ParquetMetaData) -> Self {
        let mut leaves = Self::default();
        let (mut surest, mut surest_path, mut surest_label) = (usize::MAX, usize::MAX, usize::MAX);
        for (at, leaf) in metadata.file_metadata().schema_descr().columns().iter().enumerate() {
            let parts: Vec<&str> = leaf.path().parts().iter().map(String::as_str).collect();
            let (bytes, flat) = (leaf.physical_type() == Type::BYTE_ARRAY, leaf.max_rep_level() == 0);
            let text = bytes && leaf.converted_type() == ConvertedType::UTF8;
            let Some(&name) = parts.first() else { continue };
            match (role(name), &parts[1..]) {
                (Role::Image(place), [] | ["bytes"]) if bytes && !text && flat && place < surest => {
                    (surest, leaves.picture) = (place, Some(at));
                }
                (Role::Image(place), [] | ["path"]) if text && flat && place < surest_path => {
                    (surest_path, leaves.path) = (place, Some(at));
                }
                (Role::Label(place), []) if place < surest_label && flat && is_label(leaf) => {
                    (surest_label, leaves.label) = (place, Some(at));
                }
                // a text, or a list of texts, whose parts have names by custom
                (Role::Captions(group) | Role::Language(group), [] | [_, _])
                    if bytes && leaf.max_rep_level() <= 1 && (parts.len() == 1 || !flat) =>
                {
                    leaves.captions.push((at, group));
                }
                // texts or lists of texts by language
                (Role::Captions(group), [language] | [language, _, _])
                    if bytes && group == UNNAMED && leaf.max_rep_level() <= 1 =>
                {
                    leaves.captions.push((at, (*language).to_owned()));
                }
                _ => {}
            }
        }
        // the path beside bytes is where they once were
        if leaves.picture.is_some() && surest <= surest_path {
            return leaves;
        }
        if leaves.path.is_some() && surest_path < surest {
            leaves.picture = None;
        }
        leaves
    }
}

fn is_label(leaf: &ColumnDescriptor) -> bool {
    matches!(leaf.physical_type(), Type::BYTE_ARRAY | Type::INT32 | Type::INT64)
}

fn group_rows(
    pictures: &Arc<Pictures>,
    leaves: &Leaves,
    group: usize,
    facts: &RowGroupMetaData,
    first: u64,
    texts: &mut usize,
) -> Result<Vec<Row>> {
    let count = usize::try_from(facts.num_rows()).map_err(|_| odd("a negative number of rows"))?;
    let row = |row: usize| Row {
        number: first + row as u64,
        ..Row::default()
    };
    let mut rows: Vec<Row> = (0..count).map(row).collect();
    let all_null = |at: usize| {
        let nulls = facts.column(at).statistics().and_then(|s| s.null_count_opt());
        count > 0 && nulls == Some(count as u64)
    };
    let picture = leaves.picture.filter(|&at| !all_null(at));
    if picture.is_some() {
        for (at, row) in rows.iter_mut().enumerate() {
            row.picture = Some(Cell {
                pictures: pictures.clone(),
                group: group as u32,
                row: u32::try_from(at).map_err(|_| odd("too many rows in a group"))?,
                number: row.number,
            });
        }
    } else if let Some(path) = leaves.path {
        each(pictures, group, path, texts, &mut rows, |row, path| {
            row.path = Some(path)
        })?;
    }
    if let Some(label) = leaves.label {
        each(pictures, group, label, texts, &mut rows, |row, label| {
            row.label = Some(label)
        })?;
    }
    for (at, name) in &leaves.captions {
        each(pictures, group, *at, texts, &mut rows, |row, text| {
            add_caption(&mut row.captions, name, &text);
        })?;
    }
    Ok(rows)
}

/// Gives each value of a column, as text, to its row.
fn each(
    pictures: &Pictures,
    group: usize,
    column: usize,
    texts: &mut usize,
    rows: &mut [Row],
    give: impl FnMut(&mut Row, String),
) -> Result<()> {
    let descr = pictures.metadata.file_metadata().schema_descr().column(column);
    let most = descr.max_def_level();
    let pages = pictures
        .source
        .pages(pictures.metadata.row_group(group).column(column))?;
    let number = |n: i64| Ok(n.to_string());
    match get_column_reader(descr, pages) {
        ColumnReader::ByteArrayColumnReader(reader) => {
            let text = |value: &<ByteArrayType as DataType>::T| {
                *texts = texts.saturating_add(value.len());
                if value.len() > MAX_TEXT || *texts > MAX_TEXTS {
                    return Err(odd("the texts are longer than any captions"));
                }
                value.as_utf8().map(str::to_owned)
            };
            values(reader, most, rows, text, give)
        }
        ColumnReader::Int32ColumnReader(reader) => values(reader, most, rows, |&n| number(i64::from(n)), give),
        ColumnReader::Int64ColumnReader(reader) => values(reader, most, rows, |&n| number(n), give),
        _ => Err(odd("a column is neither text nor whole numbers")),
    }
}

fn values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    most: i16,
    rows: &mut [Row],
    mut text: impl FnMut(&T::T) -> Result<String>,
    mut give: impl FnMut(&mut Row, String),
) -> Result<()> {
    // records are counted when they end, which may be a call later than their values come: rows are counted by their beginnings
    let (mut ended, mut begun) = (0, 0);
    let (mut present, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
    while ended < rows.len() {
        present.clear();
        repeated.clear();
        values.clear();
        let wanted = BATCH.min(rows.len() - ended);
        let (records, _, levels) = reader.read_records(wanted, Some(&mut present), Some(&mut repeated), &mut values)?;
        if records == 0 && levels == 0 {
            return Err(odd("a column has fewer rows than its group"));
        }
        let mut values = values.iter();
        for level in 0..levels {
            // otherwise a list goes on
            begun += usize::from(repeated.get(level).is_none_or(|&r| r == 0));
            if most == 0 || present.get(level) == Some(&most) {
                let value = values
                    .next()
                    .ok_or_else(|| odd("a column has fewer values than it says"))?;
                let row = begun.checked_sub(1).and_then(|row| rows.get_mut(row));
                give(
                    row.ok_or_else(|| odd("a column has other rows than its group"))?,
                    text(value)?,
                );
            }
        }
        ended += records;
    }
    Ok(())
}

/// Names of classes, which Hugging Face's `datasets` keeps beside the schema.
fn class_names(metadata: &ParquetMetaData) -> Option<Vec<String>> {
    let notes = metadata.file_metadata().key_value_metadata()?;
    let json = notes.iter().find(|note| note.key == "huggingface")?.value.as_deref()?;
    let facts: serde_json::Value = serde_json::from_str(json).ok()?;
    let names = facts.pointer("/info/features/label/names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

fn odd(reason: &str) -> ParquetError {
    ParquetError::General(reason.to_owned())
}

fn explained(reason: String) -> String {
    if reason.contains("Disabled feature") {
        return format!(
            "{reason}; write the file with the compression snappy, gzip or none, or build with the feature parquet-zstd"
        );
    }
    reason
}

/// The library's errors as text; a panic inside of it is an error too.
fn unpanicked<R>(read: impl FnOnce() -> Result<R>) -> std::result::Result<R, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| explained(e.to_string())),
        Err(_) => Err("the file is damaged: its reader gave up".to_owned()),
    }
}
