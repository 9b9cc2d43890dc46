//! Products of eight-bit integers: to the bit what plain Rust makes of the same steps, on every unit that this machine has, and near what f64 says.
use super::unit::each_unit;
use super::*;
use crate::Activation;
use crate::gemm::tests::matrix;
use crate::gemm::{On, Packed, Precision, Rhs, gemm, gemm_into};
use crate::linear::{linear, linear_backward};
use crate::testing::{assert_close, numbers};
use proptest::prelude::*;

fn at(m: Mat, i: usize, j: usize) -> f32 {
    m.data[i * m.row_stride + j * m.col_stride]
}

fn near(step: f32) -> (f32, f32) {
    if step < f32::MIN_POSITIVE {
        (0.0, 0.0)
    } else {
        (step, 1.0 / step)
    }
}

/// The step of a part of a column, and its integers.
fn column(b: Mat, j: usize, from: usize, to: usize) -> (f32, Vec<i64>) {
    let most = (from..to).map(|k| at(b, k, j).abs()).fold(0.0, f32::max);
    let (step, per) = near(most / 127.0);
    let of = |k| (at(b, k, j) * per).round_ties_even() as i64;
    (step, (from..to).map(of).collect())
}

/// The step of a part of a row, and its integers without the zero.
fn row(a: Mat, i: usize, from: usize, to: usize) -> (f32, Vec<i64>) {
    let of = |k| at(a, i, k);
    let low = (from..to).map(of).fold(0.0, f32::min);
    let high = (from..to).map(of).fold(0.0, f32::max);
    let (step, per) = near(high / 255.0 - low / 255.0);
    let zero = (-low * per).round().clamp(0.0, 255.0);
    let byte = |k: usize| ((of(k) * per).round_ties_even() + zero).clamp(0.0, 255.0);
    (step, (from..to).map(|k| (byte(k) - zero) as i64).collect())
}

fn naive(a: Mat, b: Mat) -> Vec<f32> {
    let parts: Vec<_> = (0..a.cols.max(1))
        .step_by(GROUP)
        .map(|from| (from.min(a.cols), (from + GROUP).min(a.cols)))
        .collect();
    let of_all = |count: usize, of: &dyn Fn(usize, usize, usize) -> (f32, Vec<i64>)| -> Vec<Vec<_>> {
        let line = |i| parts.iter().map(|&(from, to)| of(i, from, to)).collect();
        (0..count).map(line).collect()
    };
    let rows = of_all(a.rows, &|i, from, to| row(a, i, from, to));
    let columns = of_all(b.cols, &|j, from, to| column(b, j, from, to));
    let product = |row: &[(f32, Vec<i64>)], column: &[(f32, Vec<i64>)]| {
        let terms = row.iter().zip(column).map(|((row_step, x), (step, w))| {
            let exact: i64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            exact as f32 * (row_step * step)
        });
        terms.reduce(|sum, term| sum + term).unwrap_or(0.0)
    };
    rows.iter()
        .flat_map(|row| columns.iter().map(|column| product(row, column)))
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn check(m: usize, k: usize, n: usize, layouts: usize) {
    let (da, db) = (numbers(m * (2 * k + 4) + 8, 1), numbers(k * (2 * n + 4) + 8, 2));
    let (a, b) = (matrix(&da, m, k, layouts), matrix(&db, k, n, layouts / 4));
    let mut c = vec![7.0; m * n];
    gemm(a, b, &mut c, false, Precision::Int8);
    let what = format!("{} {m}×{k}×{n} layouts {layouts}", int8_unit());
    assert_eq!(bits(&c), bits(&naive(a, b)), "{what}");
    let exact: Vec<f64> = (0..m * n)
        .map(|x| {
            (0..k)
                .map(|p| f64::from(at(a, x / n, p)) * f64::from(at(b, p, x % n)))
                .sum()
        })
        .collect();
    // a half step of each operand, as if all erred by as much: their errors are independent, three deviations of their sum
    let bound = 3.0 * (k as f64).sqrt() * (0.5 / 127.0 + 0.5 / 127.0) * 0.58 + 1e-4;
    for (got, exact) in c.iter().zip(&exact) {
        assert!((f64::from(*got) - exact).abs() <= bound, "{what}: {got} {exact}");
    }
}

#[test]
fn every_shape_class_layout_and_unit() {
    each_unit(|_| {
        for (m, k, n) in [
            (0, 3, 3),
            (3, 0, 3),
            (3, 3, 0),
            (1, 1, 1),
            (1, 7, 100),
            (13, 64, 31),
            (14, 65, 32),
            (16, 33, 33),
            (17, 256, 65),
            (33, 257, 20),
            (70, 40, 70),
            (230, 700, 40),
        ] {
            for layouts in 0..16 {
                check(m, k, n, layouts);
            }
        }
    });
}

#[test]
fn the_largest_bytes_do_not_overflow() {
    each_unit(|_| {
        let (m, k, n) = (3, 4000, 5);
        let (a, b) = (vec![1.0; m * k], vec![-1.0; k * n]);
        let mut c = vec![0.0; m * n];
        gemm(Mat::new(&a, m, k), Mat::new(&b, k, n), &mut c, false, Precision::Int8);
        assert_close(&c, &vec![-(k as f64); m * n], 1e-5, "ones");
    });
}

#[test]
fn a_packed_operand_gives_the_same_bits() {
    each_unit(|unit| {
        for (m, k, n) in [(1, 40, 70), (20, 0, 5), (20, 33, 31), (300, 1100, 65)] {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
            let packed = Packed::new(b, Precision::Int8);
            assert!(packed.serves(Precision::Int8));
            assert!(!packed.serves(Precision::F32) && !packed.serves(Precision::Bf16));
            let (mut plain, mut again) = (vec![0.0; m * n], vec![1.0; m * n]);
            gemm(a, b, &mut plain, false, Precision::Int8);
            let rhs = Rhs {
                mat: b,
                packed: Some(&packed),
                grid: None,
            };
            let e = Epilogue::default();
            // SAFETY: `again` has m·n numbers.
            unsafe { gemm_into(a, rhs, Shared::of(&mut again), false, &e, Precision::Int8, On::Pool) };
            assert_eq!(plain, again, "{unit:?} {m}×{k}×{n}");
            // a product in f32 leaves it alone
            // SAFETY: as above.
            unsafe { gemm_into(a, rhs, Shared::of(&mut again), false, &e, Precision::F32, On::Pool) };
            gemm(a, b, &mut plain, false, Precision::F32);
            assert_eq!(plain, again, "{unit:?} {m}×{k}×{n}");
        }
    });
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    each_unit(|unit| {
        for m in [5, 500] {
            let (a, b) = (numbers(m * 600, 1), numbers(600 * 2000, 2));
            let (a, b) = (Mat::new(&a, m, 600), Mat::new(&b, 2000, 600).t());
            let run = |threads| {
                let mut c = vec![0.0; m * 2000];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| gemm(a, b, &mut c, false, Precision::Int8));
                c
            };
            let one = run(1);
            assert!([2, 3, 8].iter().all(|&t| run(t) == one), "{unit:?}");
        }
    });
}

/// Bias, activation and residual follow in f32, as they do after a product in f32.
#[test]
fn what_follows_the_product() {
    each_unit(|unit| {
        for (t, din, dout) in [(1, 40, 50), (9, 17, 4), (70, 300, 65)] {
            let (x, w, b) = (numbers(t * din, 5), numbers(dout * din, 6), numbers(dout, 7));
            let r = numbers(t * dout, 8);
            for act in [Activation::Identity, Activation::GeluErf] {
                let out = linear(&x, &w, Some(&b), act, Some(&r), t, din, dout, true, Precision::Int8);
                let product = naive(Mat::new(&x, t, din), Mat::new(&w, dout, din).t());
                let pre: Vec<f32> = product.iter().enumerate().map(|(i, v)| v + b[i % dout]).collect();
                let y: Vec<f64> = pre
                    .iter()
                    .zip(&r)
                    .map(|(&v, &r)| crate::activation::naive(act, f64::from(v)) + f64::from(r))
                    .collect();
                assert_close(&out.y, &y, 1e-6, &format!("{unit:?} {act:?}"));
                assert_eq!(out.pre, (act != Activation::Identity).then_some(pre), "{unit:?} pre");
            }
        }
    });
}

/// What is not finite stays visible in its row or column, and nowhere else; what is very small becomes zero.
#[test]
fn numbers_that_have_no_step() {
    each_unit(|unit| {
        let (m, k, n) = (6, 300, 5);
        let (mut a, mut b) = (numbers(m * k, 1), numbers(n * k, 2));
        (a[k + 270], a[2 * k], a[3 * k + 1]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        a[4 * k..5 * k].fill(1e-40);
        a[5 * k..].fill(0.0);
        b[3 * k + 7] = f32::NAN;
        let mut c = vec![7.0; m * n];
        gemm(
            Mat::new(&a, m, k),
            Mat::new(&b, n, k).t(),
            &mut c,
            false,
            Precision::Int8,
        );
        for (i, &v) in c.iter().enumerate() {
            let odd = (1..4).contains(&(i / n)) || i % n == 3;
            assert_eq!(v.is_finite(), !odd, "{unit:?} {i}: {v}");
            assert!(odd || i / n < 4 || v == 0.0, "{unit:?} {i}: {v}");
        }
        let huge = vec![1e30; k];
        let mut c = vec![0.0; 1];
        gemm(
            Mat::new(&huge, 1, k),
            Mat::new(&vec![1e-20; k], k, 1),
            &mut c,
            false,
            Precision::Int8,
        );
        assert_close(&[c[0] / 1e10], &[k as f64], 1e-5, "large times small");
    });
}

/// Gradients, and products that add to what is there, are f32.
#[test]
fn what_is_recorded_stays_f32() {
    let (t, din, dout) = (9, 40, 30);
    let (x, w, gy) = (numbers(t * din, 1), numbers(dout * din, 2), numbers(t * dout, 3));
    let run = |precision| {
        let act = Activation::Identity;
        let g = linear_backward(&gy, &x, &w, None, act, t, din, dout, [true; 3], precision);
        let mut c = gy.clone();
        gemm(
            Mat::new(&x, t, din),
            Mat::new(&w, dout, din).t(),
            &mut c,
            true,
            precision,
        );
        (g.x, g.w, g.b, c)
    };
    assert!(run(Precision::Int8) == run(Precision::F32));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_small_product(m in 0usize..70, k in 0usize..300, n in 0usize..70, layouts in 0usize..16) {
        check(m, k, n, layouts);
    }
}
