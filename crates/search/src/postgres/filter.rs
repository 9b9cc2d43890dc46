//! Filters as SQL, where SQL means the same.
//!
//! All values are parameters. What PostgreSQL understands in another way (patterns that ignore case, order of own texts) is left to
//! [`crate::Filter::matches`], which then looks at those items that the rest leaves over.

use postgres::types::ToSql;
use serde_json::Value as Json;

use crate::filter::{Column, Expr, Op, Span, Value};

/// Whole numbers up to here are floating-point numbers too, so that both orders agree.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(super) type Parameter = Box<dyn ToSql + Sync + Send>;

/// A condition with its parameters.
#[derive(Default)]
pub(super) struct Condition {
    /// Over `items i`; never empty.
    pub(super) sql: String,
    pub(super) parameters: Vec<Parameter>,
    /// Whether it says all that the filter says; otherwise it lets through too many.
    pub(super) is_whole: bool,
    /// Whether it asks for `own`.
    pub(super) needs_own: bool,
}

impl Condition {
    /// As much of the filter as can be said; `has_own`: every item's metadata is in `own`.
    pub(super) fn of(expr: Option<&Expr>, has_own: bool) -> Self {
        let mut condition = Self {
            is_whole: true,
            ..Self::default()
        };
        let parts = match expr {
            None => &[],
            Some(Expr::All(parts)) => &parts[..],
            Some(expr) => std::slice::from_ref(expr),
        };
        let mut said = Vec::new();
        for part in parts {
            let before = condition.parameters.len();
            match condition.translate(part, has_own) {
                Some(sql) => said.push(sql),
                None => {
                    condition.parameters.truncate(before);
                    condition.is_whole = false;
                }
            }
        }
        condition.sql = if said.is_empty() {
            "true".to_owned()
        } else {
            said.join(" AND ")
        };
        condition
    }

    /// Adds a parameter; returns how it is called.
    pub(super) fn parameter(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.parameters.push(Box::new(value));
        format!("${}", self.parameters.len())
    }

    /// Narrows it.
    pub(super) fn and(&mut self, sql: &str) {
        self.sql = format!("({}) AND {sql}", self.sql);
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.parameters.iter().map(|p| &**p as &(dyn ToSql + Sync)).collect()
    }

    fn translate(&mut self, expr: &Expr, has_own: bool) -> Option<String> {
        Some(match expr {
            Expr::All(parts) => self.joined(parts, " AND ", has_own)?,
            Expr::Any(parts) => self.joined(parts, " OR ", has_own)?,
            Expr::Not(part) => format!("NOT {}", self.translate(part, has_own)?),
            Expr::Exists(Column::Own(keys)) if has_own => self.own(keys, ".type() ? (@ != \"null\")")?,
            Expr::Exists(Column::Own(_)) => return None,
            Expr::Exists(Column::Ext) => format!("({EXT} <> '')"),
            Expr::Exists(_) => "true".to_owned(),
            Expr::Compare(column, op, value) => self.compare(column, *op, value, has_own)?,
            Expr::In(column, values) => {
                let parts = values.iter().map(|v| self.compare(column, Op::Equal, v, has_own));
                let parts: Vec<String> = parts.collect::<Option<_>>()?;
                format!(
                    "(false OR {})",
                    if parts.is_empty() {
                        "false".to_owned()
                    } else {
                        parts.join(" OR ")
                    }
                )
            }
            Expr::Like(Column::Size | Column::Date, _) => "false".to_owned(),
            // Case is ignored as Unicode says, which depends on the server's locale there.
            Expr::Like(..) => return None,
        })
    }

    fn joined(&mut self, parts: &[Expr], word: &str, has_own: bool) -> Option<String> {
        let parts: Option<Vec<String>> = parts.iter().map(|p| self.translate(p, has_own)).collect();
        Some(format!("({})", parts?.join(word)))
    }

    fn compare(&mut self, column: &Column, op: Op, value: &Value, has_own: bool) -> Option<String> {
        let never = || Some("false".to_owned());
        match (column, value) {
            (Column::Own(keys), value) => has_own.then(|| self.compare_own(keys, op, value))?,
            (Column::Path, Value::Text(text)) => {
                let text = self.text(text)?;
                Some(format!("(i.key {} {text})", sign(op)))
            }
            (Column::Name, Value::Text(text)) => {
                let text = self.text(text)?;
                Some(format!("({NAME} {} {text})", sign(op)))
            }
            // Only of these it is known how their capitals look.
            (Column::Ext, Value::Text(text)) if op == Op::Equal && text.is_ascii() => {
                let text = self.text(text)?;
                Some(format!("({EXT} = {text})"))
            }
            (Column::Ext, Value::Text(_)) => None,
            (Column::Path | Column::Name | Column::Ext, _) => never(),
            (Column::Size, Value::Integer(size)) => {
                let size = self.parameter(*size);
                Some(format!("(i.size {} {size})", sign(op)))
            }
            (Column::Size, Value::Float(size)) => {
                let size = self.parameter(*size);
                Some(format!("(i.size::float8 {} {size})", sign(op)))
            }
            (Column::Size, _) => never(),
            (Column::Date, Value::Date(span)) => Some(self.in_time(op, span)),
            (Column::Date, _) => never(),
        }
    }

    /// PostgreSQL's texts hold no NUL.
    fn text(&mut self, text: &str) -> Option<String> {
        (!text.contains('\0')).then(|| self.parameter(text.to_owned()))
    }

    fn in_time(&mut self, op: Op, span: &Span) -> String {
        let mut before = |at: i128| match i64::try_from(at) {
            Ok(at) => format!("i.modified_ns < {}", self.parameter(at)),
            // Beyond what a file can have.
            Err(_) => (at > 0).to_string(),
        };
        match op {
            Op::Equal => {
                let (until, from) = (before(span.until), before(span.from));
                format!("({until} AND NOT ({from}))")
            }
            Op::Less => format!("({})", before(span.from)),
            Op::AtMost => format!("({})", before(span.until)),
            Op::More => format!("(NOT ({}))", before(span.until)),
            Op::AtLeast => format!("(NOT ({}))", before(span.from)),
        }
    }

    fn compare_own(&mut self, keys: &[String], op: Op, value: &Value) -> Option<String> {
        let sign = match op {
            Op::Equal => "==",
            op => sign(op),
        };
        let literal = match value {
            Value::Integer(whole) if (*whole as f64).abs() < EXACT => whole.to_string(),
            Value::Float(float) if float.abs() < EXACT => Json::from(*float).to_string(),
            Value::Text(text) if op == Op::Equal && !text.contains('\0') => Json::from(text.as_str()).to_string(),
            Value::Bool(value) if op == Op::Equal => value.to_string(),
            Value::Date(_) => return Some("false".to_owned()),
            _ => return None,
        };
        // Numbers that are not whole are compared with whole ones as they are; the list of all values below is what `**` gives.
        self.own(keys, &format!(".** ? (@ {sign} {literal})"))
    }

    /// Whether the values that a way of keys leads to, also through lists, pass a test of JSON's path language.
    fn own(&mut self, keys: &[String], test: &str) -> Option<String> {
        let mut path = "lax $".to_owned();
        for key in keys {
            if key.contains('\0') {
                return None;
            }
            path = format!("{path}.{}", Json::from(key.as_str()));
        }
        self.needs_own = true;
        let path = self.parameter(format!("{path}{test}"));
        Some(format!(
            "coalesce(jsonb_path_exists(i.own, {path}::text::jsonpath, silent => true), false)"
        ))
    }
}

/// The last part of the path; order and equality are those of its bytes.
const NAME: &str = "(substring(i.key from '[^/]*$') COLLATE \"C\")";
/// The ending in small letters. The Kelvin sign is the one letter outside of ASCII whose small form is inside.
const EXT: &str =
    "(lower(replace(coalesce(substring(i.key from '[^/][.]([^./]*)$'), ''), U&'\\212A', 'k') COLLATE \"C\"))";

fn sign(op: Op) -> &'static str {
    match op {
        Op::Equal => "=",
        Op::Less => "<",
        Op::AtMost => "<=",
        Op::More => ">",
        Op::AtLeast => ">=",
    }
}

/// The metadata as it goes into `own`: `None` where PostgreSQL's JSON cannot hold it (NUL in texts) or its paths see something else than filters
/// do (lists directly inside of lists).
pub(super) fn own(metadata: &crate::Metadata) -> Option<Json> {
    fn is_fit(value: &Json, in_list: bool) -> bool {
        match value {
            Json::String(text) => !text.contains('\0'),
            Json::Array(list) => !in_list && list.iter().all(|v| is_fit(v, true)),
            Json::Object(map) => map.iter().all(|(k, v)| !k.contains('\0') && is_fit(v, false)),
            _ => true,
        }
    }
    metadata
        .iter()
        .all(|(k, v)| !k.contains('\0') && is_fit(v, false))
        .then(|| Json::Object(metadata.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Filter;

    fn condition(filter: &str, has_own: bool) -> Condition {
        let filter: Filter = filter.parse().unwrap();
        Condition::of(Some(filter.expr()), has_own)
    }

    #[test]
    fn what_sql_cannot_say_is_left_over() {
        for (filter, is_whole) in [
            ("size > 2MB and date >= 2024", true),
            ("ext = jpg or not name = 'a'", true),
            ("ext = 'jpé'", false),
            ("path ~ '2024/**'", false),
            ("label = cat", true),
            ("label < cat", false),
            ("label = cat or path ~ 'a'", false),
            ("size = 9007199254740993", true),
            ("n = 9007199254740993", false),
        ] {
            let found = condition(filter, true);
            assert_eq!(found.is_whole, is_whole, "{filter}: {}", found.sql);
        }
        assert!(!condition("label = cat", false).is_whole);
        // What can be said narrows what is left over.
        let part = condition("path ~ 'a' and size > 5 and label like 'x'", true);
        assert_eq!((part.sql.as_str(), part.parameters.len()), ("(i.size > $1)", 1));
        // Half of an alternative that was begun leaves no parameter behind.
        let part = condition("(size > 5 or path ~ 'a') and size < 9", true);
        assert_eq!((part.sql.as_str(), part.parameters.len()), ("(i.size < $1)", 1));
    }

    #[test]
    fn values_are_never_text_of_the_statement() {
        for text in ["'; DROP TABLE x; --", "\") || true", "\\\" ? (true)"] {
            let filter = format!("`{}` = {}", text.replace('`', "``"), Json::from(text));
            let found = condition(&filter, true);
            assert!(
                found.is_whole && !found.sql.contains("DROP") && !found.sql.contains("true)\""),
                "{}",
                found.sql
            );
            let found = condition(&format!("path = {}", Json::from(text)), true);
            assert_eq!(found.sql, "(i.key = $1)");
        }
    }
}
