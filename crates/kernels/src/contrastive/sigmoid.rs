//! Pairwise sigmoid loss: each pair on its own, so that one pass does.
use super::{Contrast, Gradients, RUN, Sides, Stream, Targets, chunk_rows, sum_rows};
use crate::math::{exp, ln_1p};
use crate::simd::{Simd, Task, dispatch, steps};

/// −weight · Σ log σ(±z) over all pairs, z = scale·⟨x, y⟩ + bias, with + for a row with its targets and − elsewhere.
///
/// `need` says which of the gradients of `x` and `y` are computed, `rows` overrides the size of a chunk.
///
/// # Shapes
/// `targets`: `n` rows and `m` columns.
pub fn sigmoid(
    sides: Sides,
    scale: f32,
    bias: f32,
    targets: &Targets,
    weight: f64,
    need: [bool; 2],
    rows: Option<usize>,
) -> Contrast {
    sides.check("sigmoid");
    let size = (targets.rows(), targets.cols());
    assert_eq!(size, (sides.n, sides.m), "sigmoid: targets must fit [n, m]");
    let stream = Stream::new(sides, chunk_rows(sides.n, sides.m, rows));
    let mut buffer = stream.buffer();
    let mut gradients = Gradients::new(sides, need);
    let mut totals = [0.0; 3];
    let factor = (weight * f64::from(scale)) as f32;
    for range in stream.chunks() {
        let z = stream.products(range.clone(), &mut buffer);
        sum_rows(z, sides.m, range.start, &mut totals, |i, z| {
            row(z, scale, bias, factor, targets.of_row(i))
        });
        gradients.push(range, z);
    }
    let (x, y) = gradients.finish();
    let [loss, by_scale, by_bias] = totals.map(|total| total * weight);
    Contrast {
        loss,
        x,
        y,
        scale: by_scale,
        bias: by_bias,
    }
}

/// Turns a row of ⟨x, y⟩ into `factor` times the derivative with respect to z; returns the row's Σ −log σ, Σ derivative·⟨x, y⟩ and Σ derivative.
fn row(z: &mut [f32], scale: f32, bias: f32, factor: f32, own: &[usize]) -> [f64; 3] {
    let mut sums = [0.0; 3];
    let mut add = |part: [f64; 3]| sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    let mut from = 0;
    for &j in own {
        add(dispatch(Negatives {
            z: &mut z[from..j],
            scale,
            bias,
            factor,
        }));
        let dot = f64::from(z[j]);
        let similarity = dot * f64::from(scale) + f64::from(bias);
        let small = (-similarity.abs()).exp();
        let slope = -(if similarity > 0.0 { small } else { 1.0 }) / (1.0 + small);
        add([(-similarity).max(0.0) + small.ln_1p(), slope * dot, slope]);
        z[j] = (f64::from(factor) * slope) as f32;
        from = j + 1;
    }
    add(dispatch(Negatives {
        z: &mut z[from..],
        scale,
        bias,
        factor,
    }));
    sums
}

/// Similarities of pairs that do not belong together.
struct Negatives<'a> {
    z: &'a mut [f32],
    scale: f32,
    bias: f32,
    factor: f32,
}
impl Task for Negatives<'_> {
    type Out = [f64; 3];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f64; 3] {
        let (scale, bias, factor) = (s.splat(self.scale), s.splat(self.bias), s.splat(self.factor));
        let (one, zero) = (s.splat(1.0), s.zero());
        let mut totals = [0.0; 3];
        for run in self.z.chunks_mut(RUN) {
            let mut acc = [zero; 3];
            for i in steps::<S>(run.len()) {
                let left = run.len() - i;
                let dot = s.get(&run[i..]);
                let z = s.fma(dot, scale, bias);
                // log(1 + eᶻ) = max(z, 0) + log(1 + e^−|z|), and its derivative from the same power.
                let small = exp(s, s.min(s.sub(zero, z), z));
                let softplus = s.add(s.max(zero, z), ln_1p(s, small));
                let slope = s.div(s.select_lt(z, zero, small, one), s.add(one, small));
                acc[0] = s.add(acc[0], s.head(softplus, left));
                acc[1] = s.fma(slope, dot, acc[1]);
                acc[2] = s.add(acc[2], s.head(slope, left));
                s.set(&mut run[i..], s.mul(slope, factor));
            }
            for (total, acc) in totals.iter_mut().zip(acc) {
                *total += f64::from(s.sum(acc));
            }
        }
        totals
    }
}
