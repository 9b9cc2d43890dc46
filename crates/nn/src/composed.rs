//! The same operations composed of ordinary burn operations: what devices without our kernels run, and
//! what the tests hold the kernels against. Shapes are those of [`crate::fused`].

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData, activation, module, ops::ConvOptions};

use crate::fused::{
    Activation, AttentionShape, ConvShape, Divergence, GroupShape, Penalty, Rope, RopeStyle, Softmax, Targets,
};

/// Applies an activation.
pub fn activate<const D: usize>(x: Tensor<D>, act: Activation) -> Tensor<D> {
    match act {
        Activation::Identity => x,
        Activation::GeluErf => {
            let half = x.clone() * 0.5;
            half.clone() + half * erf(x * std::f32::consts::FRAC_1_SQRT_2)
        }
        Activation::GeluTanh => {
            let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044_715) * 0.797_884_6;
            x * (inner.tanh() + 1.0) * 0.5
        }
        Activation::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
        Activation::Relu => activation::relu(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Silu => activation::silu(x),
    }
}

/// The error function to 1.5e-7 (Abramowitz & Stegun 7.1.26); the engine's own is a thousand times less exact on graphics cards.
fn erf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const POLYNOMIAL: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let size = x.clone().abs();
    let t = (size.clone() * 0.327_591_1 + 1.0).recip();
    let [first, rest @ ..] = POLYNOMIAL;
    let sum = rest.into_iter().fold(t.clone() * first, |sum, c| (sum + c) * t.clone());
    // the sign of 0 is 0, where gelu multiplies by 0 anyway
    ((sum * (size.powi_scalar(2).neg()).exp()).neg() + 1.0) * x.sign()
}

/// See [`crate::fused::linear`].
pub fn linear(
    x: Tensor<2>,
    w: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Activation,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    let mut y = x.matmul(w.transpose());
    if let Some(bias) = bias {
        y = y + bias.unsqueeze();
    }
    y = activate(y, act);
    match residual {
        Some(residual) => y + residual,
        None => y,
    }
}

/// See [`crate::fused::gated`].
pub fn gated(gate_up: Tensor<2>, act: Activation) -> Tensor<2> {
    let mut halves = gate_up.chunk(2, 1).into_iter();
    match (halves.next(), halves.next()) {
        (Some(gate), Some(up)) => activate(gate, act) * up,
        _ => unreachable!("an even width splits in two"),
    }
}

/// See [`crate::fused::elastic`].
pub fn elastic(x: Tensor<1>, importance: Tensor<1>, center: Tensor<1>, weight: f32) -> Tensor<1> {
    ((x - center).powi_scalar(2) * importance).sum() * (0.5 * weight)
}

/// See [`crate::fused::layer_norm`].
pub fn layer_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f32) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let var = centred.clone().powi_scalar(2).mean_dim(1);
    centred / (var + eps).sqrt() * w.unsqueeze() + b.unsqueeze()
}

/// See [`crate::fused::rms_norm`].
pub fn rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    let square = x.clone().powi_scalar(2).mean_dim(1);
    x / (square + eps).sqrt() * w.unsqueeze()
}

/// See [`crate::fused::group_norm`].
pub fn group_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, s: &GroupShape) -> Tensor<2> {
    let size = s.c / s.groups;
    let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
    let x = x.reshape([s.n, s.area, s.groups, size]);
    let centred = x.clone() - mean(x);
    let var = mean(centred.clone().powi_scalar(2));
    let y = centred / (var + s.eps).sqrt();
    y.reshape([s.n * s.area, s.c]) * w.unsqueeze() + b.unsqueeze()
}

/// See [`crate::fused::head_rms_norm`].
pub fn head_rms_norm(
    qkv: Tensor<2>,
    wq: Tensor<1>,
    wk: Tensor<1>,
    eps: f32,
    heads: usize,
    kv_heads: usize,
) -> Tensor<2> {
    let [t, width] = qkv.dims();
    let [d] = wq.dims();
    let (q, k) = (heads * d, (heads + kv_heads) * d);
    let norm =
        |x: Tensor<2>, w: Tensor<1>, heads: usize| rms_norm(x.reshape([t * heads, d]), w, eps).reshape([t, heads * d]);
    Tensor::cat(
        vec![
            norm(qkv.clone().slice([0..t, 0..q]), wq, heads),
            norm(qkv.clone().slice([0..t, q..k]), wk, kv_heads),
            qkv.slice([0..t, k..width]),
        ],
        1,
    )
}

/// Runs of neighbouring segments of one length: where the first begins, how long they are, how many there are. Empty segments are in none.
fn runs(offsets: &[usize]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for bounds in offsets.windows(2) {
        let (start, length) = (bounds[0], bounds[1] - bounds[0]);
        match runs.last_mut() {
            _ if length == 0 => {}
            Some((_, last, count)) if *last == length => *count += 1,
            _ => runs.push((start, length, 1)),
        }
    }
    runs
}

/// See [`crate::fused::attention`]. Sequences of one length that are neighbours, as pictures are, go through the products together.
pub fn attention(qkv: Tensor<2>, offsets: &Arc<[usize]>, s: &AttentionShape) -> Tensor<2> {
    let d = s.head_dim;
    let group = s.heads / s.kv_heads;
    let all = s.heads + 2 * s.kv_heads;
    let device = qkv.device();
    let sequences: Vec<Tensor<2>> = runs(offsets)
        .into_iter()
        .map(|(start, n, count)| {
            let rows = qkv.clone().slice([start..start + n * count, 0..all * d]);
            let rows = rows.reshape([count, n, all, d]).permute([0, 2, 1, 3]);
            let heads = |from: usize, to: usize| rows.clone().slice([0..count, from..to, 0..n, 0..d]);
            let spread = |x: Tensor<4>| match group {
                1 => x,
                _ => {
                    let x = x.reshape([count, s.kv_heads, 1, n * d]).repeat_dim(2, group);
                    x.reshape([count, s.heads, n, d])
                }
            };
            let q = heads(0, s.heads);
            let k = spread(heads(s.heads, s.heads + s.kv_heads));
            let v = spread(heads(s.heads + s.kv_heads, all));
            let mut scores = q.matmul(k.swap_dims(2, 3)) * s.scale;
            if let Some(mask) = mask(n, s) {
                scores = scores + Tensor::<4>::from_data(TensorData::new(mask, [1, 1, n, n]), &device);
            }
            let mixed = activation::softmax(scores, 3).matmul(v);
            mixed.permute([0, 2, 1, 3]).reshape([count * n, s.heads * d])
        })
        .collect();
    if sequences.is_empty() {
        return Tensor::zeros([0, s.heads * d], &device);
    }
    Tensor::cat(sequences, 0)
}

/// What is added to the scores of a sequence of n tokens; `None` when each sees all.
fn mask(n: usize, s: &AttentionShape) -> Option<Vec<f32>> {
    if !s.causal && s.window.is_none_or(|w| w >= n) {
        return None;
    }
    let hidden = |i: usize| {
        let (row, col) = (i / n, i % n);
        let future = s.causal && col > row;
        let far = s
            .window
            .is_some_and(|w| row.abs_diff(col) >= w && (!s.causal || col < row));
        if future || far { -1e30 } else { 0.0 }
    };
    Some((0..n * n).map(hidden).collect())
}

/// See [`crate::fused::rope`].
pub fn rope(qkv: Tensor<2>, positions: &Arc<[u32]>, r: &Rope) -> Tensor<2> {
    let (t, d) = (positions.len(), r.head_dim());
    let half = d / 2;
    let device = qkv.device();
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|&p| r.frequencies.iter().map(move |&f| f64::from(p) * f64::from(f)))
        .collect();
    let table = |f: fn(f64) -> f64| {
        let data: Vec<f32> = angles.iter().map(|&a| f(a) as f32).collect();
        Tensor::<3>::from_data(TensorData::new(data, [t, 1, half]), &device)
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    let n = r.rotated_heads;
    let x = qkv.clone().slice([0..t, 0..n * d]);
    let rotate = |a: Tensor<3>, b: Tensor<3>| {
        (
            a.clone() * cos.clone() - b.clone() * sin.clone(),
            b * cos.clone() + a * sin.clone(),
        )
    };
    let rotated = match r.style {
        RopeStyle::Half => {
            let x = x.reshape([t, n, d]);
            let (a, b) = rotate(x.clone().slice([0..t, 0..n, 0..half]), x.slice([0..t, 0..n, half..d]));
            Tensor::cat(vec![a, b], 2)
        }
        RopeStyle::Interleaved => {
            let x = x.reshape([t, n, half, 2]);
            let pick = |i: usize| x.clone().slice([0..t, 0..n, 0..half, i..i + 1]).reshape([t, n, half]);
            let (a, b) = rotate(pick(0), pick(1));
            Tensor::stack::<4>(vec![a, b], 3).reshape([t, n, d])
        }
    };
    Tensor::cat(
        vec![rotated.reshape([t, n * d]), qkv.slice([0..t, n * d..r.heads * d])],
        1,
    )
}

/// See [`crate::fused::segment_mean`]: a product with a matrix of shares, or a plain mean where all segments have one length.
pub fn segment_mean(x: Tensor<2>, offsets: &Arc<[usize]>) -> Tensor<2> {
    let ([t, width], n) = (x.dims(), offsets.len() - 1);
    if let [(_, length, count)] = runs(offsets)[..]
        && count == n
    {
        return x.reshape([n, length, width]).mean_dim(1).reshape([n, width]);
    }
    let mut shares = vec![0.0; n * t];
    for (row, bounds) in shares.chunks_exact_mut(t.max(1)).zip(offsets.windows(2)) {
        row[bounds[0]..bounds[1]].fill(1.0 / (bounds[1] - bounds[0]) as f32);
    }
    Tensor::<2>::from_data(TensorData::new(shares, [n, t]), &x.device()).matmul(x)
}

/// Indices where a tensor is.
fn indices(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let n = ids.len();
    Tensor::from_data(TensorData::new(ids, [n]), device)
}

/// See [`crate::fused::embedding`].
pub fn embedding(table: Tensor<2>, ids: &Arc<[u32]>) -> Tensor<2> {
    let ids = indices(ids, &table.device());
    table.select(0, ids)
}

/// See [`crate::fused::choice_loss`].
pub fn choice_loss(logits: Tensor<2>, targets: &Arc<[u32]>) -> Tensor<2> {
    let own = indices(targets, &logits.device()).unsqueeze_dim(1);
    activation::log_softmax(logits, 1).gather(1, own).neg()
}

fn channels_first(x: Tensor<2>, s: &ConvShape) -> Tensor<4> {
    x.reshape([s.n, s.h, s.w, s.c]).permute([0, 3, 1, 2])
}

fn padded(x: Tensor<4>, s: &ConvShape) -> Tensor<4> {
    let [top, bottom, left, right] = s.pad;
    x.pad((left, right, top, bottom), 0.0)
}

fn rows(y: Tensor<4>) -> Tensor<2> {
    let [n, c, h, w] = y.dims();
    y.permute([0, 2, 3, 1]).reshape([n * h * w, c])
}

/// See [`crate::fused::conv2d`].
pub fn conv2d(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>, act: Activation, s: &ConvShape) -> Tensor<2> {
    let [out, _] = w.dims();
    let w = w.reshape([out, s.kh, s.kw, s.c]).permute([0, 3, 1, 2]);
    let options = ConvOptions::new([s.stride; 2], [0, 0], [1, 1], 1);
    let y = module::conv2d(padded(channels_first(x, s), s), w, bias, options);
    activate(rows(y), act)
}

/// See [`crate::fused::upsample`].
pub fn upsample(x: Tensor<2>, n: usize, [h, w]: [usize; 2]) -> Tensor<2> {
    let [_, c] = x.dims();
    let y = x.reshape([n * h, 1, w, 1, c]).repeat_dim(3, 2).repeat_dim(1, 2);
    y.reshape([n * 4 * h * w, c])
}

/// See [`crate::fused::depthwise_conv2d`].
pub fn depthwise_conv2d(
    x: Tensor<2>,
    w: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Activation,
    s: &ConvShape,
) -> Tensor<2> {
    let w = w.transpose().reshape([s.c, 1, s.kh, s.kw]);
    let options = ConvOptions::new([s.stride; 2], [0, 0], [1, 1], s.c);
    let y = module::conv2d(padded(channels_first(x, s), s), w, bias, options);
    activate(rows(y), act)
}

/// ln Σ exp along an axis, shifted by the largest value so that nothing overflows.
fn log_sum_exp(x: Tensor<2>, axis: usize) -> Tensor<2> {
    let largest = x.clone().detach().max_dim(axis);
    (x - largest.clone()).exp().sum_dim(axis).log() + largest
}

/// Similarities of all pairs, `[n, m]`.
fn similarities(x: Tensor<2>, y: Tensor<2>, scale: Tensor<1>) -> Tensor<2> {
    x.matmul(y.transpose()) * scale.reshape([1, 1])
}

/// See [`crate::fused::softmax_pairs`].
pub fn softmax_pairs(x: Tensor<2>, y: Tensor<2>, scale: Tensor<1>, what: &Softmax) -> Tensor<1> {
    let ([n, _], [m, _], device) = (x.dims(), y.dims(), x.device());
    let constant =
        |data: &[f32], shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(data.to_vec(), shape), &device);
    let mut pulls = vec![0.0; n * m];
    for i in 0..n {
        what.pulls(i).for_each(|(j, pull)| pulls[i * m + j] = pull as f32);
    }
    let z = similarities(x, y, scale);
    let by_row = log_sum_exp(z.clone(), 1) * constant(what.rows(), [n, 1]);
    let by_column = log_sum_exp(z.clone(), 0) * constant(what.cols(), [1, m]);
    by_row.sum() + by_column.sum() - (z * constant(&pulls, [n, m])).sum()
}

/// See [`crate::fused::sigmoid_pairs`].
pub fn sigmoid_pairs(
    x: Tensor<2>,
    y: Tensor<2>,
    scale: Tensor<1>,
    bias: Tensor<1>,
    targets: &Targets,
    divisor: f64,
) -> Tensor<1> {
    let ([n, _], [m, _]) = (x.dims(), y.dims());
    let mut signs = vec![-1.0; n * m];
    for i in 0..n {
        targets.of_row(i).iter().for_each(|&j| signs[i * m + j] = 1.0);
    }
    let signs = Tensor::<2>::from_data(TensorData::new(signs, [n, m]), &x.device());
    let z = similarities(x, y, scale) + bias.reshape([1, 1]);
    // Row by row first: one long f32 sum over all pairs would lose the small terms.
    let total = activation::log_sigmoid(z * signs).sum_dim(1).sum();
    total.neg() / divisor as f32
}

/// See [`crate::fused::distill_pairs`].
pub fn distill_pairs(
    x: Tensor<2>,
    y: Tensor<2>,
    scale: Tensor<1>,
    [tx, ty]: [Tensor<2>; 2],
    teacher_scale: f32,
    divergence: Divergence,
) -> Tensor<1> {
    let z = similarities(x, y, scale);
    let t = tx.matmul(ty.transpose()) * teacher_scale;
    let [n, m] = z.dims();
    let along = |axis: usize, count: usize| {
        let log_p = z.clone() - log_sum_exp(z.clone(), axis);
        let log_q = t.clone() - log_sum_exp(t.clone(), axis);
        let q = log_q.clone().exp();
        let missing = match divergence {
            Divergence::CrossEntropy => log_p.neg(),
            Divergence::KullbackLeibler => log_q - log_p,
        };
        (missing * q).sum() / count as f32
    };
    (along(1, n) + along(0, m)) * 0.5
}

/// See [`crate::fused::structure`].
pub fn structure(x: Tensor<2>, teacher: Tensor<2>, penalty: Penalty) -> Tensor<1> {
    let distances = |x: Tensor<2>| {
        let [n, d] = x.dims();
        let squares = (x.clone().reshape([n, 1, d]) - x.reshape([1, n, d])).powi_scalar(2);
        let squares = squares.sum_dim(2).reshape([n, n]);
        // The root has no slope at 0: pairs that coincide are constants.
        let same = squares.clone().lower_equal_elem(0.0);
        squares.mask_fill(same.clone(), 1.0).sqrt().mask_fill(same, 0.0)
    };
    let u = distances(x) - distances(teacher);
    let cost = match penalty {
        Penalty::Squared => u.powi_scalar(2),
        Penalty::SmoothL1 => {
            let size = u.abs();
            let near = size.clone().clamp_max(1.0);
            near.clone().powi_scalar(2) * 0.5 + (size - near)
        }
    };
    // Each pair stands twice in the matrix.
    cost.sum() * 0.5
}
