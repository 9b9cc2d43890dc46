//! Each parameter that is meant to learn gets a gradient that is not zero, and no other gets one.

mod common;

use bifocal_align::batch::{Batch, Images, Texts, Tokens};
use bifocal_align::losses::Positives;
use bifocal_align::methods::{self, METHODS};
use bifocal_align::recipe::{HeadKind, LossKind};
use bifocal_align::train::plan::Plan;
use bifocal_models::adapter::HeadConfig;
use bifocal_models::text::{ClipText, Pooling, TextTower, TokenBatch};
use bifocal_models::towers::{Teacher, Towers};
use bifocal_models::vision::{ImageBatch, VisionTower, Vit};
use bifocal_nn::engine::tensor;
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::lora::{self, LoraConfig};
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;

/// Parameters of a stage that learn but are not reached, and that are reached but must not be.
fn unreached_and_wrongly_reached(method: &str, stage: &str) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "image_head.dropout=0",
        "image_head.input_dropout=0",
        "text_head.dropout=0",
        "stage.STAGE.skip=false",
        "image_head.pretrained=false",
    ]
    .map(|set| set.replace("STAGE", stage));
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let recipe = common::recipe(method, dir.path(), dir.path(), &sets);
    let (stage, recipe) = methods::stages(&recipe)
        .unwrap()
        .into_iter()
        .find(|(found, _)| found.name == stage)
        .unwrap();
    let mut rng = Rng::new(3);
    let source = common::MadeUp::new(5);
    let vision = VisionTower::Vit(Vit::load(common::vision_config(), &source).unwrap());
    let text = TextTower::Clip(ClipText::load(common::text_config(), &source).unwrap());
    let lora = LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout: 0.0,
    };
    let (mut vision, mut text, mut layers) = (vision, text, 0);
    if recipe.lora.rank > 0 {
        (text, layers) = lora::attach(text, &lora, |_| true, 1).unwrap();
    }
    if recipe.lora.rank > 0 && recipe.lora.targets.iter().any(|target| !target.starts_with("text.")) {
        vision = lora::attach(vision, &lora, |_| true, 2).unwrap().0;
    }
    let seen = match recipe.image_head.kind {
        HeadKind::Patches => vision.patch_width().unwrap(),
        _ => vision.dim(),
    };
    let image_head = recipe
        .image_head
        .config(recipe.embed_dim)
        .build(seen, &mut rng)
        .unwrap();
    let text_head = recipe
        .text_head
        .config(recipe.embed_dim)
        .build(text.dim(), &mut rng)
        .unwrap();
    let bias = (recipe.loss.kind == LossKind::Sigmoid).then_some(-10.0);
    let mut towers = Towers::new(Some(vision), Some(text), image_head, text_head, 2.0, bias);
    let through = |config: &HeadConfig| {
        let config = HeadConfig {
            width: Some(recipe.embed_dim),
            ..config.clone()
        };
        config.build(recipe.embed_dim, &mut rng).unwrap()
    };
    towers.projector = stage.projector.as_ref().map(through);

    // which variant of an enum a tower is does not show in its names
    let names = params::list(&towers);
    assert!(
        names.iter().any(|p| p.name == "vision.blocks.0.qkv.weight"),
        "{names:?}"
    );

    let learning: Vec<_> = names.into_iter().filter(|p| !p.name.contains(".running_")).collect();
    let plan = Plan::new(&learning, &stage.rules, &recipe.optimizer).unwrap();
    towers = params::set_trainable(towers, |name| plan.learns(name));
    if stage.keeps_teacher {
        let other = common::MadeUp::new(6);
        towers.teacher = Some(Teacher {
            vision: VisionTower::Vit(Vit::load(common::vision_config(), &other).unwrap()),
            image_head: params::set_trainable(towers.image_head.clone(), |_| false),
        });
    }

    // every id and every position comes up, so that whole tables are reached; second matrices of LoRA begin as zeros and hide the first
    if layers > 0 {
        let nudged = params::load(towers, |name, shape| {
            let random = || (0..shape.iter().product()).map(|_| 0.1 * rng.normal()).collect();
            Ok::<_, ()>(name.contains(".lora.").then(random))
        });
        towers = nudged.unwrap();
    }
    let n = 4;
    let tokens = |count: usize, from: usize| {
        let texts: Vec<Vec<u32>> = (0..count)
            .map(|i| {
                (0..24)
                    .map(|k| (((i + from) * 24 + k) % common::VOCABULARY) as u32)
                    .collect()
            })
            .collect();
        Texts::Tokens(Tokens {
            batch: TokenBatch::pack(&texts),
            pooling: Pooling::Eos,
            before: 0,
        })
    };
    let mut pixels = || {
        let pixels = (0..n * common::SIDE * common::SIDE * 3).map(|_| rng.normal()).collect();
        Some(Images::Pixels(ImageBatch::square(pixels, n, common::SIDE).unwrap()))
    };
    let (images, others) = (pixels(), pixels());
    let mut rows = |count: usize| Init::Normal(1.0).tensor([count, recipe.embed_dim], &mut rng);
    let reference = Batch {
        images: others,
        texts: Texts::Features(rows(n)),
        positives: Positives::diagonal(n),
        queries: None,
        negatives: None,
        teacher_images: Some(rows(n)),
        teacher_tokens: None,
        teacher_texts: None,
        reference: None,
        first: [0; 3],
    };
    let per = stage.needs.captions;
    let batch = Batch {
        images,
        texts: tokens(per * n, 0),
        positives: Positives::new(n, (0..per * n).map(|i| i / per).collect()).unwrap(),
        queries: Some(tokens(n, 3)),
        negatives: Some((tokens(n, 7), vec![1; n])),
        teacher_images: Some(rows(n)),
        teacher_tokens: None,
        teacher_texts: Some(rows(per * n)),
        reference: Some(Box::new(reference)),
        first: [0; 3],
    };
    let all = stage.objective.embed(&towers, &batch, 9).unwrap();
    let terms = stage.objective.loss(&towers, &all).unwrap();
    let grads = Gradients::collect(&towers, terms.total.backward());
    let reached: Vec<String> = grads
        .reach()
        .filter(|(_, largest)| *largest > 0.0)
        .map(|(name, _)| name.to_owned())
        .collect();
    let all = params::list(&towers);
    assert!(all.len() > 60, "the towers are there");
    assert!(plan.names().count() > 1, "something learns");
    let unreached = plan
        .names()
        .filter(|name| !reached.iter().any(|r| r == name))
        .map(str::to_owned)
        .collect();
    let wrongly = reached.iter().filter(|name| !plan.learns(name)).cloned().collect();
    (unreached, wrongly)
}

#[test]
fn each_stage_of_each_method_reaches_what_it_trains_and_nothing_else() {
    // those that talk need a language model: tests/llava.rs, tests/blip2.rs, tests/flamingo.rs, tests/unified.rs
    let talks = ["llava", "blip2", "flamingo", "unified"];
    for method in METHODS.iter().filter(|method| !talks.contains(&method.name)) {
        for stage in method.stages {
            let (mut unreached, wrongly) = unreached_and_wrongly_reached(method.name, stage);
            // FLAME takes patches before the tower's last norm and projection
            let passed_by = |name: &String| name.starts_with("vision.ln_post.") || name == "vision.proj.weight";
            unreached.retain(|name| method.name != "flame" || !passed_by(name));
            assert_eq!((unreached, wrongly), (vec![], vec![]), "{} {stage}", method.name);
        }
    }
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
