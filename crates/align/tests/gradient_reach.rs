//! Each parameter that is meant to learn gets a gradient that is not zero, and no other gets one.

mod common;

use bifocal_align::batch::{Batch, Images, Texts};
use bifocal_align::losses::Positives;
use bifocal_align::methods::{self, Step};
use bifocal_align::train::plan::Plan;
use bifocal_models::text::{ClipText, Pooling, TextTower, TokenBatch};
use bifocal_models::towers::Towers;
use bifocal_models::vision::{ImageBatch, VisionTower, Vit};
use bifocal_nn::engine::tensor;
use bifocal_nn::init::Rng;
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;

/// Parameters of a method's stage that learn but are not reached, and that are reached but must not be.
fn unreached_and_wrongly_reached(method: &str) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = common::recipe(
        method,
        dir.path(),
        dir.path(),
        &["image_head.dropout=0", "image_head.input_dropout=0"],
    );
    let mut rng = Rng::new(3);
    let source = common::MadeUp::new(5);
    let vision = VisionTower::Vit(Vit::load(common::vision_config(), &source).unwrap());
    let text = TextTower::Clip(ClipText::load(common::text_config(), &source).unwrap());
    let image_head = recipe.image_head.config(8).build(vision.dim(), &mut rng).unwrap();
    let text_head = recipe.text_head.config(8).build(text.dim(), &mut rng).unwrap();
    let bias = (method == "sail").then_some(-10.0);
    let mut towers = Towers::new(Some(vision), Some(text), image_head, text_head, 2.0, bias);

    // which variant of an enum a tower is does not show in its names
    let names = params::list(&towers);
    assert!(
        names.iter().any(|p| p.name == "vision.blocks.0.qkv.weight"),
        "{names:?}"
    );

    let built = (methods::find(method).unwrap().build)(&recipe);
    let stage = built.stages().remove(0);
    let plan = Plan::new(&params::list(&towers), &stage.rules, &recipe.optimizer).unwrap();
    towers = params::set_trainable(towers, |name| plan.learns(name));

    // every id and every position comes up, so that whole tables are reached
    let n = 4;
    let texts: Vec<Vec<u32>> = (0..2 * n)
        .map(|i| (0..24).map(|k| ((i * 24 + k) % common::VOCABULARY) as u32).collect())
        .collect();
    let pixels = (0..n * common::SIDE * common::SIDE * 3).map(|_| rng.normal()).collect();
    let images = ImageBatch::square(pixels, n, common::SIDE).unwrap();
    let tokens = TokenBatch::pack(&texts);
    let batch = Batch {
        images: match plan.learns_below("vision.") {
            true => Images::Pixels(images),
            false => Images::Features(towers.vision.as_ref().unwrap().embed(&images)),
        },
        texts: match plan.learns_below("text.") {
            true => Texts::Tokens(tokens, Pooling::Eos),
            false => Texts::Features(towers.text.as_ref().unwrap().embed(&tokens, Pooling::Eos)),
        },
        positives: Positives::new(n, (0..2 * n).map(|j| j % n).collect()).unwrap(),
    };
    let mut step = Step {
        index: 0,
        rng: Rng::new(1),
    };
    let loss = built.forward(&towers, &batch, &mut step).unwrap();
    let grads = Gradients::collect(&towers, loss.total.backward());
    let reached: Vec<String> = grads
        .reach()
        .filter(|(_, largest)| *largest > 0.0)
        .map(|(name, _)| name.to_owned())
        .collect();
    let all = params::list(&towers);
    assert!(all.len() > 60, "the towers are there");
    assert!(plan.names().count() > 5, "something learns");
    let unreached = plan
        .names()
        .filter(|name| !reached.iter().any(|r| r == name))
        .map(str::to_owned)
        .collect();
    let wrongly = reached.iter().filter(|name| !plan.learns(name)).cloned().collect();
    (unreached, wrongly)
}

#[test]
fn clip_reaches_both_towers_and_heads() {
    let (unreached, wrongly) = unreached_and_wrongly_reached("clip");
    assert_eq!((unreached, wrongly), (vec![], vec![]));
}

#[test]
fn sail_reaches_its_heads_only() {
    let (unreached, wrongly) = unreached_and_wrongly_reached("sail");
    assert_eq!((unreached, wrongly), (vec![], vec![]));
}

#[test]
fn llm2clip_reaches_the_vision_tower_and_the_adaptor() {
    let (unreached, wrongly) = unreached_and_wrongly_reached("llm2clip");
    assert_eq!((unreached, wrongly), (vec![], vec![]));
}

#[test]
fn what_is_constant_to_the_loss_is_found_out() {
    // The test above can fail: a bias that a softmax cannot feel is not reached.
    let x = || tensor(vec![1.0, 0.0, 0.0, 1.0], [2, 2]);
    let bias = tensor(vec![0.5], [1]).autodiff().require_grad();
    let logits = x() + bias.clone().reshape([1, 1]);
    let loss = burn::tensor::activation::log_softmax(logits, 1).sum();
    let grads = loss.backward();
    let grad = bias.grad(&grads).map(bifocal_nn::engine::values).unwrap();
    assert!(grad[0].abs() < 1e-6);
}
