//! Adapters of low rank on towers: peft's numbers (scripts/fixtures/lora.py), how many parameters they are, and that they reach every linear layer.

mod common;

use std::collections::BTreeMap;

use bifocal_models::open::open_vision;
use bifocal_models::text::{
    Attention, Bert, BertConfig, ClipText, ClipTextConfig, Llm, Pooling, TextTower, TokenBatch,
};
use bifocal_models::vision::{ImageBatch, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::weights::gguf::Gguf;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::lora::{self, Fold, LoraConfig};
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::optim::Gradients;
use bifocal_nn::{Module, Param, Tensor, params};
use common::{Numbers, assert_close, fixture};

const PEFT: LoraConfig = LoraConfig {
    rank: 3,
    alpha: 7.5,
    dropout: 0.1,
};

fn attach<M: Module>(module: M, config: &LoraConfig, matches: impl Fn(&str) -> bool) -> M {
    let (module, count) = lora::attach(module, config, matches, 1).expect("the configuration is fine");
    assert!(count > 0);
    module
}

/// Values for all adapters by name.
fn fill<M: Module>(module: M, mut find: impl FnMut(&str, usize) -> Vec<f32>) -> M {
    let filled = params::load(module, |name, shape| {
        let adapter = name.contains("lora").then(|| find(name, shape.iter().product()));
        Ok::<_, std::fmt::Error>(adapter)
    });
    filled.expect("shapes fit")
}

/// Gradients of the output times a direction, and the output.
fn backward<M: Module>(module: &M, y: Tensor<2>, direction: Vec<f32>) -> (Gradients, Vec<f32>) {
    let dims = y.dims();
    let loss = (y.clone() * tensor(direction, dims)).sum();
    (Gradients::collect(module, loss.backward()), values(y))
}

#[test]
fn a_linear_layer_is_pefts() {
    let numbers = Numbers::open("lora.safetensors");
    let of = |name: &str| numbers.get(&format!("linear.{name}"));
    let layer = Linear::from_params(
        Param::from_tensor(tensor(of("weight"), [5, 7])),
        Some(Param::from_tensor(tensor(of("bias"), [5]))),
    );
    let layer = attach(layer, &PEFT, |_| true);
    let letter = |name: &str| if name == "lora.a" { "0.lora_A" } else { "0.lora_B" };
    let layer = fill(layer, |name, _| of(letter(name)));
    let layer = params::set_trainable(layer, |name| name.contains("lora"));
    let (grads, y) = backward(&layer, layer.forward(tensor(of("x"), [11, 7])), of("direction"));
    assert_close(&y, &of("y"), 1e-5, "output");
    for name in ["lora.a", "lora.b"] {
        let found = grads.get(name).expect("it learns");
        assert_close(&found, &of(&format!("grad.{}", letter(name))), 1e-5, name);
    }
    let (merged, _) = lora::merge(layer, Fold::default());
    assert_close(&values(merged.weight.val()), &of("merged"), 1e-6, "merged");
}

/// `blocks.0.qkv.lora.v.a` → `layers.0.self_attn.v_proj.lora_A`.
fn peft_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let (layer, part) = match parts[2..] {
        ["qkv", _, part, _] => (format!("self_attn.{part}_proj"), parts[5]),
        ["gate_up", _, part, _] => (format!("mlp.{part}_proj"), parts[5]),
        ["out", ..] => ("self_attn.o_proj".to_owned(), parts[4]),
        _ => ("mlp.down_proj".to_owned(), parts[4]),
    };
    format!("layers.{}.{layer}.lora_{}", parts[1], part.to_uppercase())
}

#[test]
fn a_language_model_is_pefts() {
    let numbers = Numbers::open("lora.safetensors");
    let texts = TokenBatch::pack(&[
        vec![1, 5, 9, 30, 2, 17],
        vec![7],
        vec![3, 3, 8, 21, 39, 0, 11, 12, 13, 14, 15, 16, 20],
    ]);
    for (name, attention) in [
        ("causal", Attention::Causal),
        ("bidirectional", Attention::Bidirectional),
    ] {
        let path = fixture("llm/llama");
        let options = bifocal_models::open::TextOptions {
            attention: Some(attention),
            ..Default::default()
        };
        let TextTower::Llm(model) = bifocal_models::open::open_text(&path, &options).unwrap().tower else {
            panic!("a Llama is a language model");
        };
        let model = attach(model, &PEFT, |_| true);
        let model = fill(model, |name, _| numbers.get(&format!("llama.{}", peft_name(name))));
        let model = params::set_trainable(model, |name| name.contains("lora"));
        let of = |part: &str| numbers.get(&format!("llama.{name}.{part}"));
        let (grads, y) = backward(&model, model.hidden(&texts), of("direction"));
        assert_close(&y, &of("y"), 1e-5, name);
        let mut count = 0;
        for (ours, _) in grads.reach() {
            let found = grads.get(ours).expect("it has one");
            let expected = of(&format!("grad.{}", peft_name(ours)));
            let largest = expected.iter().fold(1f32, |m, x| m.max(x.abs()));
            assert_close(&found, &expected, 1e-5 * largest, ours);
            count += 1;
        }
        assert_eq!(count, 2 * 7 * 2);
    }
}

fn parameters<M: Module>(module: &M, count: impl Fn(&str) -> bool) -> usize {
    let all = params::list(module).into_iter().filter(|p| count(&p.name));
    all.map(|p| p.shape.iter().product::<usize>()).sum()
}

/// CLIP ViT-B/16 with rank 16 on both towers: the counts that papers give for what they adapt.
#[test]
fn parameters_are_as_many_as_published() {
    let vision = VitConfig::clip(224, 16, 512, StackConfig::new(768, 1, 12, 3072, Gelu::Quick));
    // one block of twelve; the vocabulary does not count
    let text = ClipTextConfig::clip(8, 77, 512, StackConfig::new(512, 1, 8, 2048, Gelu::Quick));
    let vision = Vit::new(vision, &mut Rng::new(1));
    let text = ClipText::new(text, &mut Rng::new(1));
    let config = LoraConfig {
        rank: 16,
        alpha: 32.0,
        dropout: 0.1,
    };
    let cases: [(&[&str], usize); 7] = [
        (&["qkv.q", "qkv.v"], 983_040),
        (&["qkv.q", "qkv.k", "qkv.v", "out"], 1_966_080),
        (&["qkv.q", "qkv.v", "fc", "proj"], 3_440_640),
        (&["qkv.q", "qkv.v", "out", "fc", "proj"], 3_932_160),
        // packed as one
        (&["qkv", "out", "fc", "proj"], 3_932_160),
        (&["qkv.q", "qkv.k", "qkv.v", "out", "fc", "proj"], 4_423_680),
        (&["blocks.0.out"], 12 * 16 * 2 * (768 + 512)),
    ];
    for (wanted, expected) in cases {
        let matches = |name: &str| {
            name.contains("blocks.") && wanted.iter().any(|w| name.ends_with(&format!(".{w}")) || name == *w)
        };
        let lora = |name: &str| name.contains(".lora.");
        let vision = parameters(&attach(vision.clone(), &config, matches), lora);
        let text = parameters(&attach(text.clone(), &config, matches), lora);
        assert_eq!(12 * (vision + text), expected, "{wanted:?}");
    }
}

/// Attaches adapters to all linear layers, and says what of them the gradient of the output does not reach. With that, the names of layers without any.
fn unreached<M: Module>(tower: M, embed: impl Fn(&M) -> Tensor<2>) -> Vec<String> {
    let mut rng = Rng::new(4);
    let tower = fill(attach(tower, &PEFT, |_| true), |_, n| {
        (0..n).map(|_| 0.3 * rng.normal()).collect()
    });
    let tower = params::set_trainable(tower, |name| name.contains("lora"));
    let frozen = |name: &String| name.contains("lora");
    let plain = values(embed(&params::set_trainable(tower.clone(), |_| false)));
    let y = embed(&tower);
    assert_close(&values(y.clone()), &plain, 1e-5, "recorded or not");
    // merged, it is the same tower
    let (merged, _) = lora::merge(tower.clone(), Fold::default());
    let largest = plain.iter().fold(1f32, |m, x| m.max(x.abs()));
    assert_close(&values(embed(&merged)), &plain, 2e-4 * largest, "merged");
    common::unreached(&tower, y).into_iter().filter(frozen).collect()
}

fn pictures(n: usize, side: usize) -> ImageBatch {
    let mut rng = Rng::new(1);
    let pixels = (0..n * side * side * 3).map(|_| rng.normal()).collect();
    ImageBatch::square(pixels, n, side).unwrap()
}

#[test]
fn adapters_reach_every_linear_layer_of_vision_towers() {
    let folders = [
        "clip-hugging-face",
        "siglip-vision",
        "dinov2",
        "dinov2-registers",
        "resnet-open-clip",
    ];
    for folder in folders {
        let encoder = open_vision(&fixture(folder)).unwrap();
        let images = pictures(2, encoder.preprocess.size as usize);
        let found = unreached(encoder.tower, |tower| tower.embed(&images));
        assert_eq!(found, Vec::<String>::new(), "{folder}");
    }
    let stack = StackConfig {
        eps: 1e-6,
        swiglu: true,
        sub_norms: true,
        ..StackConfig::new(24, 2, 3, 64, Gelu::Erf)
    };
    let config = VitConfig {
        family: VitFamily::Eva02,
        ..VitConfig::clip(20, 5, 10, stack)
    };
    let tower = Vit::new(config, &mut Rng::new(1));
    let names: Vec<String> = params::list(&attach(tower.clone(), &PEFT, |_| true))
        .into_iter()
        .map(|p| p.name)
        .collect();
    assert!(names.contains(&"blocks.1.fc.lora.gate.a".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("patches.lora")));
    assert_eq!(
        unreached(tower, |tower| tower.embed(&pictures(2, 20))),
        Vec::<String>::new()
    );
}

fn texts() -> TokenBatch {
    TokenBatch::pack(&[vec![1, 5, 9, 30, 2, 17], vec![7, 3], vec![3, 3, 8, 21, 39, 0, 11]])
}

#[test]
fn adapters_reach_every_linear_layer_of_text_towers() {
    let check = |tower: TextTower, pooling: Pooling, what: &str| {
        let found = unreached(tower, |tower| tower.embed(&texts(), pooling));
        assert_eq!(found, Vec::<String>::new(), "{what}");
    };
    for name in ["llama", "gemma3", "qwen2", "qwen3"] {
        let gguf = Gguf::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap();
        check(
            TextTower::Llm(Llm::from_gguf(&gguf, Attention::Causal).unwrap()),
            Pooling::Mean,
            name,
        );
    }
    let options = Default::default();
    let nv = bifocal_models::open::open_text(&fixture("llm/nv-embed"), &options).unwrap();
    check(nv.tower, Pooling::Mean, "nv-embed");
    let labse = bifocal_models::open::open_text(&fixture("sentence/labse"), &options).unwrap();
    check(labse.tower, labse.pooling, "labse");
    check(clip_text(), Pooling::Eos, "clip");
    let bert = BertConfig {
        vocabulary: 40,
        positions: 16,
        token_types: 2,
        width: 24,
        layers: 2,
        heads: 3,
        mlp: 48,
        eps: 1e-6,
    };
    check(
        TextTower::Bert(Bert::new(bert, &mut Rng::new(1))),
        Pooling::Mean,
        "bert",
    );
}

fn clip_text() -> TextTower {
    let config = ClipTextConfig::clip(40, 16, 10, StackConfig::new(24, 2, 3, 48, Gelu::Quick));
    TextTower::Clip(ClipText::new(config, &mut Rng::new(1)))
}

/// The same masks whether a batch is run whole or in parts: in tokens, and, after pooling, in items.
#[test]
fn micro_batches_drop_what_the_batch_does() {
    let config = LoraConfig { dropout: 0.4, ..PEFT };
    let mut rng = Rng::new(4);
    let mut ready = |tower| fill_any(attach(tower, &config, |_| true), &mut rng);
    let seed = Noise::new(77);

    let tower = ready(Either::Text(clip_text()));
    let batches: [&[Vec<u32>]; 2] = [&[vec![1, 5, 9], vec![7, 2]], &[vec![3, 3, 8, 21], vec![9]]];
    let run = |texts: &[Vec<u32>], tokens: usize, items: usize| {
        let Either::Text(tower) = &tower else { unreachable!() };
        let batch = TokenBatch::pack(texts);
        values(noise::scope(seed.after(tokens, items), || {
            tower.embed(&batch, Pooling::Eos)
        }))
    };
    let whole = run(&batches.concat(), 0, 0);
    let parts = [run(batches[0], 0, 0), run(batches[1], 5, 2)].concat();
    assert_close(&parts, &whole, 1e-5, "texts");
    let wrong = [run(batches[0], 0, 0), run(batches[1], 0, 0)].concat();
    assert!(wrong.iter().zip(&whole).any(|(a, b)| (a - b).abs() > 1e-2));

    for folder in ["clip-hugging-face", "siglip-vision", "resnet-open-clip"] {
        let encoder = open_vision(&fixture(folder)).unwrap();
        let side = encoder.preprocess.size as usize;
        let all = pictures(3, side);
        let pixels = values(all.pixels.clone());
        let cut = side * side * 3;
        let tower = ready(Either::Vision(encoder.tower));
        let Either::Vision(tower) = &tower else { unreachable!() };
        let tokens = tower.tokens(&all) / 3;
        if let Some(rows) = tower.hidden(&all, 0) {
            assert_eq!(rows.dims()[0], 3 * tokens);
        }
        let run = |images: &ImageBatch, before: usize| {
            let noise = seed.after(before * tokens, before);
            values(noise::scope(noise, || tower.embed(images)))
        };
        let part = |range: std::ops::Range<usize>| {
            let pixels = pixels[range.start * cut..range.end * cut].to_vec();
            ImageBatch::square(pixels, range.len(), side).unwrap()
        };
        let parts = [run(&part(0..1), 0), run(&part(1..3), 1)].concat();
        let whole = run(&all, 0);
        let largest = whole.iter().fold(1f32, |m, x| m.max(x.abs()));
        assert_close(&parts, &whole, 1e-5 * largest, folder);
        let evaluated = values(tower.embed(&all));
        assert!(
            evaluated.iter().zip(&whole).any(|(a, b)| (a - b).abs() > 1e-2),
            "{folder}: nothing was dropped"
        );
    }
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
enum Either {
    Text(TextTower),
    Vision(VisionTower),
}

fn fill_any(module: Either, rng: &mut Rng) -> Either {
    fill(module, |_, n| (0..n).map(|_| 0.2 * rng.normal()).collect())
}

/// A tower whose adapters learnt and were merged is saved and read as any other.
#[test]
fn a_merged_tower_is_a_tower() {
    let tower = clip_text();
    let before: Vec<String> = tower.tensors().into_keys().collect();
    let adapted = attach(tower, &PEFT, |name| name.ends_with("qkv.v"));
    let (merged, _) = lora::merge(adapted, Fold::default());
    let tensors: BTreeMap<_, _> = merged.tensors();
    assert_eq!(tensors.keys().cloned().collect::<Vec<_>>(), before);
}
