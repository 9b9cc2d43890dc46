//! Learning rates that fall from a tower's last layer to its first (Clark et al. 2020, ELECTRA; BEiT).

use std::collections::BTreeMap;

/// Parts of a tower that turn its input into rows. `stem` is that of convolutional towers.
const EMBEDDINGS: [&str; 6] = ["patches", "positions", "tokens", "words", "types", "stem"];
/// What is learnt beside them and stands among the rows.
const SPECIAL: [&str; 2] = ["class", "registers"];

/// The factor of the learning rate of each of a tower's parameters: `decay^(L + 1 - id)` for L blocks.
///
/// Embeddings of patches, tokens and positions (and the stem of a convolutional tower) have id 0, block k, counted from 0, has k + 1, all else
/// (norms outside of blocks, pooling, projections) has L + 1. The adapters of a block ([`crate::lora`]) learn with the block.
///
/// `class_is_embedding` says whether the class token (and registers) has id 0 too. LLM2CLIP's code does not list it there, so that it learns with
/// factor 1; BEiT's and timm's do.
///
/// `names` are those of one tower, with or without something before them (`vision.blocks.0.qkv.weight`).
pub fn layer_decay<'a>(
    names: impl IntoIterator<Item = &'a str>,
    decay: f64,
    class_is_embedding: bool,
) -> BTreeMap<String, f64> {
    let names: Vec<&str> = names.into_iter().collect();
    let layers = names.iter().filter_map(|name| block(name)).map(|k| k + 1).max();
    let layers = layers.unwrap_or(0);
    let has = |name: &str, parts: &[&str]| name.split('.').any(|part| parts.contains(&part));
    let convolutional = names.iter().any(|name| has(name, &["stem"]));
    let id = |name: &str| match block(name) {
        Some(k) => k + 1,
        // a residual network has positions where it pools, at its end
        None if convolutional && has(name, &["positions"]) => layers + 1,
        None if has(name, &EMBEDDINGS) || class_is_embedding && has(name, &SPECIAL) => 0,
        None => layers + 1,
    };
    let factor = |name: &str| decay.powi(i32::try_from(layers + 1 - id(name)).unwrap_or(i32::MAX));
    names.into_iter().map(|name| (name.to_owned(), factor(name))).collect()
}

/// The number of the block that a parameter belongs to: what follows the first `blocks`.
fn block(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    parts.find(|&part| part == "blocks")?;
    // no tower has so many, and what is added to it must not overflow
    parts.next()?.parse().ok().filter(|&k: &usize| k < 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[(&str, i32)], class_is_embedding: bool) {
        let found = layer_decay(names.iter().map(|n| n.0), 0.85, class_is_embedding);
        assert_eq!(found.len(), names.len());
        for &(name, power) in names {
            assert_eq!(found[name], 0.85f64.powi(power), "{name}");
        }
    }

    #[test]
    fn a_vision_transformer() {
        let mut names = vec![
            ("vision.patches.weight", 4),
            ("vision.positions", 4),
            ("vision.class", 0),
            ("vision.ln_pre.weight", 0),
            ("vision.blocks.0.qkv.weight", 3),
            ("vision.blocks.0.qkv.lora.v.a", 3),
            ("vision.blocks.2.proj.bias", 1),
            ("vision.blocks.1.ln_1.bias", 2),
            ("vision.ln_post.bias", 0),
            ("vision.proj.weight", 0),
        ];
        check(&names, false);
        names[2].1 = 4;
        check(&names, true);
    }

    #[test]
    fn text_towers() {
        let clip = [
            ("tokens.weight", 3),
            ("positions.weight", 3),
            ("blocks.1.fc.weight", 1),
            ("blocks.0.fc.weight", 2),
            ("ln_final.weight", 0),
        ];
        check(&clip, false);
        let bert = [
            ("text.words.weight", 2),
            ("text.types.weight", 2),
            ("text.norm.weight", 0),
            ("text.blocks.0.ln_1.weight", 1),
            ("text.dense.0.linear.weight", 0),
        ];
        check(&bert, false);
        let llm = [
            ("text.blocks.0.attn_norm.weight", 2),
            ("text.blocks.1.down.weight", 1),
            ("text.norm.weight", 0),
            ("text.latent.query.weight", 0),
        ];
        check(&llm, false);
    }

    #[test]
    fn convolutional_towers() {
        let efficientnet = [
            ("vision.stem.weight", 3),
            ("vision.blocks.0.depthwise.weight", 2),
            ("vision.blocks.1.expand.weight", 1),
            ("vision.head.weight", 0),
        ];
        check(&efficientnet, false);
        let resnet = [
            ("stem.0.weight", 2),
            ("blocks.0.reduce.weight", 1),
            ("positions", 0),
            ("qkv.weight", 0),
        ];
        check(&resnet, false);
    }

    #[test]
    fn hostile_names_and_none() {
        check(
            &[("blocks.99999999999999999999.weight", 0), ("blocks", 0), ("", 0)],
            false,
        );
        assert!(layer_decay([], 0.5, false).is_empty());
        let found = layer_decay(["x.blocks.4611686018427387904.y"], 0.5, false);
        assert_eq!(found.len(), 1);
    }
}
