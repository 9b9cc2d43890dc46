//! Text to filter: recursive descent over the characters.

use super::ast::{Column, Expr, Op, Value, WORDS, is_bare_char, looks_like_number};
use super::date::Span;
use super::pattern::{Pattern, Style};

/// Bytes of a filter's text.
const MAX_BYTES: usize = 4096;
/// Parentheses and `not` inside each other.
const MAX_DEPTH: usize = 64;

/// Text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Something else is expected at some place.
    #[error("the filter has {found} at column {column}, where {expected} is expected: {text}")]
    Syntax {
        /// What is there.
        found: String,
        /// The place in characters, from 1.
        column: usize,
        /// What should be there.
        expected: &'static str,
        /// The filter.
        text: String,
    },
    /// The text is too long.
    #[error(
        "the filter has {found} bytes, at most {} are read; use a pattern for what is listed one by one",
        MAX_BYTES
    )]
    TooLong {
        /// Its bytes.
        found: usize,
    },
}

const COLUMN: &str = "a column (path, name, ext, size, date, or a key of your metadata)";
const COMPARISON: &str = "a comparison (= != < <= > >= ~ !~, in, like, not in, not like)";
const TEXT: &str = "a text such as cat or \"two words\"";
const VALUE: &str = "a value such as cat, \"two words\", 3, 2MB or true";
const ORDERED: &str = "a number or a text (true and false have no order)";
const SIZE: &str = "a size in bytes such as 20000, 200kB or 2MiB";
const DATE: &str = "a date such as 2024, 2024-05, 2024-05-17 or 2024-05-17T10:30";

pub(super) fn parse(text: &str) -> Result<Expr, FilterError> {
    if text.len() > MAX_BYTES {
        return Err(FilterError::TooLong { found: text.len() });
    }
    let mut parser = Parser { text, at: 0, depth: 0 };
    let expr = parser.any()?;
    parser.skip_space();
    if parser.rest().is_empty() {
        Ok(expr)
    } else {
        Err(parser.fail("and, or, or the end"))
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Byte at which it goes on, always between two characters.
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// An error about what comes next.
    fn fail(&mut self, expected: &'static str) -> FilterError {
        self.skip_space();
        let word = self.word();
        let found = match (word, self.rest().chars().next()) {
            ("", None) => "its end".to_owned(),
            ("", Some(c)) => format!("{c:?}"),
            (word, _) => format!("{:?}", word.chars().take(20).collect::<String>()),
        };
        FilterError::Syntax {
            found,
            column: self.text[..self.at].chars().count() + 1,
            expected,
            text: self.text.to_owned(),
        }
    }

    /// What comes next without space, quotes and signs; may be empty.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let is_part = |c: char| is_bare_char(c) || "./:+*?%@#".contains(c);
        &rest[..rest.find(|c: char| !is_part(c)).unwrap_or(rest.len())]
    }

    /// Takes a word of the language if it comes next.
    fn takes_word(&mut self, wanted: &str) -> bool {
        self.skip_space();
        let takes = self.word().eq_ignore_ascii_case(wanted);
        self.at += if takes { wanted.len() } else { 0 };
        takes
    }

    fn takes(&mut self, sign: &str) -> bool {
        self.skip_space();
        let takes = self.rest().starts_with(sign);
        self.at += if takes { sign.len() } else { 0 };
        takes
    }

    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, FilterError>) -> Result<T, FilterError> {
        if self.depth == MAX_DEPTH {
            return Err(self.fail("a filter with at most 64 parentheses and nots inside each other"));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    fn any(&mut self) -> Result<Expr, FilterError> {
        self.joined("or", Self::all, Expr::Any)
    }

    fn all(&mut self) -> Result<Expr, FilterError> {
        self.joined("and", Self::not, Expr::All)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Expr, FilterError>,
        join: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, FilterError> {
        let first = part(self)?;
        if !self.takes_word(word) {
            return Ok(first);
        }
        let mut parts = vec![first, part(self)?];
        while self.takes_word(word) {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        if self.takes_word("not") {
            return self.deeper(|p| Ok(Expr::Not(Box::new(p.not()?))));
        }
        if self.takes("(") {
            return self.deeper(|p| {
                let inner = p.any()?;
                p.close("and, or, or \")\"").map(|()| inner)
            });
        }
        if self.takes_word("exists") {
            let is_enclosed = self.takes("(");
            let column = self.column()?;
            if is_enclosed {
                self.close("\")\"")?;
            }
            return Ok(Expr::Exists(column));
        }
        let column = self.column()?;
        self.condition(column)
    }

    fn close(&mut self, expected: &'static str) -> Result<(), FilterError> {
        if self.takes(")") {
            Ok(())
        } else {
            Err(self.fail(expected))
        }
    }

    fn column(&mut self) -> Result<Column, FilterError> {
        self.skip_space();
        let begin = self.at;
        let mut keys = Vec::new();
        let mut is_bare = true;
        loop {
            if self.rest().starts_with('`') {
                keys.push(self.enclosed('`', COLUMN)?);
                is_bare = false;
            } else {
                let rest = self.rest();
                let key = &rest[..rest.find(|c: char| !is_bare_char(c)).unwrap_or(rest.len())];
                let is_word = keys.is_empty() && WORDS.iter().any(|w| w.eq_ignore_ascii_case(key));
                if key.is_empty() || is_word {
                    return Err(self.fail(COLUMN));
                }
                self.at += key.len();
                keys.push(key.to_owned());
            }
            if !self.rest().starts_with('.') {
                break;
            }
            self.at += 1;
        }
        if is_bare
            && keys.len() == 1
            && let Some(column) = Column::of_item(&keys[0])
        {
            return Ok(column);
        }
        if is_bare && looks_like_number(&keys[0]) {
            self.at = begin;
            return Err(self.fail(COLUMN));
        }
        Ok(Column::Own(keys))
    }

    /// Text between two of these signs; the sign itself is written twice between backticks, behind `\` in quotes.
    fn enclosed(&mut self, sign: char, expected: &'static str) -> Result<String, FilterError> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((i, c)) = chars.next() {
            let next = chars.peek().map(|&(_, c)| c);
            let is_escape = match sign {
                '`' => c == '`' && next == Some('`'),
                _ => c == '\\' && next.is_some_and(|n| matches!(n, '\\' | '"' | '\'')),
            };
            if is_escape {
                text.extend(chars.next().map(|(_, c)| c));
            } else if c == sign {
                self.at += i + sign.len_utf8();
                return Ok(text);
            } else {
                text.push(c);
            }
        }
        self.at = self.text.len();
        Err(self.fail(if sign == '`' { "a closing `" } else { expected }))
    }

    fn condition(&mut self, column: Column) -> Result<Expr, FilterError> {
        // The longer signs first.
        for (sign, op, is_not) in [
            ("!=", Op::Equal, true),
            ("<=", Op::AtMost, false),
            (">=", Op::AtLeast, false),
            ("==", Op::Equal, false),
            ("=", Op::Equal, false),
            ("<", Op::Less, false),
            (">", Op::More, false),
        ] {
            if self.takes(sign) {
                let value = self.value(&column, op)?;
                return Ok(negated(Expr::Compare(column, op, value), is_not));
            }
        }
        for (sign, is_not) in [("!~", true), ("~", false)] {
            if self.takes(sign) {
                return Ok(negated(self.pattern(column, Style::Glob)?, is_not));
            }
        }
        let is_not = self.takes_word("not");
        if self.takes_word("like") {
            return Ok(negated(self.pattern(column, Style::Like)?, is_not));
        }
        if self.takes_word("in") {
            if !self.takes("(") {
                return Err(self.fail("\"(\" and a list of values"));
            }
            let mut values = vec![self.value(&column, Op::Equal)?];
            while self.takes(",") {
                values.push(self.value(&column, Op::Equal)?);
            }
            self.close("\",\" or \")\"")?;
            return Ok(negated(Expr::In(column, values), is_not));
        }
        Err(self.fail(if is_not { "like or in" } else { COMPARISON }))
    }

    fn pattern(&mut self, column: Column, style: Style) -> Result<Expr, FilterError> {
        if matches!(column, Column::Size | Column::Date) {
            return Err(self.fail("a text column before the pattern (size and date are compared with < and >)"));
        }
        let (text, _) = self.literal(TEXT)?;
        Ok(Expr::Like(column, Pattern::new(style, &text)))
    }

    /// A value as it is written, and whether it stood in quotes.
    fn literal(&mut self, expected: &'static str) -> Result<(String, bool), FilterError> {
        self.skip_space();
        match self.rest().chars().next() {
            Some(sign @ ('"' | '\'')) => Ok((self.enclosed(sign, "a closing quote")?, true)),
            _ if self.word().is_empty() => Err(self.fail(expected)),
            _ => {
                let word = self.word();
                self.at += word.len();
                Ok((word.to_owned(), false))
            }
        }
    }

    fn value(&mut self, column: &Column, op: Op) -> Result<Value, FilterError> {
        self.skip_space();
        let begin = self.at;
        let expected = match column {
            Column::Size => SIZE,
            Column::Date => DATE,
            Column::Own(_) => VALUE,
            _ => TEXT,
        };
        let (text, is_quoted) = self.literal(expected)?;
        let value = match column {
            Column::Size => number(&text),
            Column::Date => Span::parse(&text).map(Value::Date),
            Column::Ext => Some(Value::Text(text.trim_start_matches('.').to_lowercase())),
            Column::Path | Column::Name => Some(Value::Text(text)),
            Column::Own(_) if is_quoted => Some(Value::Text(text)),
            Column::Own(_) => match &text[..] {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => Some(number(&text).unwrap_or(Value::Text(text))),
            },
        };
        let is_unordered = matches!(value, Some(Value::Bool(_))) && op != Op::Equal;
        match value {
            Some(value) if !is_unordered => Ok(value),
            _ => {
                self.at = begin;
                Err(self.fail(if is_unordered { ORDERED } else { expected }))
            }
        }
    }
}

fn negated(expr: Expr, is_not: bool) -> Expr {
    if is_not { Expr::Not(Box::new(expr)) } else { expr }
}

/// A number, with a unit of bytes behind it or without.
fn number(text: &str) -> Option<Value> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return None;
    }
    if let Ok(whole) = text.parse() {
        return Some(Value::Integer(whole));
    }
    if let Some(float) = text.parse::<f64>().ok().filter(|f| f.is_finite()) {
        return Some(Value::Float(float));
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i64 = match &text[digits.len()..].to_ascii_lowercase()[..] {
        "b" => 1,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "tb" | "t" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    match digits.parse::<i64>() {
        Ok(whole) => whole.checked_mul(factor).map(Value::Integer),
        Err(_) => {
            let bytes = digits.parse::<f64>().ok()? * factor as f64;
            bytes.is_finite().then_some(Value::Float(bytes))
        }
    }
}
