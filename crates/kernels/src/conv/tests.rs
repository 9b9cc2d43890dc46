use super::*;
use crate::Activation;
use crate::activation::{ALL, naive};
use crate::gemm::Precision;
use crate::linear::linear;
use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};
use proptest::prelude::*;

fn naive_im2col(x: &[f64], s: &ConvShape) -> Vec<f64> {
    let mut out = Vec::new();
    for n in 0..s.n {
        for oy in 0..s.out_h() {
            for ox in 0..s.out_w() {
                for ky in 0..s.kh {
                    for kx in 0..s.kw {
                        let (y, col) = (
                            (oy * s.stride + ky) as isize - s.pad[0] as isize,
                            (ox * s.stride + kx) as isize - s.pad[2] as isize,
                        );
                        let inside = y >= 0 && (y as usize) < s.h && col >= 0 && (col as usize) < s.w;
                        for c in 0..s.c {
                            out.push(if inside {
                                x[((n * s.h + y as usize) * s.w + col as usize) * s.c + c]
                            } else {
                                0.0
                            });
                        }
                    }
                }
            }
        }
    }
    out
}

fn naive_depthwise(x: &[f64], wt: &[f64], b: &[f64], act: Activation, s: &ConvShape) -> Vec<f64> {
    let patch = s.kh * s.kw * s.c;
    let cols = naive_im2col(x, s);
    cols.chunks(patch.max(1))
        .flat_map(|p| {
            (0..s.c)
                .map(|c| {
                    naive(
                        act,
                        b[c] + (0..s.kh * s.kw).map(|k| p[k * s.c + c] * wt[k * s.c + c]).sum::<f64>(),
                    )
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn shape(
    (n, h, w, c): (usize, usize, usize, usize),
    [kh, kw]: [usize; 2],
    stride: usize,
    pad: [usize; 4],
) -> ConvShape {
    ConvShape {
        n,
        h,
        w,
        c,
        kh,
        kw,
        stride,
        pad,
    }
}

fn shapes() -> Vec<ConvShape> {
    vec![
        shape((0, 4, 4, 3), [2, 2], 2, [0; 4]),
        shape((2, 4, 6, 3), [2, 2], 2, [0; 4]),
        shape((1, 5, 4, 5), [3, 3], 1, [1, 1, 1, 1]),
        shape((1, 6, 5, 17), [3, 3], 2, [0, 1, 1, 2]),
        shape((1, 2, 2, 2), [5, 5], 1, [2, 2, 2, 2]),
        shape((1, 2, 2, 2), [3, 3], 1, [0; 4]),
        // tiles of a row that lie over padding on either side, and ones that begin again before the row's end
        shape((2, 3, 7, 19), [5, 5], 1, [2, 2, 2, 2]),
        shape((1, 4, 13, 3), [5, 5], 2, [1, 2, 1, 12]),
    ]
}

#[test]
fn patches_and_their_gradient() {
    each_isa(|_| {
        for s in shapes() {
            let x = numbers(s.n * s.h * s.w * s.c, 1);
            let cols = im2col(&x, &s);
            assert_close(&cols, &naive_im2col(&wide(&x), &s), 0.0, "im2col");
            let gy = numbers(cols.len(), 2);
            assert_close(
                &col2im(&gy, &s),
                &numeric_gradient(&x, &gy, |x| naive_im2col(x, &s)),
                1e-5,
                "col2im",
            );
        }
    });
}

#[test]
fn depthwise_and_its_gradient() {
    each_isa(|isa| {
        for s in shapes() {
            let (x, wt, b) = (
                numbers(s.n * s.h * s.w * s.c, 1),
                numbers(s.kh * s.kw * s.c, 2),
                numbers(s.c, 3),
            );
            let (x64, w64, b64) = (wide(&x), wide(&wt), wide(&b));
            for act in ALL {
                let out = depthwise(&x, &wt, Some(&b), act, &s, true);
                assert_close(
                    &out.y,
                    &naive_depthwise(&x64, &w64, &b64, act, &s),
                    5e-6,
                    &format!("{isa} {act:?} {s:?}"),
                );
                let gy = numbers(out.y.len(), 4);
                let grads = depthwise_backward(&gy, &x, &wt, out.pre.as_deref(), act, &s, [true; 3]);
                assert_close(
                    &grads.x.unwrap(),
                    &numeric_gradient(&x, &gy, |x| naive_depthwise(x, &w64, &b64, act, &s)),
                    2e-5,
                    "gx",
                );
                assert_close(
                    &grads.w.unwrap(),
                    &numeric_gradient(&wt, &gy, |w| naive_depthwise(&x64, w, &b64, act, &s)),
                    2e-5,
                    "gw",
                );
                assert_close(
                    &grads.b.unwrap(),
                    &numeric_gradient(&b, &gy, |b| naive_depthwise(&x64, &w64, b, act, &s)),
                    2e-5,
                    "gb",
                );
            }
            assert!(depthwise(&x, &wt, None, Activation::Identity, &s, true).pre.is_none());
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// ⟨im2col(x), g⟩ = ⟨x, col2im(g)⟩ for any geometry: the two are adjoint.
    #[test]
    fn im2col_and_col2im_are_adjoint(n in 1usize..3, h in 1usize..7, w in 1usize..7, c in 1usize..5, kh in 1usize..4, kw in 1usize..4, stride in 1usize..4, pad in prop::array::uniform4(0usize..3)) {
        let s = ConvShape { n, h, w, c, kh, kw, stride, pad };
        let x = numbers(n * h * w * c, 1);
        let cols = im2col(&x, &s);
        let g = numbers(cols.len(), 2);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let (left, right) = (dot(&cols, &g), dot(&x, &col2im(&g, &s)));
        prop_assert!((left - right).abs() < 1e-4 * (1.0 + left.abs()));
    }
}

#[test]
fn a_bottleneck_has_the_bits_of_its_layers() {
    for (kernel, stride, expands, [h, w]) in [
        (3, 1, true, [40, 37]),
        (5, 1, true, [9, 30]),
        (3, 2, true, [33, 20]),
        (5, 2, true, [7, 7]),
        (3, 1, false, [50, 70]),
    ] {
        let (n, input) = (2, 24);
        let c = if expands { 96 } else { input };
        let output = if stride == 1 { input } else { 40 };
        let pad = kernel / 2;
        let shape = ConvShape {
            n,
            h,
            w,
            c,
            kh: kernel,
            kw: kernel,
            stride,
            pad: [pad, pad, pad - stride / 2, pad],
        };
        let x = numbers(n * h * w * input, 1);
        let (we, be) = (numbers(c * input, 2), numbers(c, 3));
        let (wf, bf) = (numbers(kernel * kernel * c, 4), numbers(c, 5));
        let (wp, bp) = (numbers(output * c, 6), numbers(output, 7));
        let residual = stride == 1 && shape.out_w() == w;
        let block = Bottleneck {
            expand: expands.then_some([&we, &be]),
            filter: [&wf, &bf],
            project: [&wp, &bp],
            act: Activation::Relu6,
            shape,
            input,
            output,
            residual,
        };
        each_isa(|isa| {
            let layer = |x: &[f32], w: &[f32], b: &[f32], act, add, t, din, dout| {
                linear(x, w, Some(b), act, add, t, din, dout, false, Precision::F32).y
            };
            let wide = if expands {
                layer(&x, &we, &be, Activation::Relu6, None, n * h * w, input, c)
            } else {
                x.clone()
            };
            let filtered = depthwise(&wide, &wf, Some(&bf), Activation::Relu6, &shape, false).y;
            let pixels = n * shape.out_h() * shape.out_w();
            let expected = layer(
                &filtered,
                &wp,
                &bp,
                Activation::Identity,
                residual.then_some(&x[..]),
                pixels,
                c,
                output,
            );
            assert!(
                bottleneck(&x, &block, [Precision::F32; 2]) == expected,
                "{shape:?} on {isa}"
            );
        });
    }
}
