//! What each tensor of a tower is called in each layout: one row a tensor, read in one direction.

use std::collections::{BTreeMap, BTreeSet};

use crate::load::transpose;
use crate::weights::HostTensor;

/// How a layout stores what we keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As it is.
    Same,
    /// `[out, in]` as `[in, out]`.
    Transposed,
    /// `[…]` as `[1, …]`, until there are three axes.
    Batched,
    /// A patch embedding `[out, p·p·3]`, channels last, as `[out, 3, p, p]`.
    Kernel,
    /// Queries, keys and values, `[3·c, …]`, as three tensors; `?` in the name stands for q, k and v.
    Thirds,
    /// The same as two tensors, `[c, …]` and `[2·c, …]`; `?` in the name stands for q and kv.
    QueryApart,
}
use How::{Batched, Kernel, QueryApart, Same, Thirds, Transposed};

/// The name of a tensor in one layout. `{}` is the number of a block, `*` stands for `weight` and `bias`.
type Name = (&'static str, How);

/// Ours, Hugging Face's, open_clip's.
pub(super) struct Row(pub &'static str, pub Name, pub Name);

/// Whose names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    HuggingFace,
    OpenClip,
}

/// What a table and a tower do not have in common.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unmatched {
    /// Tensors of the tower without a row.
    pub(super) without_row: Vec<String>,
    /// Rows without a tensor.
    pub(super) without_tensor: Vec<String>,
    /// Tensors of a shape that the row cannot be.
    pub(super) misshapen: Vec<String>,
}

/// A tower's own tensors under the names of a layout.
pub(super) fn renamed(
    own: BTreeMap<String, HostTensor>,
    table: &[Row],
    whose: Whose,
) -> Result<BTreeMap<String, HostTensor>, Unmatched> {
    let mut out = BTreeMap::new();
    let mut unmatched = Unmatched::default();
    let mut used = BTreeSet::new();
    for (name, tensor) in own {
        let (pattern, block) = pattern(&name);
        let found = table.iter().enumerate().find_map(|(at, row)| {
            let rest = match row.0.strip_suffix('*') {
                Some(prefix) => pattern.strip_prefix(prefix).filter(|s| matches!(*s, "weight" | "bias")),
                None => (row.0 == pattern).then_some(""),
            };
            rest.map(|rest| (at, row, rest.to_owned()))
        });
        let Some((at, row, rest)) = found else {
            unmatched.without_row.push(name);
            continue;
        };
        used.insert((at, rest.clone()));
        let (theirs, how) = match whose {
            Whose::HuggingFace => row.1,
            Whose::OpenClip => row.2,
        };
        let theirs = theirs.replace("{}", &block).replace('*', &rest);
        match stored(tensor, how) {
            Some(parts) => out.extend(
                parts
                    .into_iter()
                    .map(|(part, tensor)| (theirs.replace('?', part), tensor)),
            ),
            None => unmatched.misshapen.push(name),
        }
    }
    for (at, row) in table.iter().enumerate() {
        let parts: &[&str] = if row.0.ends_with('*') {
            &["weight", "bias"]
        } else {
            &[""]
        };
        let missing = parts.iter().filter(|part| !used.contains(&(at, (**part).to_owned())));
        unmatched
            .without_tensor
            .extend(missing.map(|part| row.0.replace('*', part)));
    }
    if unmatched == Unmatched::default() {
        Ok(out)
    } else {
        Err(unmatched)
    }
}

/// `blocks.7.qkv.bias` → (`blocks.{}.qkv.bias`, `7`).
fn pattern(name: &str) -> (String, String) {
    match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => (format!("blocks.{{}}.{rest}"), block.to_owned()),
        None => (name.to_owned(), String::new()),
    }
}

/// What a tensor becomes, and what `?` stands for in the name of each; `None` when the shape is another than the tensor of this kind has.
fn stored(tensor: HostTensor, how: How) -> Option<Vec<(&'static str, HostTensor)>> {
    let HostTensor { shape, data } = tensor;
    let whole = |shape: Vec<usize>, data: Vec<f32>| vec![("", HostTensor { shape, data })];
    Some(match how {
        Same => whole(shape, data),
        Batched => whole(
            [&vec![1; 3_usize.checked_sub(shape.len())?], shape.as_slice()].concat(),
            data,
        ),
        Transposed => {
            let &[rows, cols] = shape.as_slice() else { return None };
            whole(vec![cols, rows], transpose(&data, rows, cols))
        }
        Kernel => {
            let &[out, columns] = shape.as_slice() else { return None };
            let side = (columns / 3).isqrt();
            if side * side * 3 != columns || columns == 0 {
                return None;
            }
            let filters = data.chunks_exact(columns);
            let data = filters.flat_map(|filter| transpose(filter, side * side, 3)).collect();
            whole(vec![out, 3, side, side], data)
        }
        Thirds => rows_apart(&shape, &data, &[("q", 1), ("k", 1), ("v", 1)])?,
        QueryApart => rows_apart(&shape, &data, &[("q", 1), ("kv", 2)])?,
    })
}

/// Rows in parts, each of so many thirds.
fn rows_apart(
    shape: &[usize],
    data: &[f32],
    parts: &[(&'static str, usize)],
) -> Option<Vec<(&'static str, HostTensor)>> {
    let (&rows, rest) = shape.split_first()?;
    if rows == 0 || !rows.is_multiple_of(3) {
        return None;
    }
    let mut at = 0;
    let part = |&(name, thirds): &(&'static str, usize)| {
        let start = at;
        at += thirds * data.len() / 3;
        let tensor = HostTensor {
            shape: [&[thirds * rows / 3], rest].concat(),
            data: data[start..at].to_vec(),
        };
        (name, tensor)
    };
    Some(parts.iter().map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::super::clip::VISION;
    use super::*;

    #[test]
    fn what_does_not_match_is_listed() {
        let one = HostTensor {
            shape: vec![4],
            data: vec![0.0; 4],
        };
        let names = ["class", "positions", "extra", "ln_pre.weight", "blocks.0.qkv.bias"];
        let own = names.map(|name| (name.to_owned(), one.clone())).into();
        let unmatched = renamed(own, &VISION[1..4], Whose::HuggingFace).unwrap_err();
        assert_eq!(unmatched.without_row, ["blocks.0.qkv.bias", "extra"]);
        assert_eq!(unmatched.without_tensor, ["ln_pre.bias"]);
        let own = [("blocks.3.qkv.bias".to_owned(), one)].into();
        let unmatched = renamed(own, &VISION[6..7], Whose::HuggingFace).unwrap_err();
        assert_eq!(unmatched.misshapen, ["blocks.3.qkv.bias"]);
    }
}
