//! Hidden layers of BERT and CLIP's text tower against transformers (scripts/fixtures/text_layers.py); those of language models are in
//! llm_folders.rs.

mod common;

use bifocal_models::text::{Bert, BertConfig, ClipText, ClipTextConfig, TextTower, TokenBatch};
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::values;
use common::{Numbers, assert_close, fixture};

fn check(name: &str, tower: &TextTower, texts: &[Vec<u32>]) {
    let expected = Numbers::open("text_layers.safetensors").get(name);
    let batch = TokenBatch::pack(texts);
    let layers = tower.layers();
    let size = expected.len() / (layers + 1);
    for (i, states) in expected.chunks_exact(size).enumerate() {
        let found = values(tower.hidden_at(&batch, i));
        assert_close(&found, states, 5e-5, &format!("{name} layer {i}"));
    }
}

#[test]
fn layers_of_bert_equal_those_of_transformers() {
    let config = BertConfig {
        vocabulary: 40,
        positions: 16,
        token_types: 2,
        width: 24,
        layers: 2,
        heads: 3,
        mlp: 40,
        eps: 1e-12,
    };
    let source = SafeTensors::open(&fixture("tiny-bert/model.safetensors")).unwrap();
    let tower = TextTower::Bert(Bert::load(config, &source).unwrap());
    let long = vec![2, 3, 8, 21, 39, 0, 11, 12, 13, 14, 3];
    check("bert", &tower, &[vec![2, 5, 9, 30, 3], vec![7], long]);
}

#[test]
fn layers_of_clip_equal_those_of_transformers() {
    let stack = StackConfig::new(16, 2, 2, 40, Gelu::Quick);
    let config = ClipTextConfig::clip(49, 11, 10, stack);
    let source = SafeTensors::open(&fixture("clip-hugging-face/model.safetensors")).unwrap();
    let tower = TextTower::Clip(ClipText::load(config, &source).unwrap());
    let long = [vec![47], (0..9).collect(), vec![48]].concat();
    check("clip", &tower, &[vec![47, 3, 9, 48], vec![47, 48], long, vec![48]]);
}
