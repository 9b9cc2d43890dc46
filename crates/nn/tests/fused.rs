//! Each fused operation against its composed twin (value and gradients) and against finite differences; with the feature `gpu` also against itself on a graphics
//! card, where it is composed of the engine's operations.

mod twins;

use std::sync::Arc;

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::{self, Activation, AttentionShape, ConvShape, GroupShape, Rope, RopeStyle};
use bifocal_nn::init::Rng;
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::{Tensor, composed};
use twins::{check, close, run, scalar_loss, there, two};

const SMOOTH: [Activation; 5] = [
    Activation::Identity,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Silu,
];

#[test]
fn choice_loss() {
    let targets: Arc<[u32]> = Arc::from([2, 0, 4, 2, 3]);
    let fast = |leaves: &[Tensor<1>]| fused::choice_loss(leaves[0].clone().reshape([5, 6]), &targets);
    let twin = |leaves: &[Tensor<1>]| {
        let mut chosen = vec![0.0; 30];
        targets
            .iter()
            .enumerate()
            .for_each(|(row, &target)| chosen[6 * row + target as usize] = -1.0);
        let logits: Tensor<2> = leaves[0].clone().reshape([5, 6]);
        (burn::tensor::activation::log_softmax(logits, 1) * tensor(chosen, [5, 6])).sum_dim(1)
    };
    check("choice_loss", &[30], &fast, &twin);
    // numbers of any size
    let far = fused::choice_loss(
        tensor(vec![1e4, -1e4, 0.0, -1e4, -1e4, -1e4], [2, 3]),
        &Arc::from([1, 0]),
    );
    close("choice_loss of large numbers", &values(far), &[2e4, 3.0f32.ln()], 1e-6);
}

/// An output layer whose rows are plain numbers.
struct Plain(Vec<f32>);

impl fused::Vocabulary for Plain {
    fn rows(&self) -> usize {
        self.0.len() / 4
    }

    fn width(&self) -> usize {
        4
    }

    fn expand(&self, rows: std::ops::Range<usize>, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&self.0[4 * rows.start..4 * rows.end]);
    }
}

#[test]
fn token_loss() {
    let mut rng = Rng::new(5);
    let numbers: Vec<f32> = (0..4 * 9).map(|_| rng.normal()).collect();
    let vocabulary: fused::SharedVocabulary = Arc::new(Plain(numbers.clone()));
    let targets: Arc<[u32]> = Arc::from([2, 8, 4, 0, 3]);
    let twin = |leaves: &[Tensor<1>]| {
        let w = tensor(numbers.clone(), [9, 4]);
        fused::choice_loss(two(&leaves[0], 5, 4).matmul(w.transpose()), &targets)
    };
    let fast = |leaves: &[Tensor<1>]| fused::token_loss(two(&leaves[0], 5, 4), &vocabulary, &targets);
    check("token_loss", &[5 * 4], &fast, &twin);
}

#[test]
fn a_pull_towards_a_centre() {
    let mut rng = Rng::new(6);
    let mut random = || (0..40).map(|_| rng.normal()).collect::<Vec<f32>>();
    let (importance, center) = (random().iter().map(|v| v.abs()).collect::<Vec<_>>(), random());
    let held = || [importance.clone(), center.clone()].map(|v| tensor::<1>(v, [40]));
    let fast = |l: &[Tensor<1>]| {
        let [importance, center] = held();
        scalar_loss(fused::elastic(l[0].clone(), importance, center, 0.7))
    };
    let twin = |l: &[Tensor<1>]| {
        let [importance, center] = held();
        scalar_loss(composed::elastic(l[0].clone(), importance, center, 0.7))
    };
    check("elastic", &[40], &fast, &twin);
}

#[test]
fn linear_with_every_activation() {
    let (t, i, o) = (5, 7, 9);
    for act in SMOOTH {
        check(
            &format!("linear {act:?}"),
            &[t * i, o * i, o, t * o],
            &|l| {
                fused::linear(
                    two(&l[0], t, i),
                    two(&l[1], o, i),
                    Some(l[2].clone()),
                    act,
                    Some(two(&l[3], t, o)),
                )
            },
            &|l| {
                composed::linear(
                    two(&l[0], t, i),
                    two(&l[1], o, i),
                    Some(l[2].clone()),
                    act,
                    Some(two(&l[3], t, o)),
                )
            },
        );
    }
}

#[test]
fn activations_alone() {
    for act in SMOOTH {
        check(
            &format!("{act:?}"),
            &[5 * 37],
            &|l| fused::activation(two(&l[0], 5, 37), act),
            &|l| composed::activate(two(&l[0], 5, 37), act),
        );
    }
}

#[test]
fn dropout_of_a_scope() {
    let noise = Noise::new(4).after(11, 0);
    check(
        "dropout",
        &[6 * 35],
        &|l| noise::scope(noise, || noise::dropout(two(&l[0], 6, 35), 0.4)),
        &|l| two(&l[0], 6, 35) * noise.mask(0, 11, 6, 35, 0.4),
    );
}

#[test]
fn linear_without_bias_and_residual() {
    let (t, i, o) = (33, 17, 40);
    check(
        "plain linear",
        &[t * i, o * i],
        &|l| fused::linear(two(&l[0], t, i), two(&l[1], o, i), None, Activation::Identity, None),
        &|l| composed::linear(two(&l[0], t, i), two(&l[1], o, i), None, Activation::Identity, None),
    );
}

#[test]
fn gated_activations() {
    let (t, h) = (6, 11);
    for act in SMOOTH {
        check(
            &format!("gated {act:?}"),
            &[t * 2 * h],
            &|l| fused::gated(two(&l[0], t, 2 * h), act),
            &|l| composed::gated(two(&l[0], t, 2 * h), act),
        );
    }
}

#[test]
fn norms() {
    let (t, c) = (6, 19);
    check(
        "layer norm",
        &[t * c, c, c],
        &|l| fused::layer_norm(two(&l[0], t, c), l[1].clone(), l[2].clone(), 1e-5),
        &|l| composed::layer_norm(two(&l[0], t, c), l[1].clone(), l[2].clone(), 1e-5),
    );
    check(
        "RMS norm",
        &[t * c, c],
        &|l| fused::rms_norm(two(&l[0], t, c), l[1].clone(), 1e-6),
        &|l| composed::rms_norm(two(&l[0], t, c), l[1].clone(), 1e-6),
    );
    let (heads, kv, d) = (4, 2, 8);
    let w = (heads + 2 * kv) * d;
    check(
        "head RMS norm",
        &[t * w, d, d],
        &|l| fused::head_rms_norm(two(&l[0], t, w), l[1].clone(), l[2].clone(), 1e-6, heads, kv),
        &|l| composed::head_rms_norm(two(&l[0], t, w), l[1].clone(), l[2].clone(), 1e-6, heads, kv),
    );
}

#[test]
fn attention_of_packed_sequences() {
    let (ragged, even): (Arc<[usize]>, Arc<[usize]>) = (vec![0, 1, 8, 8, 21].into(), vec![0, 7, 14, 21].into());
    let heads = [(2, 2), (4, 2), (3, 1)];
    for ((heads, kv_heads), offsets) in heads.into_iter().flat_map(|heads| [(heads, &ragged), (heads, &even)]) {
        for (causal, window) in [(false, None), (true, None), (true, Some(4)), (false, Some(3))] {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim: 8,
                causal,
                window,
                scale: 0.35,
            };
            let w = (heads + 2 * kv_heads) * 8;
            check(
                &format!("attention {heads}/{kv_heads} causal {causal} window {window:?} of {offsets:?}"),
                &[21 * w],
                &|l| fused::attention(two(&l[0], 21, w), offsets, &shape),
                &|l| composed::attention(two(&l[0], 21, w), offsets, &shape),
            );
        }
    }
}

/// Sequences that go on with the first one, beside the whole texts that they are the ends of.
#[test]
fn attention_of_sequences_after_the_first() {
    for (window, first, rests) in [
        (None, 9, &[7, 5, 300][..]),
        (None, 150, &[8, 130]),
        (None, 3, &[1, 2, 6]),
        (Some(6), 9, &[7, 5, 30]),
        (Some(40), 100, &[5, 60]),
    ] {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            causal: true,
            window,
            scale: 0.4,
        };
        let mut rng = Rng::new(3);
        let (width, rows) = (shape.row(), first + rests.iter().sum::<usize>());
        let qkv: Vec<f32> = (0..rows * width).map(|_| rng.normal()).collect();
        let mut offsets = vec![0, first];
        offsets.extend(rests.iter().scan(first, |at, rest| {
            *at += rest;
            Some(*at)
        }));
        let found = fused::attention_after_first(tensor(qkv.clone(), [rows, width]), &offsets, &shape);
        assert_eq!(found.dims(), [rows, 32]);
        let found = values(found);
        let (mut texts, mut ends, mut wanted) = (
            qkv[..first * width].to_vec(),
            vec![0, first],
            found[..first * 32].to_vec(),
        );
        for bounds in offsets[1..].windows(2) {
            texts.extend_from_slice(&qkv[..first * width]);
            texts.extend_from_slice(&qkv[bounds[0] * width..bounds[1] * width]);
            ends.push(texts.len() / width);
            wanted.extend_from_slice(&found[..first * 32]);
            wanted.extend_from_slice(&found[bounds[0] * 32..bounds[1] * 32]);
        }
        let whole = values(fused::attention(
            tensor(texts, [wanted.len() / 32, width]),
            &ends.into(),
            &shape,
        ));
        let worst = whole.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, |worst: f32, d| if d.is_nan() { d } else { worst.max(d) });
        println!("window {window:?}, {first} and {rests:?}: {worst:.1e}");
        assert!(worst <= 1e-5, "window {window:?}, {first} and {rests:?}: {worst}");
    }
}

#[test]
fn rotary_positions() {
    let positions: Arc<[u32]> = vec![0, 1, 2, 0, 1, 300].into();
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        let rope = Rope {
            frequencies: fused::frequencies(10_000.0, 8).into(),
            style,
            rotated_heads: 3,
            heads: 4,
        };
        check(
            &format!("rope {style:?}"),
            &[6 * 32],
            &|l| fused::rope(two(&l[0], 6, 32), &positions, &rope),
            &|l| composed::rope(two(&l[0], 6, 32), &positions, &rope),
        );
    }
}

#[test]
fn pooling_and_embedding() {
    for offsets in [vec![0, 3, 3, 10], vec![0, 5, 10]] {
        let offsets: Arc<[usize]> = offsets.into();
        check(
            &format!("segment mean of {offsets:?}"),
            &[10 * 5],
            &|l| fused::segment_mean(two(&l[0], 10, 5), &offsets),
            &|l| composed::segment_mean(two(&l[0], 10, 5), &offsets),
        );
    }
    let ids: Arc<[u32]> = vec![3, 0, 3, 6, 1].into();
    check(
        "embedding",
        &[7 * 5],
        &|l| fused::embedding(two(&l[0], 7, 5), &ids),
        &|l| composed::embedding(two(&l[0], 7, 5), &ids),
    );
}

#[test]
fn convolutions() {
    for (stride, pad) in [(1, [1, 1, 1, 1]), (2, [0, 1, 0, 1]), (2, [1, 1, 1, 1])] {
        let shape = ConvShape {
            n: 2,
            h: 7,
            w: 6,
            c: 5,
            kh: 3,
            kw: 3,
            stride,
            pad,
        };
        let x = 2 * 7 * 6;
        check(
            &format!("conv stride {stride} pad {pad:?}"),
            &[x * 5, 4 * 45, 4],
            &|l| {
                fused::conv2d(
                    two(&l[0], x, 5),
                    two(&l[1], 4, 45),
                    Some(l[2].clone()),
                    Activation::Silu,
                    &shape,
                )
            },
            &|l| {
                composed::conv2d(
                    two(&l[0], x, 5),
                    two(&l[1], 4, 45),
                    Some(l[2].clone()),
                    Activation::Silu,
                    &shape,
                )
            },
        );
        check(
            &format!("depthwise conv stride {stride} pad {pad:?}"),
            &[x * 5, 45, 5],
            &|l| {
                fused::depthwise_conv2d(
                    two(&l[0], x, 5),
                    two(&l[1], 9, 5),
                    Some(l[2].clone()),
                    Activation::Silu,
                    &shape,
                )
            },
            &|l| {
                composed::depthwise_conv2d(
                    two(&l[0], x, 5),
                    two(&l[1], 9, 5),
                    Some(l[2].clone()),
                    Activation::Silu,
                    &shape,
                )
            },
        );
    }
}

/// As [`convolutions`], of a picture whose patches are not made all at once; of the whole gradients only the twins are compared.
#[test]
fn convolutions_of_large_pictures() {
    let shape = ConvShape {
        n: 2,
        h: 96,
        w: 90,
        c: 31,
        kh: 3,
        kw: 3,
        stride: 1,
        pad: [1; 4],
    };
    assert!(shape.unfolded() > 4 << 20);
    let x = 2 * 96 * 90;
    let mut rng = Rng::new(8);
    let leaves: Vec<Vec<f32>> = [x * 31, 2 * 9 * 31, 2]
        .iter()
        .map(|&n| (0..n).map(|_| 0.1 * rng.normal()).collect())
        .collect();
    let rows = |l: &[Tensor<1>]| (two(&l[0], x, 31), two(&l[1], 2, 9 * 31), Some(l[2].clone()));
    let fast = run(
        &|l| {
            let (x, w, b) = rows(l);
            fused::conv2d(x, w, b, Activation::Silu, &shape)
        },
        &leaves,
    );
    let twin = run(
        &|l| {
            let (x, w, b) = rows(l);
            composed::conv2d(x, w, b, Activation::Silu, &shape)
        },
        &leaves,
    );
    close("value", &fast.value, &twin.value, 1e-5);
    for (ga, gb) in fast.grads.iter().zip(&twin.grads) {
        close("gradient", ga, gb, 2e-4);
    }
}

#[test]
fn upsampling() {
    check(
        "upsample",
        &[2 * 3 * 4 * 5],
        &|l| fused::upsample(two(&l[0], 24, 5), 2, [3, 4]),
        &|l| composed::upsample(two(&l[0], 24, 5), 2, [3, 4]),
    );
}

#[test]
fn group_norms() {
    for (n, area, c, groups) in [(2, 6, 8, 4), (3, 5, 21, 7), (1, 9, 4, 1)] {
        let shape = GroupShape {
            n,
            area,
            c,
            groups,
            eps: 1e-6,
        };
        check(
            &format!("group norm {groups}/{c}"),
            &[n * area * c, c, c],
            &|l| fused::group_norm(two(&l[0], n * area, c), l[1].clone(), l[2].clone(), &shape),
            &|l| composed::group_norm(two(&l[0], n * area, c), l[1].clone(), l[2].clone(), &shape),
        );
    }
}

/// ReLU and ReLU6 have kinks, where finite differences mean nothing: twins only.
#[test]
fn activations_with_kinks() {
    let (t, i, o) = (8, 6, 10);
    let mut rng = Rng::new(3);
    let leaves: Vec<Vec<f32>> = [t * i, o * i]
        .iter()
        .map(|&n| (0..n).map(|_| 3.0 * rng.normal()).collect())
        .collect();
    for act in [Activation::Relu, Activation::Relu6] {
        let a = run(
            &|l| fused::linear(two(&l[0], t, i), two(&l[1], o, i), None, act, None),
            &leaves,
        );
        let b = run(
            &|l| composed::linear(two(&l[0], t, i), two(&l[1], o, i), None, act, None),
            &leaves,
        );
        there(
            &format!("linear {act:?}"),
            &|l| fused::linear(two(&l[0], t, i), two(&l[1], o, i), None, act, None),
            &leaves,
            &a,
        );
        close("value", &a.value, &b.value, 1e-5);
        for (ga, gb) in a.grads.iter().zip(&b.grads) {
            close("gradient", ga, gb, 1e-5);
        }
    }
}

/// A constant input costs no gradient and does not stop its neighbours' gradients.
#[test]
fn constants_and_leaves_mix() {
    let x = tensor(vec![1.0, 2.0, 3.0, 4.0], [2, 2]);
    let w = tensor(vec![0.5, -0.5, 1.0, 1.0], [2, 2]).autodiff().require_grad();
    let y = fused::linear(x, w.clone(), None, Activation::Identity, None);
    let mut grads = y.sum().backward();
    let g = values(w.grad_remove(&mut grads).expect("the weight learns"));
    assert_eq!(g, [4.0, 6.0, 4.0, 6.0]);
}
