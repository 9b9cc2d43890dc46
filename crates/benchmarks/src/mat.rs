//! As much of MATLAB's version 5 files as lists of labels need: numbers, texts, cells and structures, compressed or not.
//!
//! Source: "MAT-File Format", The MathWorks, version 5 (little-endian files only).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::BenchmarkError;
use crate::context::{MAX_FILE, bytes, malformed};

/// Deepest cells within cells.
const MAX_DEPTH: usize = 8;
/// Most elements of an array.
const MAX_ELEMENTS: usize = 1 << 22;

/// A variable. Arrays are flat, in column order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Numbers(Vec<f64>),
    Text(String),
    Cells(Vec<Value>),
    /// Rows of a structure array.
    Structs(Vec<BTreeMap<String, Value>>),
}

impl Value {
    /// The only number of an array of one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Numbers(n) => n.first().copied().filter(|_| n.len() == 1),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(t) => Some(t),
            _ => None,
        }
    }
}

/// The variables of a file.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Value>, BenchmarkError> {
    let wrong = |reason: String| {
        malformed(
            path,
            None,
            format!("is no MATLAB file of version 5 that can be read: {reason}"),
        )
    };
    let bytes = bytes(path)?;
    if bytes.len() < 128 || &bytes[126..128] != b"IM" {
        return Err(wrong(
            "the header is not that of one (version 7.3 is HDF5; save it with -v7)".to_owned(),
        ));
    }
    let mut variables = BTreeMap::new();
    let mut input = &bytes[128..];
    while !input.is_empty() {
        let (kind, body) = element(&mut input).map_err(&wrong)?;
        let unpacked;
        let mut body = body;
        let kind = if kind == COMPRESSED {
            let mut whole = Vec::new();
            ZlibDecoder::new(body)
                .take(MAX_FILE)
                .read_to_end(&mut whole)
                .map_err(|e| wrong(e.to_string()))?;
            unpacked = whole;
            let mut inner = unpacked.as_slice();
            let (kind, inner) = element(&mut inner).map_err(&wrong)?;
            body = inner;
            kind
        } else {
            kind
        };
        if kind == MATRIX {
            let (name, value) = matrix(body, 0).map_err(&wrong)?;
            variables.insert(name, value);
        }
    }
    Ok(variables)
}

const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

type Parsed<T> = Result<T, String>;

/// The next element: its type and its bytes.
fn element<'a>(input: &mut &'a [u8]) -> Parsed<(u32, &'a [u8])> {
    let ends = || "it ends too early".to_owned();
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(input.get(at..at + 4)?.try_into().ok()?)) };
    let first = word(0).ok_or_else(ends)?;
    // up to four bytes lie in the tag itself
    let (kind, from, length) = match first >> 16 {
        0 => (first, 8usize, word(4).ok_or_else(ends)? as usize),
        small => (first & 0xffff, 4, small as usize),
    };
    let body = input.get(from..from.saturating_add(length)).ok_or_else(ends)?;
    let padded = match from {
        4 => 8,
        _ if kind == COMPRESSED => from + length,
        _ => (from + length).next_multiple_of(8),
    };
    *input = input.get(padded..).unwrap_or_default();
    Ok((kind, body))
}

/// The numbers of an element.
fn numbers(kind: u32, body: &[u8]) -> Parsed<Vec<f64>> {
    fn all<const N: usize>(body: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        body.as_chunks().0.iter().map(|&b| read(b)).collect()
    }
    Ok(match kind {
        1 => all(body, |b| f64::from(i8::from_le_bytes(b))),
        2 | 16 => all(body, |b| f64::from(u8::from_le_bytes(b))),
        3 => all(body, |b| f64::from(i16::from_le_bytes(b))),
        4 | 17 => all(body, |b| f64::from(u16::from_le_bytes(b))),
        5 => all(body, |b| f64::from(i32::from_le_bytes(b))),
        6 => all(body, |b| f64::from(u32::from_le_bytes(b))),
        7 => all(body, |b| f64::from(f32::from_le_bytes(b))),
        9 => all(body, f64::from_le_bytes),
        12 => all(body, |b| i64::from_le_bytes(b) as f64),
        13 => all(body, |b| u64::from_le_bytes(b) as f64),
        other => return Err(format!("numbers of the unknown type {other}")),
    })
}

fn matrix(mut body: &[u8], depth: usize) -> Parsed<(String, Value)> {
    // an empty cell may have no content at all
    if body.is_empty() {
        return Ok((String::new(), Value::Numbers(Vec::new())));
    }
    if depth > MAX_DEPTH {
        return Err("cells are nested too deeply".to_owned());
    }
    let (_, flags) = element(&mut body)?;
    let class = *flags.first().ok_or("an array without a class")?;
    let (kind, dimensions) = element(&mut body)?;
    let count = numbers(kind, dimensions)?.iter().product::<f64>();
    if !(0.0..=MAX_ELEMENTS as f64).contains(&count) {
        return Err(format!("an array of {count} elements"));
    }
    let count = count as usize;
    let (_, name) = element(&mut body)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let value = match class {
        1 => {
            let mut cells = Vec::new();
            for _ in 0..count {
                cells.push(inner(&mut body, depth)?);
            }
            Value::Cells(cells)
        }
        2 => {
            let (kind, length) = element(&mut body)?;
            let length = numbers(kind, length)?.first().map_or(0, |&l| l as usize);
            let (_, fields) = element(&mut body)?;
            if length == 0 {
                return Err("a structure whose fields have no names".to_owned());
            }
            let until_zero = |f: &[u8]| {
                f.iter()
                    .take_while(|&&b| b != 0)
                    .map(|&b| char::from(b))
                    .collect::<String>()
            };
            let fields: Vec<String> = fields.chunks(length).map(until_zero).collect();
            let mut rows = Vec::new();
            for _ in 0..count {
                let row = fields.iter().map(|f| Ok((f.clone(), inner(&mut body, depth)?)));
                rows.push(row.collect::<Parsed<_>>()?);
                if body.is_empty() && rows.len() < count {
                    return Err("a structure ends too early".to_owned());
                }
            }
            Value::Structs(rows)
        }
        4 => {
            let (kind, text) = element(&mut body)?;
            let text = numbers(kind, text)?;
            Value::Text(text.iter().filter_map(|&c| char::from_u32(c as u32)).collect())
        }
        6..=15 => {
            let (kind, values) = element(&mut body)?;
            Value::Numbers(numbers(kind, values)?)
        }
        other => return Err(format!("an array of the unknown class {other}")),
    };
    Ok((name, value))
}

fn inner(body: &mut &[u8], depth: usize) -> Parsed<Value> {
    match element(body)? {
        (MATRIX, inner) => Ok(matrix(inner, depth + 1)?.1),
        (kind, _) => Err(format!("an element of type {kind} in the place of an array")),
    }
}
