//! Which items a search may return: `label = cat and size > 2MB and path ~ "2024/**"`.
//!
//! | what | how |
//! |---|---|
//! | columns of every item | `path` (its key), `name` (last part of the path), `ext` (ending in lower case, without dot), `size`, `date` (of modification, UTC) |
//! | own columns | any key of the metadata; `exif.iso` goes into objects; backticks where a name has other characters, is a word of this language or a column of the line above: `` `my key` ``, `` `date` `` |
//! | comparisons | `=` `!=` `<` `<=` `>` `>=`, `in (a, b)`, `not in (a, b)` |
//! | patterns | `like "%dog%"` (`%` any text, `_` one character), `~ "2024/*.jpg"` (`*` anything but `/`, `**` anything, `?` one character; below any folder unless it begins with `/`); both ignore case, `\` takes the next character as it is; `not like`, `!~` |
//! | together | `and`, `or`, `not`, parentheses; `exists COLUMN` |
//! | values | `"text"`, `'text'`, single words without quotes, numbers, sizes (`2MB` = 2·10⁶, `2MiB` = 2·2²⁰), `true`, `false`, dates (`2024`, `2024-05`, `2024-05-17`, `2024-05-17T10:30`) |
//!
//! A date stands for its whole span: `date = 2024-05` is all of May, `date > 2024` begins in 2025. A comparison with a list or an
//! object holds when it holds for one of its values. Values of another type never compare, and `!=`, `not in`, `not like` are
//! the exact opposite of `=`, `in`, `like`: items without the column match them.

mod ast;
mod date;
mod eval;
mod parse;
mod pattern;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use ast::{Column, Expr, Op, Value};
pub use date::Span;
pub use parse::FilterError;
pub use pattern::{Pattern, Piece, Style};

use crate::item::{FileFacts, Metadata};

/// A condition on items, made from text. Its `Display` is text that gives the same filter again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter {
    expr: Expr,
}

impl Filter {
    /// What it consists of, for stores that have a query language of their own.
    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    /// Whether an item satisfies it.
    pub fn matches(&self, file: &FileFacts, metadata: &Metadata) -> bool {
        eval::matches(&self.expr, file, metadata)
    }

    /// Whether it asks for own columns; otherwise [`Filter::matches`] may be given empty metadata.
    pub fn needs_metadata(&self) -> bool {
        self.expr.needs_metadata()
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(|expr| Self { expr })
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.to_string()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.expr.fmt(f)
    }
}

#[cfg(test)]
mod tests;
