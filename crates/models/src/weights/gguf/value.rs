//! Metadata of a GGUF file.

use super::super::WeightsError;
use super::super::file::Scan;

/// A metadata value. The width of a number is not kept: every integer and float of the format fits these.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// u8, u16, u32 or u64.
    Unsigned(u64),
    /// i8, i16, i32 or i64.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    String(String),
    /// A list of values of one type.
    Array(GgufArray),
}

/// A list of metadata values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufArray {
    /// u8, u16, u32 or u64.
    Unsigned(Vec<u64>),
    /// i8, i16, i32 or i64.
    Signed(Vec<i64>),
    /// f32 or f64.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    String(Vec<String>),
    /// Lists of lists.
    Array(Vec<GgufArray>),
}

impl GgufValue {
    /// The value as a whole number that is not negative, whatever its width and sign in the file.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(v) => Some(*v),
            Self::Signed(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(v) => Some(*v as f64),
            Self::Signed(v) => Some(*v as f64),
            Self::Float(v) => Some(*v),
            _ => None,
        }
    }

    /// The value as a truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The value as a text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// The value as a list of texts.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Array(GgufArray::String(v)) => Some(v),
            _ => None,
        }
    }

    /// The value as a list of floats.
    pub fn as_floats(&self) -> Option<&[f64]> {
        match self {
            Self::Array(GgufArray::Float(v)) => Some(v),
            _ => None,
        }
    }

    /// The value as a list of whole numbers (the signed and unsigned lists of the format alike); `None` also when
    /// one of them is beyond i64.
    pub fn as_integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Array(GgufArray::Signed(v)) => Some(v.clone()),
            Self::Array(GgufArray::Unsigned(v)) => v.iter().map(|&x| i64::try_from(x).ok()).collect(),
            _ => None,
        }
    }
}

/// How many array elements the metadata of one file may hold altogether: four vocabularies of a million pieces.
const MAX_ELEMENTS: u64 = 1 << 22;

/// How deep arrays of arrays may nest; no known model nests them at all.
const MAX_DEPTH: usize = 4;

/// Reads values, counting the array elements of all of them together.
pub(super) struct ValueReader {
    elements: u64,
}

impl ValueReader {
    pub(super) fn new() -> Self {
        Self { elements: 0 }
    }

    /// Reads a value's type and the value.
    pub(super) fn value(&mut self, scan: &mut Scan<'_>) -> Result<GgufValue, WeightsError> {
        let kind = scan.u32()?;
        Ok(match kind {
            0 | 2 | 4 | 10 => GgufValue::Unsigned(unsigned(scan, kind)?),
            1 | 3 | 5 | 11 => GgufValue::Signed(signed(scan, kind)?),
            6 | 12 => GgufValue::Float(float(scan, kind)?),
            7 => GgufValue::Bool(truth(scan)?),
            8 => GgufValue::String(text(scan)?),
            9 => GgufValue::Array(self.array(scan, 0)?),
            _ => return Err(scan.malformed(format!("there is no metadata type {kind}"))),
        })
    }

    fn array(&mut self, scan: &mut Scan<'_>, depth: usize) -> Result<GgufArray, WeightsError> {
        if depth == MAX_DEPTH {
            return Err(WeightsError::Limit {
                path: scan.path().to_owned(),
                place: "the depth of nested metadata arrays".into(),
                value: depth as u64 + 1,
                limit: MAX_DEPTH as u64,
            });
        }
        let kind = scan.u32()?;
        let count = scan.u64()?;
        self.elements = self.elements.saturating_add(count);
        if self.elements > MAX_ELEMENTS {
            return Err(WeightsError::Limit {
                path: scan.path().to_owned(),
                place: "the number of elements in its metadata".into(),
                value: self.elements,
                limit: MAX_ELEMENTS,
            });
        }
        // the smallest encoding of an element: a text has its length, an array its type and count
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return Err(scan.malformed(format!("there is no metadata type {kind}"))),
        };
        // cannot overflow: count ≤ MAX_ELEMENTS
        scan.check(count * least)?;
        fn collect<T>(count: u64, mut read: impl FnMut() -> Result<T, WeightsError>) -> Result<Vec<T>, WeightsError> {
            (0..count).map(|_| read()).collect()
        }
        Ok(match kind {
            0 | 2 | 4 | 10 => GgufArray::Unsigned(collect(count, || unsigned(scan, kind))?),
            1 | 3 | 5 | 11 => GgufArray::Signed(collect(count, || signed(scan, kind))?),
            6 | 12 => GgufArray::Float(collect(count, || float(scan, kind))?),
            7 => GgufArray::Bool(collect(count, || truth(scan))?),
            8 => GgufArray::String(collect(count, || text(scan))?),
            _ => GgufArray::Array(collect(count, || self.array(scan, depth + 1))?),
        })
    }
}

fn unsigned(scan: &mut Scan<'_>, kind: u32) -> Result<u64, WeightsError> {
    Ok(match kind {
        0 => scan.u8()?.into(),
        2 => u16::from_le_bytes(scan.array()?).into(),
        4 => scan.u32()?.into(),
        _ => scan.u64()?,
    })
}

fn signed(scan: &mut Scan<'_>, kind: u32) -> Result<i64, WeightsError> {
    Ok(match kind {
        1 => i8::from_le_bytes(scan.array()?).into(),
        3 => i16::from_le_bytes(scan.array()?).into(),
        5 => i32::from_le_bytes(scan.array()?).into(),
        _ => i64::from_le_bytes(scan.array()?),
    })
}

fn float(scan: &mut Scan<'_>, kind: u32) -> Result<f64, WeightsError> {
    Ok(match kind {
        6 => f32::from_le_bytes(scan.array()?).into(),
        _ => f64::from_le_bytes(scan.array()?),
    })
}

fn truth(scan: &mut Scan<'_>) -> Result<bool, WeightsError> {
    match scan.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(scan.malformed(format!("a truth value is {other}, not 0 or 1"))),
    }
}

/// A text with its length before it. Bytes that are not UTF-8 occur in vocabularies that were written carelessly
/// and would make the whole model unreadable: they become U+FFFD.
pub(super) fn text(scan: &mut Scan<'_>) -> Result<String, WeightsError> {
    let len = scan.u64()?;
    let bytes = scan.bytes(len)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}
