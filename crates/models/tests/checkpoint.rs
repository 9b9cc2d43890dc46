//! Towers whose blocks drop their activations: the gradients are those of towers that keep them, to the bit.

mod common;

use bifocal_models::text::{Attention, ClipText, ClipTextConfig, Llm, Pooling, TextTower, TokenBatch};
use bifocal_models::vision::{ImageBatch, Vit, VitConfig, VitFamily};
use bifocal_models::weights::gguf::Gguf;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::tensor;
use bifocal_nn::init::Rng;
use bifocal_nn::optim::Gradients;
use bifocal_nn::{Module, Tensor, checkpoint, params};
use common::fixture;

fn gradients<M: Module>(tower: &M, dropping: bool, forward: impl Fn(&M) -> Tensor<2>) -> Vec<(String, Vec<f32>)> {
    let y = checkpoint::scope(dropping, || forward(tower));
    let [n, c] = y.dims();
    let mut rng = Rng::new(2);
    let direction = tensor((0..n * c).map(|_| rng.normal()).collect(), [n, c]);
    let found = Gradients::collect(tower, (y * direction).sum().backward());
    let all = params::list(tower).into_iter().map(|info| info.name);
    all.filter_map(|name| Some((found.get(&name)?.to_vec(), name)))
        .map(|(grad, name)| (name, grad))
        .collect()
}

/// All parameters, a part of those of each block, and those of the last block alone.
fn check<M: Module>(tower: M, forward: impl Fn(&M) -> Tensor<2> + Copy) {
    let part = |name: &str| name.contains("qkv") || name.contains("q_norm");
    let last = |name: &str| name.contains("blocks.1.");
    for learns in [&(|_: &str| true) as &dyn Fn(&str) -> bool, &part, &last] {
        let tower = params::set_trainable(tower.clone(), learns);
        let plain = gradients(&tower, false, forward);
        assert!(plain.iter().any(|(_, grad)| grad.iter().any(|&g| g != 0.0)));
        let dropping = gradients(&tower, true, forward);
        assert_eq!(plain.len(), dropping.len());
        for ((name, grad), (_, again)) in plain.iter().zip(&dropping) {
            assert!(grad == again, "{name}");
        }
    }
}

#[test]
fn vision_transformers() {
    let mut rng = Rng::new(4);
    let pixels = (0..3 * 20 * 20 * 3).map(|_| rng.normal()).collect();
    let images = ImageBatch::square(pixels, 3, 20).unwrap();
    let stack = StackConfig::new(24, 2, 3, 48, Gelu::Erf);
    let clip = VitConfig::clip(20, 5, 10, stack.clone());
    // with rotated positions, norms inside of the halves, and gates
    let eva = VitConfig {
        family: VitFamily::Eva02,
        ..VitConfig::clip(
            20,
            5,
            10,
            StackConfig {
                swiglu: true,
                sub_norms: true,
                layer_scale: true,
                ..stack
            },
        )
    };
    for config in [clip, eva] {
        check(Vit::new(config, &mut Rng::new(3)), |tower| tower.embed(&images));
    }
}

#[test]
fn text_towers_of_clip() {
    let config = ClipTextConfig::clip(49, 11, 10, StackConfig::new(16, 2, 2, 64, Gelu::Quick));
    let texts = TokenBatch::pack(&[vec![47, 3, 9, 48], vec![47, 48], vec![48]]);
    check(TextTower::Clip(ClipText::new(config, &mut Rng::new(3))), |tower| {
        tower.embed(&texts, Pooling::Eos)
    });
}

#[test]
fn language_models() {
    let texts = TokenBatch::pack(&[vec![3, 9, 7, 5], vec![4]]);
    for name in ["tiny-llama.gguf", "tiny-qwen3.gguf", "tiny-gemma3.gguf"] {
        let gguf = Gguf::open(&fixture(name)).unwrap();
        let llm = Llm::from_gguf(&gguf, Attention::Causal).unwrap();
        check(llm, |llm| llm.hidden(&texts));
    }
}
