//! Laying a recipe's layers over each other, and finding the place of a mistake.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::{Recipe, RecipeError};
use crate::methods;

/// Reads a recipe's file.
pub(super) fn file(path: &Path) -> Result<String, RecipeError> {
    std::fs::read_to_string(path).map_err(|source| RecipeError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Method defaults < file < profile < `--set`.
pub(super) fn resolve(text: &str, path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Recipe, RecipeError> {
    whole(laid(text, path, profile, sets)?, path)
}

/// File < profile < `--set`.
pub(super) fn laid(text: &str, path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Table, RecipeError> {
    // Once for the keys: every struct takes partial tables, so that a misspelt key is found with its line, in a profile
    // that is not used as well. Once as a table, which is what layers are made of.
    let whole: Recipe = toml::from_str(text).map_err(|e| parse_error(text, path, &e))?;
    let nested = |kind: &str, name: &str, inner: &str| RecipeError::Parse {
        path: path.to_owned(),
        line: line_of(text, &format!("[{kind}.{name}.{inner}")),
        message: format!("{kind} {name:?} holds a {inner}; move it out"),
    };
    for (name, inner) in &whole.profile {
        if !inner.profile.is_empty() {
            return Err(nested("profile", name, "profile"));
        }
    }
    for (name, inner) in &whole.task {
        if !inner.profile.is_empty() {
            return Err(nested("task", name, "profile"));
        }
        if !inner.task.is_empty() {
            return Err(nested("task", name, "task"));
        }
    }
    let mut table: Table = toml::from_str(text).map_err(|e| parse_error(text, path, &e))?;
    let mut profiles = match table.remove("profile") {
        Some(Value::Table(profiles)) => profiles,
        _ => Table::new(),
    };
    if let Some(name) = profile {
        match profiles.remove(name) {
            Some(Value::Table(layer)) => merge(&mut table, layer),
            _ => {
                let known: Vec<_> = whole.profile.keys().map(String::as_str).collect();
                return Err(RecipeError::Profile {
                    path: path.to_owned(),
                    name: name.to_owned(),
                    known: if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    },
                });
            }
        }
    }
    for set in sets {
        apply_set(&mut table, set)?;
    }
    Ok(table)
}

/// A recipe over its method's defaults.
pub(super) fn whole(table: Table, path: &Path) -> Result<Recipe, RecipeError> {
    let method = table.get("method").and_then(Value::as_str).unwrap_or("").to_owned();
    let entry = methods::find(&method)?;
    let mut layered: Table = match toml::from_str(entry.defaults) {
        Ok(defaults) => defaults,
        Err(error) => unreachable!("defaults of {method} are tested to parse: {error}"),
    };
    merge(&mut layered, table);
    spread(&mut layered);
    Recipe::deserialize(Value::Table(layered)).map_err(|error| unlike(path, error.message()))
}

/// What is laid together is no recipe.
pub(super) fn unlike(path: &Path, message: &str) -> RecipeError {
    RecipeError::Parse {
        path: path.to_owned(),
        line: 1,
        message: explain(message),
    }
}

/// Lays each stage's table onto what the recipe says for all stages.
fn spread(recipe: &mut Table) {
    let Some(Value::Table(stages)) = recipe.remove("stage") else {
        return;
    };
    let keys = ["loss", "distill", "lora", "optimizer", "schedule", "data", "freeze"];
    let common: Table = keys
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), recipe.get(key)?.clone())))
        .collect();
    let mut whole = Table::new();
    for (name, stage) in stages {
        let mut table = common.clone();
        if let Value::Table(stage) = stage {
            merge(&mut table, stage);
        }
        whole.insert(name, Value::Table(table));
    }
    recipe.insert("stage".to_owned(), Value::Table(whole));
}

/// Lays `over` onto `base`; tables are merged, everything else replaced.
pub(super) fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn apply_set(table: &mut Table, set: &str) -> Result<(), RecipeError> {
    let fail = |message: String| RecipeError::Set {
        set: set.to_owned(),
        message,
    };
    let changed = with_set(table, set).map_err(fail)?;
    Recipe::deserialize(Value::Table(changed.clone())).map_err(|error| fail(explain(error.message())))?;
    *table = changed;
    Ok(())
}

/// A table with `key=value` in it; whether there is such a key is for others to say.
pub(super) fn with_set(table: &Table, set: &str) -> Result<Table, String> {
    let (key, text) = set
        .split_once('=')
        .ok_or_else(|| "write key=value, for example optimizer.lr=1e-3".to_owned())?;
    let value = toml::from_str::<Table>(&format!("v = {}", text.trim()))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let parts: Vec<&str> = key.trim().split('.').collect();
    let mut changed = Value::Table(table.clone());
    insert(&mut changed, &parts, value)?;
    match changed {
        Value::Table(changed) => Ok(changed),
        _ => Err("the key is empty".to_owned()),
    }
}

/// Puts a value at a dotted key; a number is a position in a list.
fn insert(at: &mut Value, parts: &[&str], value: Value) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first() else {
        *at = value;
        return Ok(());
    };
    match at {
        Value::Table(table) => {
            let next = table
                .entry((*first).to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            if !rest.is_empty() && !matches!(next, Value::Table(_) | Value::Array(_)) {
                return Err(format!("{first} is a value and has no {}", rest.join(".")));
            }
            insert(next, rest, value)
        }
        Value::Array(list) => {
            let n = list.len();
            let item = first.parse::<usize>().ok().and_then(|i| list.get_mut(i));
            let item = item.ok_or_else(|| format!("{first:?} is not a position in a list of {n} (the first is 0)"))?;
            insert(item, rest, value)
        }
        _ => Err(format!("{first} does not lead anywhere")),
    }
}

pub(super) fn parse_error(text: &str, path: &Path, error: &toml::de::Error) -> RecipeError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    RecipeError::Parse {
        path: path.to_owned(),
        line: 1 + text.as_bytes()[..start].iter().filter(|&&b| b == b'\n').count(),
        message: explain(error.message()),
    }
}

fn line_of(text: &str, needle: &str) -> usize {
    1 + text.lines().position(|l| l.contains(needle)).unwrap_or(0)
}

/// Adds the nearest valid name to serde's "unknown field `x`, expected one of `a`, `b`".
pub(super) fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let what = if message.starts_with("unknown field") {
        "key"
    } else if message.starts_with("unknown variant") {
        "value"
    } else {
        return message.trim().to_owned();
    };
    let Some((wrong, valid)) = quoted.split_first() else {
        return message.trim().to_owned();
    };
    let valid: Vec<&str> = valid.iter().copied().filter(|v| *v != "profile").collect();
    let list = valid.join(", ");
    match valid.iter().min_by_key(|v| distance(wrong, v)) {
        Some(near) if distance(wrong, near) <= wrong.chars().count().max(3) / 2 => {
            format!("there is no {what} {wrong:?}; did you mean {near:?}? (here: {list})")
        }
        _ => format!("there is no {what} {wrong:?} (here: {list})"),
    }
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Dotted keys in which two recipes differ, without `run`.
pub(super) fn differences(a: &Recipe, b: &Recipe) -> Vec<String> {
    let table = |recipe: &Recipe| {
        let mut table = match Value::try_from(recipe) {
            Ok(Value::Table(table)) => table,
            _ => Table::new(),
        };
        table.remove("run");
        Value::Table(table)
    };
    let mut out = Vec::new();
    compare("", Some(&table(a)), Some(&table(b)), &mut out);
    out
}

pub(super) fn compare(key: &str, a: Option<&Value>, b: Option<&Value>, out: &mut Vec<String>) {
    if let (Some(Value::Table(x)), Some(Value::Table(y))) = (a, b) {
        let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
        keys.sort();
        keys.dedup();
        for k in keys {
            let inner = if key.is_empty() {
                k.clone()
            } else {
                format!("{key}.{k}")
            };
            compare(&inner, x.get(k), y.get(k), out);
        }
    } else if a != b {
        let show = |v: Option<&Value>| v.map_or_else(|| "not set".to_owned(), Value::to_string);
        out.push(format!("{key}: {} here, {} there", show(a), show(b)));
    }
}
