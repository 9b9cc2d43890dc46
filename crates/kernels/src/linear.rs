//! Linear layers: y = act(x·Wᵀ + b) + residual in one pass, and their gradients.
use crate::activation::{Activation, activation_backward, derivative, per_activation};
use crate::buffer::{Shared, filled, par_rows_sums};
use crate::gemm::{Epilogue, Grid, Mat, On, Packed, Precision, Rhs, gemm_into};
use crate::simd::{Simd, Task, dispatch, steps};

/// A weight, perhaps with a packed copy of it, or one in levels.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    data: &'a [f32],
    packed: Option<&'a Packed>,
    grid: Option<&'a Grid>,
}

impl<'a> Weight<'a> {
    /// A weight `[dout, din]`; `packed` must be the same one, from [`pack_weight`].
    pub fn new(data: &'a [f32], packed: Option<&'a Packed>) -> Self {
        Self {
            data,
            packed,
            grid: None,
        }
    }

    /// The weight itself, and whether it is packed for a product of that precision.
    pub(crate) fn state(&self, precision: Precision) -> (&'a [f32], bool) {
        (self.data, self.packed.is_some_and(|packed| packed.serves(precision)))
    }

    /// With the same weight in levels, which serves products of a few rows.
    #[must_use]
    pub fn with_grid(self, grid: Option<&'a Grid>) -> Self {
        Self { grid, ..self }
    }
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Weight<'a> {
    fn from(data: &'a T) -> Self {
        Self::new(data.as_ref(), None)
    }
}

/// A weight `[dout, din]` in the order in which [`linear`] of that precision reads it.
pub fn pack_weight(w: &[f32], din: usize, dout: usize, precision: Precision) -> Packed {
    assert_eq!(w.len(), dout * din, "pack_weight: w must be [dout, din]");
    Packed::new(Mat::new(w, dout, din).t(), precision)
}

/// Result of a layer with a fused activation.
pub struct LinearOut {
    /// act(pre) + residual, `[t, dout]`.
    pub y: Vec<f32>,
    /// What the activation was applied to, when asked for: the backward pass needs it. `[t, dout]`.
    pub pre: Option<Vec<f32>>,
}

/// Gradients of a layer, those that were asked for.
pub struct LinearGrads {
    /// Gradient of the input.
    pub x: Option<Vec<f32>>,
    /// Gradient of the weight.
    pub w: Option<Vec<f32>>,
    /// Gradient of the bias.
    pub b: Option<Vec<f32>>,
}

/// y = act(x·wᵀ + bias) + residual; bias, activation and residual are applied while a tile of the product is in cache.
///
/// Of the operation, `precision` concerns the product, and with less than f32 and without `keep_pre` a GELU too, which is within 1e-4 then. `pre` (x·wᵀ + bias) is
/// kept when `keep_pre` and the activation is not the identity.
///
/// # Shapes
/// `x`: `[t, din]`, `w`: `[dout, din]` (PyTorch's layout), `bias`: `[dout]`, `residual` and the result: `[t, dout]`.
pub fn linear<'a>(
    x: &[f32],
    w: impl Into<Weight<'a>>,
    bias: Option<&[f32]>,
    act: Activation,
    residual: Option<&[f32]>,
    t: usize,
    din: usize,
    dout: usize,
    keep_pre: bool,
    precision: Precision,
) -> LinearOut {
    let w = w.into();
    let mut pre = (keep_pre && act != Activation::Identity).then(Vec::new);
    // SAFETY: `linear_into` writes every number of y and of `pre`, each of them t·dout long.
    let y = unsafe {
        filled(t * dout, |y| {
            let run = |pre| linear_into(x, w, bias, act, residual, [t, din, dout], y, pre, precision, On::Pool);
            match &mut pre {
                Some(pre) => *pre = filled(t * dout, |p| run(Some(p))),
                None => run(None),
            }
        })
    };
    LinearOut { y, pre }
}

/// As [`linear`], to memory that may be uninitialised; sizes are t, din, dout. `pre` is given where it is kept.
///
/// # Safety
/// `y` and `pre` must be writable for t·dout numbers.
pub(crate) unsafe fn linear_into(
    x: &[f32],
    w: Weight,
    bias: Option<&[f32]>,
    act: Activation,
    residual: Option<&[f32]>,
    [t, din, dout]: [usize; 3],
    y: Shared,
    pre: Option<Shared>,
    precision: Precision,
    on: On,
) {
    assert_eq!(x.len(), t * din, "linear: x must be [t, din]");
    assert_eq!(w.data.len(), dout * din, "linear: w must be [dout, din]");
    let rhs = Rhs {
        mat: Mat::new(w.data, dout, din).t(),
        packed: w.packed,
        grid: w.grid,
    };
    let epilogue = Epilogue {
        bias,
        act,
        near: precision != Precision::F32 && pre.is_none(),
        residual,
        pre,
    };
    // SAFETY: the caller's contract.
    unsafe { gemm_into(Mat::new(x, t, din), rhs, y, false, &epilogue, precision, on) }
}

/// Gradients of [`linear`]; `need` says which of x, w and bias. The gradient of the residual is `gy` itself. `precision` is that of the two products, f32 in place of
/// eight-bit integers.
///
/// # Shapes
/// `gy`: `[t, dout]`, `pre`: as [`linear`] kept it (required unless the activation is the identity); gradients as the arguments of [`linear`].
pub fn linear_backward(
    gy: &[f32],
    x: &[f32],
    w: &[f32],
    pre: Option<&[f32]>,
    act: Activation,
    t: usize,
    din: usize,
    dout: usize,
    need: [bool; 3],
    precision: Precision,
) -> LinearGrads {
    assert_eq!(gy.len(), t * dout, "linear_backward: gy must be [t, dout]");
    assert_eq!(x.len(), t * din, "linear_backward: x must be [t, din]");
    assert_eq!(w.len(), dout * din, "linear_backward: w must be [dout, din]");
    let precision = precision.recorded();
    let through;
    let (g, b) = if act == Activation::Identity {
        (gy, need[2].then(|| column_sums(gy, t, dout)))
    } else {
        let Some(pre) = pre else {
            panic!("linear_backward: the gradient of {act:?} needs `pre`; call linear with keep_pre")
        };
        assert_eq!(pre.len(), t * dout, "linear_backward: pre must be [t, dout]");
        if need[2] {
            let sums;
            (through, sums) = activation_backward_and_sums(gy, pre, act, t, dout);
            (&through[..], Some(sums))
        } else {
            through = activation_backward(gy, pre, act);
            (&through[..], None)
        }
    };
    let product = |a: Mat, b: Mat| {
        // SAFETY: `gemm_into` writes every number of C.
        unsafe {
            filled(a.rows * b.cols, |c| {
                gemm_into(a, b.into(), c, false, &Epilogue::default(), precision, On::Pool)
            })
        }
    };
    LinearGrads {
        x: need[0].then(|| product(Mat::new(g, t, dout), Mat::new(w, dout, din))),
        w: need[1].then(|| product(Mat::new(g, t, dout).t(), Mat::new(x, t, din))),
        b,
    }
}

/// Sums over rows: `[t, c]` → `[c]`. Blocks of rows are summed in parallel, then in order, so the result does not depend on the number of threads.
pub fn column_sums(x: &[f32], t: usize, c: usize) -> Vec<f32> {
    assert_eq!(x.len(), t * c, "column_sums: x must be [t, c]");
    // SAFETY: there is no output besides the sums.
    unsafe {
        par_rows_sums(t, 0, c, c, |r, _, sums| {
            dispatch(AddRows {
                rows: &x[r.start * c..r.end * c],
                sums,
            })
        })
        .1
    }
}

struct AddRows<'a> {
    rows: &'a [f32],
    sums: &'a mut [f32],
}
impl Task for AddRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.sums.len();
        if c == 0 {
            return;
        }
        // Four rows at a time: the totals are read and written a quarter as often.
        let mut fours = self.rows.chunks_exact(4 * c);
        for four in &mut fours {
            let (ab, cd) = four.split_at(2 * c);
            for i in steps::<S>(c) {
                let low = s.add(s.get(&ab[i..c]), s.get(&ab[c + i..]));
                let high = s.add(s.get(&cd[i..c]), s.get(&cd[c + i..]));
                let sum = s.add(s.get(&self.sums[i..]), s.add(low, high));
                s.set(&mut self.sums[i..], sum);
            }
        }
        for row in fours.remainder().chunks_exact(c) {
            add(s, row, self.sums);
        }
    }
}

/// `to += x`.
#[inline(always)]
pub(crate) fn add<S: Simd>(s: S, x: &[f32], to: &mut [f32]) {
    for i in steps::<S>(to.len()) {
        let sum = s.add(s.get(&to[i..]), s.get(&x[i..]));
        s.set(&mut to[i..], sum);
    }
}

/// gy · act'(pre) and its column sums in one pass.
fn activation_backward_and_sums(gy: &[f32], pre: &[f32], act: Activation, t: usize, c: usize) -> (Vec<f32>, Vec<f32>) {
    // SAFETY: `Through` writes its whole block.
    unsafe {
        par_rows_sums(t, c, c, c, |r, out, sums| {
            dispatch(Through {
                gy: &gy[r.start * c..r.end * c],
                pre: &pre[r.start * c..r.end * c],
                act,
                out,
                sums,
            })
        })
    }
}

struct Through<'a> {
    gy: &'a [f32],
    pre: &'a [f32],
    act: Activation,
    out: &'a mut [std::mem::MaybeUninit<f32>],
    sums: &'a mut [f32],
}
impl Task for Through<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            gy,
            pre,
            act,
            out,
            sums,
        } = self;
        let c = sums.len();
        if c == 0 {
            return;
        }
        per_activation!(act, act => for ((gy, pre), out) in gy.chunks_exact(c).zip(pre.chunks_exact(c)).zip(out.chunks_exact_mut(c)) {
            for i in steps::<S>(c) {
                let g = s.mul(s.get(&gy[i..]), derivative(s, act, s.get(&pre[i..])));
                s.put(&mut out[i..], g);
                let sum = s.add(s.get(&sums[i..]), g);
                s.set(&mut sums[i..], sum);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::{ALL, naive};
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    fn naive_linear(x: &[f64], w: &[f64], b: &[f64], act: Activation, t: usize, din: usize, dout: usize) -> Vec<f64> {
        (0..t * dout)
            .map(|i| {
                let (r, o) = (i / dout, i % dout);
                naive(
                    act,
                    (0..din).map(|k| x[r * din + k] * w[o * din + k]).sum::<f64>() + b[o],
                )
            })
            .collect()
    }

    #[test]
    fn forward_agrees_with_f64() {
        each_isa(|isa| {
            for (t, din, dout) in [
                (0, 3, 4),
                (1, 1, 1),
                (1, 40, 50),
                (4, 33, 17),
                (5, 0, 3),
                (7, 5, 33),
                (15, 17, 31),
                (50, 64, 96),
                (131, 300, 45),
            ] {
                let (x, w, b, r) = (
                    numbers(t * din, 1),
                    numbers(dout * din, 2),
                    numbers(dout, 3),
                    numbers(t * dout, 4),
                );
                for act in ALL {
                    let out = linear(&x, &w, Some(&b), act, Some(&r), t, din, dout, true, Precision::F32);
                    let mut truth = naive_linear(&wide(&x), &wide(&w), &wide(&b), act, t, din, dout);
                    truth.iter_mut().zip(&r).for_each(|(y, &r)| *y += f64::from(r));
                    assert_close(&out.y, &truth, 2e-5, &format!("{isa} {act:?} {t}×{din}×{dout}"));
                    assert_eq!(out.pre.is_some(), act != Activation::Identity);
                    if let Some(pre) = out.pre {
                        assert_close(
                            &pre,
                            &naive_linear(&wide(&x), &wide(&w), &wide(&b), Activation::Identity, t, din, dout),
                            2e-5,
                            "pre",
                        );
                    }
                }
                let plain = linear(
                    &x,
                    &w,
                    None,
                    Activation::Identity,
                    None,
                    t,
                    din,
                    dout,
                    false,
                    Precision::F32,
                );
                assert_close(
                    &plain.y,
                    &naive_linear(
                        &wide(&x),
                        &wide(&w),
                        &vec![0.0; dout],
                        Activation::Identity,
                        t,
                        din,
                        dout,
                    ),
                    2e-5,
                    "plain",
                );
            }
        });
    }

    #[test]
    fn backward_agrees_with_finite_differences() {
        each_isa(|_| {
            for (t, din, dout) in [(1, 1, 1), (3, 5, 7), (9, 17, 4), (0, 3, 2)] {
                let (x, w, b, gy) = (
                    numbers(t * din, 5),
                    numbers(dout * din, 6),
                    numbers(dout, 7),
                    numbers(t * dout, 8),
                );
                for act in ALL {
                    let pre = linear(&x, &w, Some(&b), act, None, t, din, dout, true, Precision::F32).pre;
                    let grads = linear_backward(
                        &gy,
                        &x,
                        &w,
                        pre.as_deref(),
                        act,
                        t,
                        din,
                        dout,
                        [true; 3],
                        Precision::F32,
                    );
                    let (x64, w64, b64) = (wide(&x), wide(&w), wide(&b));
                    let gx = numeric_gradient(&x, &gy, |x| naive_linear(x, &w64, &b64, act, t, din, dout));
                    let gw = numeric_gradient(&w, &gy, |w| naive_linear(&x64, w, &b64, act, t, din, dout));
                    let gb = numeric_gradient(&b, &gy, |b| naive_linear(&x64, &w64, b, act, t, din, dout));
                    assert_close(&grads.x.unwrap(), &gx, 2e-5, "gx");
                    assert_close(&grads.w.unwrap(), &gw, 2e-5, "gw");
                    assert_close(&grads.b.unwrap(), &gb, 2e-5, "gb");
                    let none = linear_backward(
                        &gy,
                        &x,
                        &w,
                        pre.as_deref(),
                        act,
                        t,
                        din,
                        dout,
                        [false; 3],
                        Precision::F32,
                    );
                    assert!(none.x.is_none() && none.w.is_none() && none.b.is_none());
                }
            }
        });
    }

    #[test]
    fn column_sums_of_many_rows() {
        let (t, c) = (4000, 37);
        let x = numbers(t * c, 9);
        let truth: Vec<f64> = (0..c).map(|j| (0..t).map(|i| f64::from(x[i * c + j])).sum()).collect();
        assert_close(&column_sums(&x, t, c), &truth, 1e-4, "sums");
    }
}
