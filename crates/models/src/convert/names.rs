//! What each tensor of a tower is called in each layout: one row a tensor, read in one direction.

use std::collections::{BTreeMap, BTreeSet};

use crate::load::transpose;
use crate::weights::HostTensor;

/// How a layout stores what we keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// As it is.
    Same,
    /// `[out, in]` as `[in, out]`.
    Transposed,
    /// A patch embedding `[out, p·p·3]`, channels last, as `[out, 3, p, p]`.
    Kernel,
    /// Queries, keys and values, `[3·c, …]`, as three tensors; `?` in the name stands for q, k and v.
    Thirds,
}
use How::{Kernel, Same, Thirds, Transposed};

/// The name of a tensor in one layout. `{}` is the number of a block, `*` stands for `weight` and `bias`.
type Name = (&'static str, How);

/// Ours, Hugging Face's, open_clip's.
pub(super) struct Row(&'static str, Name, Name);

/// Whose names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    HuggingFace,
    OpenClip,
}

/// CLIP's vision transformer.
#[rustfmt::skip]
pub(super) const CLIP_VIT: &[Row] = &[
    Row("patches.weight", ("vision_model.embeddings.patch_embedding.weight", Kernel), ("visual.conv1.weight", Kernel)),
    Row("class", ("vision_model.embeddings.class_embedding", Same), ("visual.class_embedding", Same)),
    Row("positions", ("vision_model.embeddings.position_embedding.weight", Same), ("visual.positional_embedding", Same)),
    Row("ln_pre.*", ("vision_model.pre_layrnorm.*", Same), ("visual.ln_pre.*", Same)), // so spelt in the files
    Row("blocks.{}.ln_1.*", ("vision_model.encoder.layers.{}.layer_norm1.*", Same), ("visual.transformer.resblocks.{}.ln_1.*", Same)),
    Row("blocks.{}.qkv.weight", ("vision_model.encoder.layers.{}.self_attn.?_proj.weight", Thirds), ("visual.transformer.resblocks.{}.attn.in_proj_weight", Same)),
    Row("blocks.{}.qkv.bias", ("vision_model.encoder.layers.{}.self_attn.?_proj.bias", Thirds), ("visual.transformer.resblocks.{}.attn.in_proj_bias", Same)),
    Row("blocks.{}.out.*", ("vision_model.encoder.layers.{}.self_attn.out_proj.*", Same), ("visual.transformer.resblocks.{}.attn.out_proj.*", Same)),
    Row("blocks.{}.ln_2.*", ("vision_model.encoder.layers.{}.layer_norm2.*", Same), ("visual.transformer.resblocks.{}.ln_2.*", Same)),
    Row("blocks.{}.fc.*", ("vision_model.encoder.layers.{}.mlp.fc1.*", Same), ("visual.transformer.resblocks.{}.mlp.c_fc.*", Same)),
    Row("blocks.{}.proj.*", ("vision_model.encoder.layers.{}.mlp.fc2.*", Same), ("visual.transformer.resblocks.{}.mlp.c_proj.*", Same)),
    Row("ln_post.*", ("vision_model.post_layernorm.*", Same), ("visual.ln_post.*", Same)),
    Row("proj.weight", ("visual_projection.weight", Same), ("visual.proj", Transposed)),
];

/// CLIP's text transformer.
#[rustfmt::skip]
pub(super) const CLIP_TEXT: &[Row] = &[
    Row("tokens.weight", ("text_model.embeddings.token_embedding.weight", Same), ("token_embedding.weight", Same)),
    Row("positions.weight", ("text_model.embeddings.position_embedding.weight", Same), ("positional_embedding", Same)),
    Row("blocks.{}.ln_1.*", ("text_model.encoder.layers.{}.layer_norm1.*", Same), ("transformer.resblocks.{}.ln_1.*", Same)),
    Row("blocks.{}.qkv.weight", ("text_model.encoder.layers.{}.self_attn.?_proj.weight", Thirds), ("transformer.resblocks.{}.attn.in_proj_weight", Same)),
    Row("blocks.{}.qkv.bias", ("text_model.encoder.layers.{}.self_attn.?_proj.bias", Thirds), ("transformer.resblocks.{}.attn.in_proj_bias", Same)),
    Row("blocks.{}.out.*", ("text_model.encoder.layers.{}.self_attn.out_proj.*", Same), ("transformer.resblocks.{}.attn.out_proj.*", Same)),
    Row("blocks.{}.ln_2.*", ("text_model.encoder.layers.{}.layer_norm2.*", Same), ("transformer.resblocks.{}.ln_2.*", Same)),
    Row("blocks.{}.fc.*", ("text_model.encoder.layers.{}.mlp.fc1.*", Same), ("transformer.resblocks.{}.mlp.c_fc.*", Same)),
    Row("blocks.{}.proj.*", ("text_model.encoder.layers.{}.mlp.fc2.*", Same), ("transformer.resblocks.{}.mlp.c_proj.*", Same)),
    Row("ln_final.*", ("text_model.final_layer_norm.*", Same), ("ln_final.*", Same)),
    Row("proj.weight", ("text_projection.weight", Same), ("text_projection", Transposed)),
];

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
            Some(parts) if parts.len() == 3 => {
                let names = ["q", "k", "v"].map(|letter| theirs.replace('?', letter));
                out.extend(names.into_iter().zip(parts));
            }
            Some(parts) => out.extend(std::iter::once(theirs).zip(parts)),
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

/// `None` when the shape is another than the tensor of this kind has.
fn stored(tensor: HostTensor, how: How) -> Option<Vec<HostTensor>> {
    let HostTensor { shape, data } = tensor;
    Some(match how {
        Same => vec![HostTensor { shape, data }],
        Transposed => {
            let &[rows, cols] = shape.as_slice() else { return None };
            vec![HostTensor {
                shape: vec![cols, rows],
                data: transpose(&data, rows, cols),
            }]
        }
        Kernel => {
            let &[out, columns] = shape.as_slice() else { return None };
            let side = (columns / 3).isqrt();
            if side * side * 3 != columns || columns == 0 {
                return None;
            }
            let filters = data.chunks_exact(columns);
            vec![HostTensor {
                shape: vec![out, 3, side, side],
                data: filters.flat_map(|filter| transpose(filter, side * side, 3)).collect(),
            }]
        }
        Thirds => {
            let (&rows, rest) = shape.split_first()?;
            if rows == 0 || rows % 3 != 0 {
                return None;
            }
            let shape = [&[rows / 3], rest].concat();
            let parts = data.chunks_exact(data.len() / 3);
            parts
                .map(|part| HostTensor {
                    shape: shape.clone(),
                    data: part.to_vec(),
                })
                .collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_match_is_listed() {
        let one = HostTensor {
            shape: vec![4],
            data: vec![0.0; 4],
        };
        let names = ["class", "positions", "extra", "ln_pre.weight", "blocks.0.qkv.bias"];
        let own = names.map(|name| (name.to_owned(), one.clone())).into();
        let unmatched = renamed(own, &CLIP_VIT[1..4], Whose::HuggingFace).unwrap_err();
        assert_eq!(unmatched.without_row, ["blocks.0.qkv.bias", "extra"]);
        assert_eq!(unmatched.without_tensor, ["ln_pre.bias"]);
        let own = [("blocks.3.qkv.bias".to_owned(), one)].into();
        let unmatched = renamed(own, &CLIP_VIT[6..7], Whose::HuggingFace).unwrap_err();
        assert_eq!(unmatched.misshapen, ["blocks.3.qkv.bias"]);
    }
}
