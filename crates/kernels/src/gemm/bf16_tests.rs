//! Products of bf16 against sums in f64 of products of rounded numbers, with every unit that this machine has.
use super::format::each_bf16;
use super::tests::matrix;
use super::*;
use crate::linear::{linear, linear_backward};
use crate::testing::numbers;
use half::bf16;
use proptest::prelude::*;

fn at(m: Mat, i: usize, j: usize) -> f64 {
    f64::from(bf16::from_f32(m.data[i * m.row_stride + j * m.col_stride]))
}

/// Sums over `k` of rounded numbers, each with the sum of magnitudes.
fn naive(a: Mat, b: Mat) -> Vec<(f64, f64)> {
    (0..a.rows * b.cols)
        .map(|x| {
            let terms = (0..a.cols).map(|k| at(a, x / b.cols, k) * at(b, k, x % b.cols));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        })
        .collect()
}

/// The products are exact, so that only the f32 sum of `k` terms errs, by at most `k` half units of the sum of magnitudes.
#[track_caller]
fn assert_summed(got: &[f32], truth: &[(f64, f64)], k: usize, what: &str) {
    assert_eq!(got.len(), truth.len(), "{what}");
    for (i, (&g, &(sum, size))) in got.iter().zip(truth).enumerate() {
        let bound = (k + 2) as f64 * 2f64.powi(-24) * size;
        assert!(
            (f64::from(g) - sum).abs() <= bound,
            "{what}[{i}]: got {g}, expected {sum} ± {bound:e}"
        );
    }
}

fn check(m: usize, k: usize, n: usize, layouts: usize, accumulate: bool) {
    let (da, db) = (numbers(m * (2 * k + 4) + 8, 1), numbers(k * (2 * n + 4) + 8, 2));
    let mut c = numbers(m * n, 3);
    let (a, b) = (matrix(&da, m, k, layouts), matrix(&db, k, n, layouts / 4));
    let mut truth = naive(a, b);
    if accumulate {
        for ((sum, size), &c) in truth.iter_mut().zip(&c) {
            *sum += f64::from(c);
            *size += f64::from(c.abs());
        }
    }
    gemm(a, b, &mut c, accumulate, Precision::Bf16);
    assert_summed(&c, &truth, k, &format!("{} {m}×{k}×{n} layouts {layouts}", bf16_unit()));
}

#[test]
fn every_shape_class_layout_and_unit() {
    each_bf16(|_| {
        for (m, k, n) in [
            (0, 3, 3),
            (3, 0, 3),
            (1, 1, 1),
            (1, 7, 100),
            (13, 16, 31),
            (14, 32, 32),
            (15, 33, 33),
            (32, 64, 32),
            (33, 95, 65),
            (29, 300, 65),
            (230, 40, 70),
            (33, 1100, 20),
            (40, 2 * K_PASS + 70, 40),
        ] {
            for layouts in 0..16 {
                check(m, k, n, layouts, layouts % 3 == 0);
            }
        }
    });
}

#[test]
fn a_packed_operand_gives_the_same_bits() {
    each_bf16(|format| {
        for (m, k, n) in [
            (20, 0, 5),
            (20, 33, 31),
            (64, 2 * K_PASS + 9, 100),
            (300, 4 * K_PASS + 1, 65),
        ] {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
            let packed = Packed::new(b, Precision::Bf16);
            assert!(packed.serves(Precision::Bf16) && !packed.serves(Precision::F32));
            let (mut plain, mut again) = (vec![0.0; m * n], vec![1.0; m * n]);
            gemm(a, b, &mut plain, false, Precision::Bf16);
            let rhs = Rhs {
                mat: b,
                packed: Some(&packed),
                grid: None,
            };
            let e = Epilogue::default();
            // SAFETY: `again` has m·n numbers.
            unsafe { gemm_into(a, rhs, Shared::of(&mut again), false, &e, Precision::Bf16, On::Pool) };
            assert_eq!(plain, again, "{format:?} {m}×{k}×{n}");
        }
    });
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    each_bf16(|format| {
        let (a, b) = (numbers(500 * 300, 1), numbers(300 * 200, 2));
        let (a, b) = (Mat::new(&a, 500, 300), Mat::new(&b, 200, 300).t());
        let run = |threads| {
            let mut c = vec![0.0; 500 * 200];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gemm(a, b, &mut c, false, Precision::Bf16));
            c
        };
        let one = run(1);
        assert!([2, 3, 8].iter().all(|&t| run(t) == one), "{format:?}");
    });
}

/// Numbers between two bf16 ones, larger than the largest, smaller than the smallest normal one, and none at all.
#[test]
fn rounding_as_in_the_half_crate() {
    let special = [
        1.0 + 2f32.powi(-8),
        1.0 + 3.0 * 2f32.powi(-8),
        -(1.0 + 2f32.powi(-8) + 2f32.powi(-20)),
        f32::MAX,
        -f32::MAX,
        f32::INFINITY,
        f32::NAN,
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0xffff_ffff),
        f32::MIN_POSITIVE,
        1e-40,
        -1e-45,
        -0.0,
    ];
    each_bf16(|format| {
        // One column times the number one, in a product of many rows and in a thin one.
        for rows in [1, special.len()] {
            for chunk in special.chunks(rows) {
                let mut c = vec![7.0; rows];
                gemm(
                    Mat::new(chunk, rows, 1),
                    Mat::new(&[1.0], 1, 1),
                    &mut c,
                    false,
                    Precision::Bf16,
                );
                for (&x, &got) in chunk.iter().zip(&c) {
                    let expected = if x.abs() < f32::MIN_POSITIVE {
                        0.0
                    } else {
                        bf16::from_f32(x).to_f32()
                    };
                    assert!(
                        got == expected || got.is_nan() && x.is_nan(),
                        "{format:?}: {x:e} became {got:e}"
                    );
                }
            }
        }
    });
}

/// The layer's products are those of its rounded operands, and what follows them is f32.
#[test]
fn layers_and_their_gradients() {
    use crate::Activation;
    each_bf16(|format| {
        for (t, din, dout) in [(1, 40, 50), (9, 17, 4), (70, 96, 65)] {
            let (x, w, b) = (numbers(t * din, 5), numbers(dout * din, 6), numbers(dout, 7));
            let (r, gy) = (numbers(t * dout, 8), numbers(t * dout, 9));
            let out = linear(
                &x,
                &w,
                Some(&b),
                Activation::Identity,
                Some(&r),
                t,
                din,
                dout,
                true,
                Precision::Bf16,
            );
            let mut truth = naive(Mat::new(&x, t, din), Mat::new(&w, dout, din).t());
            for (i, (sum, size)) in truth.iter_mut().enumerate() {
                *sum += f64::from(b[i % dout]) + f64::from(r[i]);
                *size += f64::from(b[i % dout].abs()) + f64::from(r[i].abs());
            }
            assert_summed(&out.y, &truth, din + 2, &format!("{format:?} y"));
            let grads = linear_backward(
                &gy,
                &x,
                &w,
                None,
                Activation::Identity,
                t,
                din,
                dout,
                [true; 3],
                Precision::Bf16,
            );
            let g = Mat::new(&gy, t, dout);
            assert_summed(&grads.x.unwrap(), &naive(g, Mat::new(&w, dout, din)), dout, "gx");
            assert_summed(&grads.w.unwrap(), &naive(g.t(), Mat::new(&x, t, din)), t, "gw");
            let exact = linear_backward(
                &gy,
                &x,
                &w,
                None,
                Activation::Identity,
                t,
                din,
                dout,
                [true; 3],
                Precision::F32,
            );
            assert_eq!(grads.b, exact.b, "sums of the bias stay f32");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_small_product(m in 0usize..70, k in 0usize..140, n in 0usize..70, layouts in 0usize..16, accumulate: bool) {
        check(m, k, n, layouts, accumulate);
    }
}
