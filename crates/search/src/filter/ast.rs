//! What a filter consists of, and how it is written.

use std::fmt;

use super::date::Span;
use super::pattern::Pattern;

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// All hold; two or more.
    All(Vec<Self>),
    /// One holds; two or more.
    Any(Vec<Self>),
    /// The opposite.
    Not(Box<Self>),
    /// The item has the column, and it is not null.
    Exists(Column),
    /// The column and a value; of lists and objects one value is enough.
    Compare(Column, Op, Value),
    /// The column is one of the values.
    In(Column, Vec<Value>),
    /// The column fits the pattern.
    Like(Column, Pattern),
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// The item's key.
    Path,
    /// The last part of the path.
    Name,
    /// What follows the last dot of the name, in lower case; nothing when there is none.
    Ext,
    /// Bytes of the file.
    Size,
    /// When the file was modified.
    Date,
    /// A key of the metadata, and keys inside of its value.
    Own(Vec<String>),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

/// What a column is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, compared by its bytes.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Another number, finite.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A span of time; only for [`Column::Date`].
    Date(Span),
}

/// Words that cannot be the name of a column without backticks.
pub(super) const WORDS: [&str; 6] = ["and", "or", "not", "in", "like", "exists"];

impl Column {
    /// The column of every item that has this name.
    pub(super) fn of_item(name: &str) -> Option<Self> {
        Some(match name {
            "path" => Self::Path,
            "name" => Self::Name,
            "ext" => Self::Ext,
            "size" => Self::Size,
            "date" => Self::Date,
            _ => return None,
        })
    }
}

impl Expr {
    pub(super) fn needs_metadata(&self) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::needs_metadata),
            Self::Not(part) => part.needs_metadata(),
            Self::Exists(column) | Self::Compare(column, ..) | Self::In(column, _) | Self::Like(column, _) => {
                matches!(column, Column::Own(_))
            }
        }
    }

    /// Writes it inside of an expression that binds as strongly as `and` does.
    fn inside(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::All(_) | Self::Any(_) => write!(f, "({self})"),
            _ => fmt::Display::fmt(self, f),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter, parts: &[Self], word: &str| {
            for (i, part) in parts.iter().enumerate() {
                if i > 0 {
                    write!(f, " {word} ")?;
                }
                part.inside(f)?;
            }
            Ok(())
        };
        match self {
            Self::All(parts) => joined(f, parts, "and"),
            Self::Any(parts) => joined(f, parts, "or"),
            Self::Not(part) => {
                f.write_str("not ")?;
                part.inside(f)
            }
            Self::Exists(column) => write!(f, "exists {column}"),
            Self::Compare(column, op, value) => write!(f, "{column} {op} {value}"),
            Self::In(column, values) => {
                write!(f, "{column} in (")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            Self::Like(column, pattern) => write!(f, "{column} {pattern}"),
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let keys = match self {
            Self::Path => return f.write_str("path"),
            Self::Name => return f.write_str("name"),
            Self::Ext => return f.write_str("ext"),
            Self::Size => return f.write_str("size"),
            Self::Date => return f.write_str("date"),
            Self::Own(keys) => keys,
        };
        for (i, key) in keys.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            let is_taken = WORDS.iter().any(|w| w.eq_ignore_ascii_case(key))
                || Self::of_item(key).is_some()
                || looks_like_number(key);
            if is_bare(key) && !(i == 0 && is_taken) {
                f.write_str(key)?;
            } else {
                write!(f, "`{}`", key.replace('`', "``"))?;
            }
        }
        Ok(())
    }
}

/// Whether a key needs no backticks.
fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.chars().all(is_bare_char)
}

/// Whether a name begins as numbers do.
pub(super) fn looks_like_number(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// What names without backticks consist of.
pub(super) fn is_bare_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(f, text),
            Self::Integer(number) => number.fmt(f),
            // `{:?}` keeps the point that tells it from a whole number.
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Bool(value) => value.fmt(f),
            Self::Date(span) => quoted(f, &span.text),
        }
    }
}

/// Text in quotes, as the parser reads it back.
pub(super) fn quoted(f: &mut fmt::Formatter, text: &str) -> fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
