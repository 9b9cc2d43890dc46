//! Adapters of low rank: the layer against dense matrices, names, merging, dropout.

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::Activation;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::lora::{self, Fold, LoraConfig, LoraError, UnmergeError};
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::optim::Gradients;
use bifocal_nn::{Module, Tensor, composed, params};

const CONFIG: LoraConfig = LoraConfig {
    rank: 3,
    alpha: 4.5,
    dropout: 0.0,
};

#[derive(Module, Debug)]
struct Tower {
    blocks: Vec<Block>,
    proj: Linear,
}

#[derive(Module, Debug)]
struct Block {
    qkv: Linear,
    out: Linear,
}

fn tower() -> Tower {
    let mut rng = Rng::new(1);
    let mut block = || Block {
        qkv: Linear::new(10, 18, true, &mut rng).with_parts(&[("q", 10), ("k", 4), ("v", 4)]),
        out: Linear::new(10, 10, false, &mut rng),
    };
    let blocks = vec![block(), block()];
    let proj = Linear::new(10, 6, true, &mut rng);
    Tower { blocks, proj }
}

/// Adapters that are not zero.
fn filled<M: Module>(module: M) -> M {
    let mut rng = Rng::new(8);
    let filled = params::load(module, |name, shape| {
        let n = shape.iter().product();
        Ok::<_, std::fmt::Error>(name.contains("lora").then(|| (0..n).map(|_| rng.normal()).collect()))
    });
    filled.expect("shapes fit")
}

fn names<M: Module>(module: &M) -> Vec<String> {
    params::list(module).into_iter().map(|p| p.name).collect()
}

fn attach<M: Module>(module: M, matches: impl Fn(&str) -> bool) -> (M, usize) {
    lora::attach(module, &CONFIG, matches, 7).expect("the configuration is fine")
}

fn input(rows: usize) -> Tensor<2> {
    let mut rng = Rng::new(3);
    tensor((0..rows * 10).map(|_| rng.normal()).collect(), [rows, 10])
}

fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * (1.0 + b.abs()),
            "{what}[{i}]: {a} against {b}"
        );
    }
}

#[test]
fn names_say_layer_and_part() {
    let (all, count) = attach(tower(), |_| true);
    assert_eq!(count, 9);
    let block = |i: usize| {
        [
            "qkv.weight",
            "qkv.bias",
            "qkv.lora.q.a",
            "qkv.lora.q.b",
            "qkv.lora.k.a",
            "qkv.lora.k.b",
            "qkv.lora.v.a",
        ]
        .into_iter()
        .chain(["qkv.lora.v.b", "out.weight", "out.lora.a", "out.lora.b"])
        .map(move |name| format!("blocks.{i}.{name}"))
    };
    let proj = ["weight", "bias", "lora.a", "lora.b"].map(|name| format!("proj.{name}"));
    assert_eq!(names(&all), block(0).chain(block(1)).chain(proj).collect::<Vec<_>>());
    let shape = |name: &str| params::list(&all).into_iter().find(|p| p.name == name).map(|p| p.shape);
    assert_eq!(shape("blocks.1.qkv.lora.k.a"), Some(vec![3, 10]));
    assert_eq!(shape("blocks.1.qkv.lora.k.b"), Some(vec![4, 3]));

    let (some, count) = attach(tower(), |name| name == "blocks.1.qkv.v" || name == "proj");
    assert_eq!(count, 2);
    let adapters: Vec<_> = names(&some).into_iter().filter(|n| n.contains("lora")).collect();
    assert_eq!(
        adapters,
        [
            "blocks.1.qkv.lora.v.a",
            "blocks.1.qkv.lora.v.b",
            "proj.lora.a",
            "proj.lora.b"
        ]
    );

    // a layer as a whole, when none of its parts is wanted
    let (whole, count) = attach(tower(), |name| name.ends_with("qkv"));
    assert_eq!(count, 2);
    assert!(names(&whole).contains(&"blocks.0.qkv.lora.b".to_owned()));

    let (same, count) = attach(tower(), |name| name.contains("mlp"));
    assert_eq!((count, names(&same)), (0, names(&tower())));
    // what is there stays
    let before = values(some.proj.forward(input(4)));
    let (more, count) = attach(filled(some.clone()), |name| name == "proj" || name == "blocks.1.qkv.k");
    assert_eq!(count, 1);
    assert_eq!(values(attach(some, |n| n == "proj").0.proj.forward(input(4))), before);
    assert_ne!(values(more.proj.forward(input(4))), before);
}

#[test]
fn a_fresh_adapter_changes_nothing_and_begins_as_pytorch_does() {
    let plain = tower();
    let (fresh, _) = attach(tower(), |_| true);
    let x = input(9);
    assert_eq!(values(fresh.proj.forward(x.clone())), values(plain.proj.forward(x)));
    let bound = 1.0 / 10f32.sqrt();
    let mut largest = 0f32;
    params::visit(&fresh, |info, read| {
        if info.name.ends_with("lora.b") {
            assert!(read().iter().all(|&b| b == 0.0));
        }
        if info.name.ends_with(".a") {
            largest = read().iter().fold(largest, |m, a| m.max(a.abs()));
        }
    });
    assert!(largest <= bound && largest > 0.95 * bound, "{largest} within {bound}");
    let other = |seed| names_and_values(lora::attach(tower(), &CONFIG, |_| true, seed).expect("fine").0);
    assert_eq!(other(1), other(1));
    assert_ne!(other(1), other(2));
}

fn names_and_values<M: Module>(module: M) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    params::visit(&module, |info, read| all.push((info.name, read())));
    all
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let with = |config: LoraConfig| {
        lora::attach(tower(), &config, |_| true, 1)
            .map(|_| ())
            .expect_err("refused")
    };
    assert_eq!(with(LoraConfig { rank: 0, ..CONFIG }), LoraError::Rank(0));
    assert!(
        with(LoraConfig {
            rank: usize::MAX,
            ..CONFIG
        })
        .to_string()
        .contains("8 to 64")
    );
    assert!(matches!(
        with(LoraConfig {
            alpha: f32::NAN,
            ..CONFIG
        }),
        LoraError::Alpha(_)
    ));
    for dropout in [1.0, -0.1, f32::NAN] {
        assert!(matches!(with(LoraConfig { dropout, ..CONFIG }), LoraError::Dropout(_)));
    }
}

/// The effective weight of a layer, from its parameters by name.
fn dense(layer: &Linear) -> Tensor<2> {
    let all: std::collections::BTreeMap<_, _> = names_and_values(layer.clone()).into_iter().collect();
    let mut weight = all["weight"].clone();
    let parts = [("lora.", 0), ("lora.q.", 0), ("lora.k.", 10), ("lora.v.", 14)];
    for (part, first) in parts {
        let (Some(a), Some(b)) = (all.get(&format!("{part}a")), all.get(&format!("{part}b"))) else {
            continue;
        };
        for (row, b) in b.chunks(3).enumerate() {
            for column in 0..10 {
                let sum: f32 = (0..3).map(|k| b[k] * a[k * 10 + column]).sum();
                weight[(first + row) * 10 + column] += 1.5 * sum;
            }
        }
    }
    let rows = weight.len() / 10;
    tensor(weight, [rows, 10])
}

#[test]
fn the_layer_is_that_of_the_dense_matrix() {
    type Wanted = fn(&str) -> bool;
    let cases: [Wanted; 5] = [
        |_| true,
        |name| name.ends_with(".q"),
        |name| name.ends_with(".q") || name.ends_with(".v"),
        |name| name.ends_with(".k"),
        |name| name.ends_with("qkv"),
    ];
    for (case, wanted) in cases.into_iter().enumerate() {
        let layer = filled(attach(tower(), wanted).0).blocks.remove(0).qkv;
        let (weight, bias) = (dense(&layer), layer.bias.as_ref().map(|b| b.val()));
        let residual = input(9).repeat_dim(1, 2).slice([0..9, 0..18]);
        for act in [Activation::Identity, Activation::GeluErf, Activation::Relu] {
            for residual in [None, Some(residual.clone())] {
                let found = values(layer.fused(input(9), act, residual.clone()));
                let expected = composed::linear(input(9), weight.clone(), bias.clone(), act, residual);
                close(&found, &values(expected), 1e-5, &format!("case {case}, {act:?}"));
            }
        }
        let whole = values(layer.forward(input(9)));
        for rows in [0..10, 10..18, 12..15, 3..16] {
            let found = values(layer.rows(input(9), rows.clone()));
            let expected: Vec<f32> = whole.chunks(18).flat_map(|row| row[rows.clone()].to_vec()).collect();
            close(&found, &expected, 1e-5, &format!("case {case}, rows {rows:?}"));
        }
        let scale: Tensor<1> = tensor((0..18).map(|i| i as f32 / 9.0 - 1.0).collect(), [18]);
        let found = values(layer.scaled(input(9), scale.clone(), residual.clone()));
        let expected = layer.forward(input(9)) * scale.unsqueeze() + residual;
        close(&found, &values(expected), 1e-5, &format!("case {case}, scaled"));
    }
}

/// The gradient of the layer's output in a fixed direction, against finite differences of the outputs.
#[test]
fn gradients_are_those_of_finite_differences() {
    for act in [Activation::Identity, Activation::GeluTanh] {
        let layer = filled(attach(tower(), |name| !name.ends_with(".k")).0)
            .blocks
            .remove(0)
            .qkv;
        let layer = params::set_trainable(layer, |name| name.contains("lora"));
        let dropped = |layer: &Linear| {
            let y = noise::scope(Noise::new(3), || layer.fused(input(9), act, None));
            let mut rng = Rng::new(5);
            (y * tensor((0..9 * 18).map(|_| rng.normal()).collect(), [9, 18])).sum()
        };
        let grads = Gradients::collect(&layer, dropped(&layer).backward());
        let learnt: Vec<String> = grads.reach().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(learnt, ["lora.q.a", "lora.q.b", "lora.v.a", "lora.v.b"]);
        let h = 1e-2;
        for name in learnt {
            for at in [0, 7, 11] {
                let shifted = |by: f32| {
                    let moved = params::load(layer.clone(), |found, _| {
                        let mut values = names_and_values(layer.clone());
                        let (_, mut values) = values.swap_remove(values.iter().position(|v| v.0 == found).unwrap_or(0));
                        if found == name {
                            values[at] += by;
                        }
                        Ok::<_, std::fmt::Error>(Some(values))
                    });
                    f64::from(values(dropped(&moved.expect("shapes fit")))[0])
                };
                let numeric = (shifted(h) - shifted(-h)) / f64::from(2.0 * h);
                let exact = f64::from(grads.get(&name).expect("it learns")[at]);
                assert!(
                    (numeric - exact).abs() <= 1e-2 * (1.0 + exact.abs()),
                    "{act:?} {name}[{at}]: {exact}, but finite differences say {numeric}"
                );
            }
        }
    }
}

#[test]
fn a_batch_in_parts_drops_the_same() {
    let config = LoraConfig { dropout: 0.3, ..CONFIG };
    let (tower, _) = lora::attach(tower(), &config, |_| true, 7).expect("fine");
    let block = filled(tower).blocks.remove(0);
    let run = |rows: std::ops::Range<usize>| {
        let noise = Noise::new(6).after(rows.start, 0);
        let x = input(20).slice([rows, 0..10]);
        values(noise::scope(noise, || {
            block.out.forward(block.qkv.forward(x).slice_dim(1, 0..10))
        }))
    };
    let whole = run(0..20);
    let parts = [run(0..7), run(7..8), run(8..20)].concat();
    close(&parts, &whole, 1e-5, "parts");
    let evaluated = values(block.out.forward(block.qkv.forward(input(20)).slice_dim(1, 0..10)));
    assert!(
        evaluated
            .iter()
            .zip(&whole)
            .filter(|(a, b)| (*a - *b).abs() > 1e-3)
            .count()
            > 100
    );
}

#[test]
fn merging_keeps_the_outputs_and_can_be_undone() {
    let (plain, x) = (tower(), input(9));
    let adapted = filled(attach(tower(), |_| true).0);
    let before = names_and_values(adapted.clone());
    let (merged, taken) = lora::merge(adapted.clone(), Fold::default());
    assert_eq!((names(&merged), taken.count()), (names(&plain), 9));
    for (a, b) in [
        (&merged.blocks[1].qkv, &adapted.blocks[1].qkv),
        (&merged.blocks[0].out, &adapted.blocks[0].out),
    ] {
        close(
            &values(a.forward(x.clone())),
            &values(b.forward(x.clone())),
            1e-5,
            "merged",
        );
    }
    let merged_weights = names_and_values(merged.clone());
    let back = lora::unmerge(merged, taken).expect("the same module");
    for ((name, found), (_, former)) in names_and_values(back).into_iter().zip(&before) {
        if name.contains("lora") {
            assert_eq!(found, *former, "{name}");
            continue;
        }
        let merged = &merged_weights.iter().find(|v| v.0 == name).expect("it is there").1;
        for ((w, former), merged) in found.iter().zip(former).zip(merged) {
            let unit = former.abs().max(merged.abs()) * f32::EPSILON;
            assert!(
                (w - former).abs() <= unit,
                "{name}: {w} against {former}, merged {merged}"
            );
        }
    }
}

#[test]
fn a_part_of_the_update_can_be_merged() {
    let adapted = filled(attach(tower(), |name| name == "proj").0);
    let delta = |fold: Fold| {
        let (merged, _) = lora::merge(adapted.clone(), fold);
        let weights = values(merged.proj.weight.val());
        let former = values(adapted.proj.weight.val());
        weights.iter().zip(former).map(|(a, b)| a - b).collect::<Vec<_>>()
    };
    let whole = delta(Fold::default());
    let fold = |coefficient, scaled| Fold { coefficient, scaled };
    for (found, factor) in [
        (delta(fold(0.5, true)), 0.5),
        (delta(fold(0.5, false)), 0.5 / 1.5),
        (delta(fold(0.0, true)), 0.0),
    ] {
        let expected: Vec<f32> = whole.iter().map(|d| d * factor).collect();
        close(&found, &expected, 1e-6, "scaled");
    }
}

#[test]
fn adapters_go_back_only_where_they_came_from() {
    let adapted = filled(attach(tower(), |name| name == "proj").0);
    let (merged, taken) = lora::merge(adapted, Fold::default());
    let error = lora::unmerge(merged.blocks[0].clone(), taken.clone()).map(|_| ());
    assert_eq!(error, Err(UnmergeError::Missing("proj".to_owned())));
    let (again, _) = attach(merged.clone(), |name| name == "proj");
    assert_eq!(
        lora::unmerge(again, taken.clone()).map(|_| ()),
        Err(UnmergeError::Taken("proj".to_owned()))
    );
    let mut other = merged;
    other.proj = Linear::empty(10, 2, true);
    assert_eq!(
        lora::unmerge(other, taken).map(|_| ()),
        Err(UnmergeError::Shape("proj".to_owned()))
    );
}

#[test]
fn what_learns_stays_what_learns() {
    let adapted = filled(attach(tower(), |_| true).0);
    let adapted = params::set_trainable(adapted, |name| name.starts_with("proj"));
    let (merged, taken) = lora::merge(adapted, Fold::default());
    let learns = |module: &Tower| -> Vec<String> {
        params::list(module)
            .into_iter()
            .filter(|p| p.trainable)
            .map(|p| p.name)
            .collect()
    };
    assert_eq!(learns(&merged), ["proj.weight", "proj.bias"]);
    let back = lora::unmerge(merged, taken).expect("the same module");
    assert_eq!(
        learns(&back),
        ["proj.weight", "proj.bias", "proj.lora.a", "proj.lora.b"]
    );
}
