//! Whether an item satisfies a filter.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::ast::{Column, Expr, Op, Value};
use super::date::Span;
use crate::item::{FileFacts, Metadata};

pub(super) fn matches(expr: &Expr, file: &FileFacts, metadata: &Metadata) -> bool {
    match expr {
        Expr::All(parts) => parts.iter().all(|part| matches(part, file, metadata)),
        Expr::Any(parts) => parts.iter().any(|part| matches(part, file, metadata)),
        Expr::Not(part) => !matches(part, file, metadata),
        Expr::Exists(Column::Own(keys)) => own(metadata, keys, &|value| !value.is_null()),
        Expr::Exists(Column::Ext) => !extension(&file.key).is_empty(),
        Expr::Exists(_) => true,
        Expr::Compare(column, op, value) => compare(column, *op, value, file, metadata),
        Expr::In(column, values) => values.iter().any(|v| compare(column, Op::Equal, v, file, metadata)),
        Expr::Like(column, pattern) => match column {
            Column::Path => pattern.fits_path(&file.key),
            Column::Name => pattern.fits(name(&file.key)),
            Column::Ext => pattern.fits(&extension(&file.key)),
            Column::Size | Column::Date => false,
            Column::Own(keys) => own(metadata, keys, &|value| {
                one_of(value, &|v| v.as_str().is_some_and(|text| pattern.fits(text)))
            }),
        },
    }
}

fn compare(column: &Column, op: Op, value: &Value, file: &FileFacts, metadata: &Metadata) -> bool {
    let text = |found: &str| match value {
        Value::Text(text) => holds(op, found.cmp(text)),
        _ => false,
    };
    match (column, value) {
        (Column::Path, _) => text(&file.key),
        (Column::Name, _) => text(name(&file.key)),
        (Column::Ext, _) => text(&extension(&file.key)),
        (Column::Size, value) => number_order(&file.size.into(), value).is_some_and(|order| holds(op, order)),
        (Column::Date, Value::Date(span)) => in_time(i128::from(file.modified_ns), op, span),
        (Column::Date, _) => false,
        (Column::Own(keys), value) => own(metadata, keys, &|found| {
            one_of(found, &|found| {
                json_order(found, value).is_some_and(|order| holds(op, order))
            })
        }),
    }
}

fn holds(op: Op, order: Ordering) -> bool {
    match op {
        Op::Equal => order.is_eq(),
        Op::Less => order.is_lt(),
        Op::AtMost => order.is_le(),
        Op::More => order.is_gt(),
        Op::AtLeast => order.is_ge(),
    }
}

fn in_time(at: i128, op: Op, span: &Span) -> bool {
    match op {
        Op::Equal => (span.from..span.until).contains(&at),
        Op::Less => at < span.from,
        Op::AtMost => at < span.until,
        Op::More => at >= span.until,
        Op::AtLeast => at >= span.from,
    }
}

/// Whether the value below these keys passes; through a list, one element's is enough.
fn own(metadata: &Metadata, keys: &[String], test: &dyn Fn(&Json) -> bool) -> bool {
    fn below(value: &Json, keys: &[String], test: &dyn Fn(&Json) -> bool) -> bool {
        match (keys.split_first(), value) {
            (None, _) => test(value),
            (Some((key, rest)), Json::Object(map)) => map.get(key).is_some_and(|value| below(value, rest, test)),
            (Some(_), Json::Array(list)) => list.iter().any(|value| below(value, keys, test)),
            (Some(_), _) => false,
        }
    }
    let Some((first, rest)) = keys.split_first() else {
        return false;
    };
    metadata.get(first).is_some_and(|value| below(value, rest, test))
}

/// Whether a value, or one of those that a list or object consists of, passes.
fn one_of(value: &Json, test: &dyn Fn(&Json) -> bool) -> bool {
    match value {
        Json::Array(list) => list.iter().any(|value| one_of(value, test)),
        Json::Object(map) => map.values().any(|value| one_of(value, test)),
        _ => test(value),
    }
}

fn json_order(found: &Json, value: &Value) -> Option<Ordering> {
    match (found, value) {
        (Json::String(found), Value::Text(text)) => Some(found.as_str().cmp(text)),
        (Json::Bool(found), Value::Bool(value)) => Some(found.cmp(value)),
        (Json::Number(found), value) => number_order(found, value),
        _ => None,
    }
}

/// Whole numbers are compared exactly, others as floating point.
fn number_order(found: &serde_json::Number, value: &Value) -> Option<Ordering> {
    let float = match value {
        Value::Integer(whole) => match (found.as_i64(), found.as_u64()) {
            (Some(found), _) => return Some(found.cmp(whole)),
            // Beyond the largest that the filter can hold.
            (None, Some(_)) => return Some(Ordering::Greater),
            (None, None) => *whole as f64,
        },
        Value::Float(float) => *float,
        _ => return None,
    };
    found.as_f64()?.partial_cmp(&float)
}

fn name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// The ending as `std::path` sees it: a name that only begins with a dot has none.
fn extension(key: &str) -> String {
    match name(key).rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension.to_lowercase(),
        _ => String::new(),
    }
}
