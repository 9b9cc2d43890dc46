//! Tables with a header line: commas, tabs or semicolons between the fields, quotes as in RFC 4180.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::columns::{Role, role};
use super::jsonl::{MAX_LINE, Table};
use super::rows::{Captions, Refusal, Rows, add_caption};
use super::{ImageSource, SourceError};

/// Most columns of a table; the others of a row are not read.
const MAX_COLUMNS: usize = 4096;

/// Reads a table; `prefix` begins the keys of rows without a picture.
///
/// # Errors
/// [`SourceError::Io`], and [`SourceError::NoColumns`] for a table whose first line names neither pictures nor captions.
pub(super) fn read(path: &Path, prefix: &str, table: Table, rows: &mut Rows) -> Result<(), SourceError> {
    let io = |e: std::io::Error| SourceError::io(path, &e);
    let mut records = Records::new(File::open(path).map_err(io)?).map_err(io)?;
    let columns = match records.read().map_err(io)? {
        None => return Ok(()),
        Some((_, Record::Fields(fields))) => Columns::of(&fields, table),
        Some((_, Record::TooLong)) => Columns::default(),
    };
    if columns.image.is_none() && columns.captions.is_empty() {
        return Err(SourceError::NoColumns {
            path: path.to_owned(),
            found: columns.names,
        });
    }
    while let Some((line, record)) = records.read().map_err(io)? {
        let outcome = match record {
            Record::Fields(fields) => columns.add(&fields, line, prefix, rows),
            Record::TooLong => Err((String::new(), format!("longer than {MAX_LINE} bytes"))),
        };
        if let Err(refusal) = outcome {
            rows.skip(Some(line), refusal);
        }
    }
    Ok(())
}

/// Which column is what.
#[derive(Default)]
struct Columns {
    names: Vec<String>,
    image: Option<usize>,
    label: Option<usize>,
    captions: Vec<(usize, String)>,
}

impl Columns {
    fn of(header: &[&[u8]], table: Table) -> Self {
        let mut columns = Self::default();
        let (mut surest_image, mut surest_label) = (usize::MAX, usize::MAX);
        for (at, name) in header.iter().enumerate() {
            let name = String::from_utf8_lossy(name).into_owned();
            match role(&name) {
                Role::Image(place) if place < surest_image => (surest_image, columns.image) = (place, Some(at)),
                Role::Label(place) if place < surest_label => (surest_label, columns.label) = (place, Some(at)),
                Role::Captions(group) | Role::Language(group) => columns.captions.push((at, group)),
                _ if table == Table::Labels && name.trim().eq_ignore_ascii_case("name") => {
                    (surest_label, columns.label) = (0, Some(at));
                }
                _ => {}
            }
            columns.names.push(name);
        }
        columns
    }

    fn add(&self, fields: &[&[u8]], line: u64, prefix: &str, rows: &mut Rows) -> Result<(), Refusal> {
        let text = |at: usize| std::str::from_utf8(fields.get(at).copied().unwrap_or_default());
        let name = |at: usize| self.names.get(at).cloned().unwrap_or_default();
        let not_utf8 = |at: usize| (name(at), "the text is not UTF-8; convert the file".to_owned());
        let cell = |at: Option<usize>| match at {
            Some(at) => text(at)
                .map_err(|_| not_utf8(at))
                .map(|t| Some(t).filter(|t| !t.is_empty())),
            None => Ok(None),
        };
        let image = cell(self.image)?;
        let label = cell(self.label)?.map(str::to_owned);
        let mut captions = Captions::new();
        for (at, group) in &self.captions {
            add_caption(&mut captions, group, text(*at).map_err(|_| not_utf8(*at))?);
        }
        if captions.is_empty() && label.is_none() && !self.captions.is_empty() {
            return Err((image.unwrap_or_default().to_owned(), "no caption".to_owned()));
        }
        match image {
            Some(image) => rows.file(image, captions, label),
            None if self.image.is_some() => Err((name(self.image.unwrap_or(0)), "no picture is named".to_owned())),
            None => rows.push(format!("{prefix}/{line}"), ImageSource::None, captions, label),
        }
    }
}

/// A line, or several where a field in quotes goes over lines.
pub enum Record<'a> {
    /// Its fields, without their quotes.
    Fields(Vec<&'a [u8]>),
    /// More than is read of one.
    TooLong,
}

/// Records one after the other; memory stays bounded whatever a file holds between two quotes.
pub struct Records<R> {
    from: R,
    parser: Reader,
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
    ends: Vec<usize>,
}

impl<R: Read> Records<R> {
    /// Tabs, semicolons or commas separate the fields, whichever the first line has.
    pub fn new(mut from: R) -> std::io::Result<Self> {
        let mut input = Vec::new();
        from.by_ref().take(1 << 16).read_to_end(&mut input)?;
        let used = if input.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let first = input[used..].split(|&b| b == b'\n').next().unwrap_or_default();
        let count = |delimiter: u8| first.iter().filter(|&&b| b == delimiter).count();
        // open_clip's tables have tabs whatever they are called
        let delimiter = if count(b'\t') > 0 {
            b'\t'
        } else if count(b';') > count(b',') {
            b';'
        } else {
            b','
        };
        Ok(Self {
            from,
            parser: ReaderBuilder::new().delimiter(delimiter).build(),
            input,
            used,
            output: vec![0; 1 << 12],
            ends: vec![0; 16],
        })
    }

    fn refill(&mut self) -> std::io::Result<()> {
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
            self.from.by_ref().take(1 << 16).read_to_end(&mut self.input)?;
        }
        Ok(())
    }

    /// The next record and the line at which it begins, from 1.
    pub fn read(&mut self) -> std::io::Result<Option<(u64, Record<'_>)>> {
        let (mut written, mut fields, mut too_long) = (0, 0, false);
        self.refill()?;
        // the parser passes over empty lines, and over the second half of \r\n, when it is asked for the record after them
        let ends = self.input[self.used..]
            .iter()
            .take_while(|b| matches!(b, b'\r' | b'\n'));
        let line = self.parser.line() + ends.filter(|&&b| b == b'\n').count() as u64;
        loop {
            self.refill()?;
            let (result, read, wrote, ended) = self.parser.read_record(
                &self.input[self.used..],
                &mut self.output[written..],
                &mut self.ends[fields..],
            );
            self.used += read;
            written += wrote;
            fields += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.output.len() < MAX_LINE => {
                    let grown = (self.output.len() * 2).min(MAX_LINE);
                    self.output.resize(grown, 0);
                }
                ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_COLUMNS => {
                    let grown = (self.ends.len() * 2).min(MAX_COLUMNS);
                    self.ends.resize(grown, 0);
                }
                // the rest of the record is read over
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    too_long = true;
                    (written, fields) = (0, 0);
                }
                ReadRecordResult::Record if too_long => return Ok(Some((line, Record::TooLong))),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        let mut begin = 0;
        let cell = |&end: &usize| {
            // ends only grow within a record
            let cell = self.output.get(begin..end).unwrap_or_default();
            begin = end;
            cell
        };
        let cells = self.ends[..fields].iter().map(cell).collect();
        Ok(Some((line, Record::Fields(cells))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<(u64, Option<Vec<String>>)> {
        let mut records = Records::new(text).unwrap();
        let mut out = Vec::new();
        while let Some((line, record)) = records.read().unwrap() {
            let fields = match record {
                Record::Fields(f) => Some(f.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect()),
                Record::TooLong => None,
            };
            out.push((line, fields));
        }
        out
    }

    #[test]
    fn quotes_lines_and_delimiters() {
        let row = |line: u64, fields: &[&str]| (line, Some(fields.iter().map(|f| (*f).to_owned()).collect()));
        assert_eq!(
            all(b"\xef\xbb\xbfa,b\r\n\"x, y\n\"\"z\"\"\",2\n\n3"),
            [row(1, &["a", "b"]), row(2, &["x, y\n\"z\"", "2"]), row(5, &["3"])]
        );
        assert_eq!(all(b"a\tb,c\n1\t2"), [row(1, &["a", "b,c"]), row(2, &["1", "2"])]);
        assert_eq!(
            all(b"a;b;c,d\n1;2;3"),
            [row(1, &["a", "b", "c,d"]), row(2, &["1", "2", "3"])]
        );
        assert_eq!(all(b""), []);
    }

    #[test]
    fn long_records_are_read_over() {
        let mut text = b"a,b\n".to_vec();
        text.resize(text.len() + MAX_LINE + 5, b'x');
        text.extend(b",1\nc,d\n");
        text.resize(text.len() + MAX_COLUMNS + 5, b',');
        text.extend(b"\ne,f\n");
        let records = all(&text);
        let long: Vec<bool> = records.iter().map(|(_, r)| r.is_none()).collect();
        assert_eq!(long, [false, true, false, true, false]);
        assert_eq!(records[4], (5, Some(vec!["e".to_owned(), "f".to_owned()])));
    }
}
