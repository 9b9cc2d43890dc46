use super::*;
use crate::testing::{assert_close, each_isa, numbers, wide};

/// Rows, and the sizes `[n, m, d]`; numbers are in [-1, 1).
struct Case {
    x: Vec<f32>,
    y: Vec<f32>,
    n: usize,
    m: usize,
    d: usize,
}

impl Case {
    fn new(n: usize, m: usize, d: usize, seed: u64) -> Self {
        let (x, y) = (numbers(n * d, seed), numbers(m * d, seed + 1));
        Self { x, y, n, m, d }
    }

    fn sides(&self) -> Sides<'_> {
        Sides {
            x: &self.x,
            y: &self.y,
            n: self.n,
            m: self.m,
            d: self.d,
        }
    }

    /// Column `j` belongs to row `j·3 mod n` for the first `owned` columns.
    fn targets(&self, owned: usize) -> Targets {
        let n = self.n;
        Targets::new(n, self.m, (0..owned).map(|j| (j * 3 % n, j))).expect("each pair once")
    }
}

/// Sizes below and above registers, strips and runs.
fn cases() -> Vec<Case> {
    let sizes = [
        (1, 1, 1),
        (3, 5, 4),
        (7, 7, 16),
        (20, 33, 9),
        (5, 1100, 3),
        (70, 530, 6),
    ];
    sizes.into_iter().map(|(n, m, d)| Case::new(n, m, d, 3)).collect()
}

fn dots(x: &[f64], y: &[f64], d: usize) -> Vec<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.chunks(d).map(|a| y.chunks(d).map(|b| dot(a, b)).collect()).collect()
}

fn lse(z: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = z.clone().fold(f64::NEG_INFINITY, f64::max);
    top + z.map(|z| (z - top).exp()).sum::<f64>().ln()
}

fn naive_softmax(x: &[f64], y: &[f64], d: usize, scale: f64, what: &Softmax) -> f64 {
    let z = dots(x, y, d);
    let mut loss = 0.0;
    for (i, row) in z.iter().enumerate() {
        let own = what.targets().of_row(i);
        if !own.is_empty() {
            let mean = own.iter().map(|&j| scale * row[j]).sum::<f64>() / own.len() as f64;
            loss += f64::from(what.rows()[i]) * (lse(row.iter().map(|z| z * scale)) - mean);
        }
    }
    for (j, &w) in what.cols().iter().enumerate() {
        let own: Vec<usize> = (0..z.len())
            .filter(|&i| what.targets().of_row(i).contains(&j))
            .collect();
        if !own.is_empty() {
            let mean = own.iter().map(|&i| scale * z[i][j]).sum::<f64>() / own.len() as f64;
            loss += f64::from(w) * (lse(z.iter().map(|row| row[j] * scale)) - mean);
        }
    }
    loss
}

fn naive_sigmoid(x: &[f64], y: &[f64], d: usize, scale: f64, bias: f64, targets: &Targets) -> f64 {
    let mut loss = 0.0;
    for (i, row) in dots(x, y, d).iter().enumerate() {
        for (j, dot) in row.iter().enumerate() {
            let z = scale * dot + bias;
            let z = if targets.of_row(i).contains(&j) { -z } else { z };
            loss += z.max(0.0) + (-z.abs()).exp().ln_1p();
        }
    }
    loss
}

fn naive_distill(x: &[f64], y: &[f64], d: usize, scale: f64, teacher: Teacher, divergence: Divergence) -> f64 {
    let sides = teacher.sides;
    let (z, t) = (dots(x, y, d), dots(&wide(sides.x), &wide(sides.y), sides.d));
    let (n, m) = (sides.n, sides.m);
    let one = |z: Vec<f64>, t: Vec<f64>| -> f64 {
        let (z_lse, t_lse) = (lse(z.iter().copied()), lse(t.iter().copied()));
        let pairs = z.iter().zip(&t);
        let terms = pairs.map(|(z, t)| {
            let (log_p, log_q) = (z - z_lse, t - t_lse);
            let entropy = if divergence == Divergence::KullbackLeibler {
                log_q
            } else {
                0.0
            };
            log_q.exp() * (entropy - log_p)
        });
        terms.sum()
    };
    let teacher_scale = f64::from(teacher.scale);
    let rows: f64 = (0..n)
        .map(|i| {
            let part = |z: &[Vec<f64>], s: f64| (0..m).map(|j| z[i][j] * s).collect::<Vec<_>>();
            one(part(&z, scale), part(&t, teacher_scale))
        })
        .sum();
    let cols: f64 = (0..m)
        .map(|j| {
            let part = |z: &[Vec<f64>], s: f64| (0..n).map(|i| z[i][j] * s).collect::<Vec<_>>();
            one(part(&z, scale), part(&t, teacher_scale))
        })
        .sum();
    0.5 * (rows / n as f64 + cols / m as f64)
}

fn naive_structure(x: &[f64], y: &[f64], n: usize, penalty: Penalty) -> f64 {
    let far = |x: &[f64], i: usize, j: usize| {
        let d = x.len() / n;
        let (a, b) = (&x[i * d..][..d], &x[j * d..][..d]);
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
    };
    let mut loss = 0.0;
    for i in 0..n {
        for j in i + 1..n {
            let u = (far(x, i, j) - far(y, i, j)).abs();
            loss += match penalty {
                Penalty::Squared => u * u,
                Penalty::SmoothL1 if u < 1.0 => u * u / 2.0,
                Penalty::SmoothL1 => u - 0.5,
            };
        }
    }
    loss
}

/// Some numbers of a gradient against central differences.
#[track_caller]
fn slopes(x: &[f32], gradient: &[f32], loss: impl Fn(&[f64]) -> f64, what: &str) {
    assert_eq!(x.len(), gradient.len(), "{what}: length");
    let largest = gradient.iter().fold(1e-3f32, |top, g| top.max(g.abs()));
    let mut x = wide(x);
    for i in (0..x.len()).step_by(x.len().div_ceil(8)) {
        let (h, kept) = (1e-5, x[i]);
        x[i] = kept + h;
        let up = loss(&x);
        x[i] = kept - h;
        let down = loss(&x);
        x[i] = kept;
        let slope = (up - down) / (2.0 * h);
        let error = (f64::from(gradient[i]) - slope).abs();
        assert!(
            error <= 2e-5 * f64::from(largest),
            "{what}[{i}]: {} instead of {slope}",
            gradient[i]
        );
    }
}

/// Value, both gradients and the derivative of the scale against a twin in `f64`.
#[track_caller]
fn against(case: &Case, scale: f32, found: &Contrast, naive: impl Fn(&[f64], &[f64], f64) -> f64, what: &str) {
    let (x, y, s) = (wide(&case.x), wide(&case.y), f64::from(scale));
    let truth = naive(&x, &y, s);
    assert!(
        (found.loss - truth).abs() <= 2e-6 * (1.0 + truth.abs()),
        "{what}: {} instead of {truth}",
        found.loss
    );
    slopes(&case.x, found.x.as_ref().unwrap(), |x| naive(x, &y, s), what);
    slopes(&case.y, found.y.as_ref().unwrap(), |y| naive(&x, y, s), what);
    let slope = (naive(&x, &y, s + 1e-5) - naive(&x, &y, s - 1e-5)) / 2e-5;
    assert!(
        (found.scale - slope).abs() <= 1e-5 * (1.0 + slope.abs()),
        "{what}: scale {} instead of {slope}",
        found.scale
    );
}

/// In both directions with weights of all kinds, in one direction, with columns that are nobody's.
fn softmaxes(case: &Case) -> Vec<Softmax> {
    let (n, m) = (case.n, case.m);
    let weights = |k: usize, seed| {
        numbers(k, seed)
            .iter()
            .map(|v| (v + 1.5) / k as f32)
            .collect::<Vec<_>>()
    };
    vec![
        Softmax::new(case.targets(m), weights(n, 1), weights(m, 2)),
        Softmax::new(case.targets(m), weights(n, 1), vec![0.0; m]),
        Softmax::new(case.targets(m), vec![0.0; n], weights(m, 2)),
        Softmax::new(case.targets(m.div_ceil(2)), weights(n, 3), weights(m, 4)),
    ]
}

#[test]
fn softmax_equals_its_twin() {
    each_isa(|isa| {
        for case in cases() {
            for what in softmaxes(&case) {
                for scale in [3.0, -2.0] {
                    let found = softmax(case.sides(), scale, &what, [true; 2], None);
                    let naive = |x: &[f64], y: &[f64], s: f64| naive_softmax(x, y, case.d, s, &what);
                    against(&case, scale, &found, naive, &format!("{isa} {}×{}", case.n, case.m));
                }
            }
        }
    });
}

#[test]
fn sigmoid_equals_its_twin() {
    each_isa(|isa| {
        for case in cases() {
            let targets = case.targets(case.m.div_ceil(2));
            for (scale, bias) in [(4.0, -3.0), (-1.0, 0.5)] {
                let found = sigmoid(case.sides(), scale, bias, &targets, 0.25, [true; 2], None);
                let naive = |x: &[f64], y: &[f64], s: f64, b: f64| 0.25 * naive_sigmoid(x, y, case.d, s, b, &targets);
                let what = format!("{isa} {}×{}", case.n, case.m);
                against(&case, scale, &found, |x, y, s| naive(x, y, s, f64::from(bias)), &what);
                let at = |b: f64| naive(&wide(&case.x), &wide(&case.y), f64::from(scale), f64::from(bias) + b);
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (found.bias - slope).abs() <= 1e-5 * (1.0 + slope.abs()),
                    "{what}: bias {}",
                    found.bias
                );
            }
        }
    });
}

#[test]
fn distillation_equals_its_twin() {
    each_isa(|isa| {
        for case in cases() {
            let other = Case::new(case.n, case.m, 5, 9);
            let teacher = Teacher {
                sides: other.sides(),
                scale: 2.5,
            };
            for divergence in [Divergence::CrossEntropy, Divergence::KullbackLeibler] {
                let found = distill(case.sides(), 3.0, teacher, divergence, [true; 2], None);
                let naive = |x: &[f64], y: &[f64], s: f64| naive_distill(x, y, case.d, s, teacher, divergence);
                against(
                    &case,
                    3.0,
                    &found,
                    naive,
                    &format!("{isa} {}×{} {divergence:?}", case.n, case.m),
                );
            }
        }
    });
}

#[test]
fn a_student_that_agrees_with_its_teacher_is_left_alone() {
    let case = Case::new(9, 40, 6, 5);
    let teacher = Teacher {
        sides: case.sides(),
        scale: 7.0,
    };
    let found = distill(case.sides(), 7.0, teacher, Divergence::KullbackLeibler, [true; 2], None);
    assert_eq!((found.loss, found.scale), (0.0, 0.0));
    assert!(found.x.unwrap().iter().chain(&found.y.unwrap()).all(|&g| g == 0.0));
}

#[test]
fn structure_equals_its_twin() {
    each_isa(|isa| {
        for (n, d, e) in [(1, 3, 2), (2, 1, 1), (19, 7, 5), (50, 33, 16)] {
            // Long teacher rows, so that both branches of the smooth penalty are taken.
            let (x, y) = (
                numbers(n * d, 1),
                numbers(n * e, 2).iter().map(|v| 3.0 * v).collect::<Vec<_>>(),
            );
            for penalty in [Penalty::Squared, Penalty::SmoothL1] {
                let (loss, gradient) = structure(&x, &y, n, penalty, true);
                let truth = naive_structure(&wide(&x), &wide(&y), n, penalty);
                assert!(
                    (loss - truth).abs() <= 2e-6 * (1.0 + truth),
                    "{isa}: {loss} instead of {truth}"
                );
                let naive = |x: &[f64]| naive_structure(x, &wide(&y), n, penalty);
                slopes(&x, &gradient.unwrap(), naive, &format!("{isa} {n}×{d} {penalty:?}"));
            }
        }
    });
}

#[test]
fn rows_that_coincide_have_gradient_zero_towards_each_other() {
    let x = [1.0, 2.0, 1.0, 2.0];
    let (loss, gradient) = structure(&x, &[0.0, 0.0, 3.0, 4.0], 2, Penalty::Squared, true);
    assert_eq!((loss, gradient), (25.0, Some(vec![0.0; 4])));
    // Close rows keep their digits: a distance of 2^-20 at a length of √5.
    let close = [1.0, 2.0, 1.0, 2.0 + 2f32.powi(-20) * 4.0];
    let (_, gradient) = structure(&close, &[0.0, 0.0, 3.0, 4.0], 2, Penalty::SmoothL1, true);
    assert_eq!(gradient, Some(vec![0.0, 1.0, 0.0, -1.0]));
}

#[test]
fn smooth_l1_has_no_step_at_one() {
    // 130,816 pairs at distance 0 for 512 rows; each differs by u from the teacher's.
    let x = vec![0.0; 512];
    let mut y = vec![0.0; 2];
    for u in [1.0f32 - f32::EPSILON, 1.0, 1.0 + f32::EPSILON] {
        y[1] = u;
        let (loss, _) = structure(&[0.0, 0.0], &y, 2, Penalty::SmoothL1, false);
        assert!((loss - 0.5).abs() < 3e-7, "{u}: {loss}");
    }
    let teacher: Vec<f32> = (0..512).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect();
    let (loss, gradient) = structure(&x, &teacher, 512, Penalty::SmoothL1, false);
    assert_eq!((loss, gradient), (511.0 * 0.5, None));
}

#[test]
fn chunks_do_not_change_the_result() {
    let case = Case::new(61, 70, 12, 8);
    let targets = case.targets(60);
    let what = &softmaxes(&case)[0];
    let other = Case::new(61, 70, 4, 2);
    let teacher = Teacher {
        sides: other.sides(),
        scale: 9.0,
    };
    let all = |rows| {
        [
            softmax(case.sides(), 5.0, what, [true; 2], rows),
            sigmoid(case.sides(), 5.0, -4.0, &targets, 0.1, [true; 2], rows),
            distill(case.sides(), 5.0, teacher, Divergence::CrossEntropy, [true; 2], rows),
        ]
    };
    let whole = all(Some(61));
    for rows in [1, 2, 7, 16, 60, 1000] {
        for (part, whole) in all(Some(rows)).iter().zip(&whole) {
            let same = |a: f64, b: f64| assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{rows}: {a} and {b}");
            same(part.loss, whole.loss);
            same(part.scale, whole.scale);
            same(part.bias, whole.bias);
            for (part, whole) in [(&part.x, &whole.x), (&part.y, &whole.y)] {
                assert_close(part.as_ref().unwrap(), &wide(whole.as_ref().unwrap()), 1e-6, "gradient");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_threads_or_on_what_else_is_asked() {
    let case = Case::new(300, 410, 33, 8);
    let what = &softmaxes(&case)[0];
    let targets = case.targets(300);
    let run = |threads: usize, need| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            (
                softmax(case.sides(), 5.0, what, need, Some(70)),
                sigmoid(case.sides(), 5.0, -4.0, &targets, 0.1, need, Some(70)),
                structure(&case.x, &case.x[..300], 300, Penalty::Squared, need[0]),
            )
        })
    };
    let all = run(1, [true; 2]);
    assert_eq!(all, run(3, [true; 2]));
    let (soft, sig, _) = run(2, [true, false]);
    assert_eq!((soft.x, soft.y, sig.x, sig.y), (all.0.x, None, all.1.x, None));
    let (soft, ..) = run(2, [false; 2]);
    assert_eq!((soft.loss, soft.x, soft.y), (all.0.loss, None, None));
}

#[test]
fn huge_similarities_stay_finite() {
    each_isa(|isa| {
        let case = Case::new(12, 20, 3, 8);
        let what = &softmaxes(&case)[0];
        for scale in [1e4, -1e4] {
            let soft = softmax(case.sides(), scale, what, [true; 2], Some(5));
            let sig = sigmoid(case.sides(), scale, -10.0, what.targets(), 1.0, [true; 2], Some(5));
            let same = Teacher {
                sides: Sides {
                    x: &case.x[..24],
                    y: &case.y[..40],
                    d: 2,
                    ..case.sides()
                },
                scale: -scale,
            };
            let dist = distill(
                case.sides(),
                scale,
                same,
                Divergence::KullbackLeibler,
                [true; 2],
                Some(5),
            );
            for found in [&soft, &sig, &dist] {
                let numbers = found.x.iter().chain(&found.y).flatten();
                assert!(found.loss.is_finite() && found.scale.is_finite(), "{isa}: {found:?}");
                assert!(numbers.copied().all(f32::is_finite), "{isa}: {found:?}");
            }
            let truth = naive_softmax(&wide(&case.x), &wide(&case.y), 3, f64::from(scale), what);
            assert!(
                (soft.loss - truth).abs() < 1e-6 * truth.abs(),
                "{isa}: {} instead of {truth}",
                soft.loss
            );
            let truth = naive_sigmoid(
                &wide(&case.x),
                &wide(&case.y),
                3,
                f64::from(scale),
                -10.0,
                what.targets(),
            );
            assert!(
                (sig.loss - truth).abs() < 1e-6 * truth.abs(),
                "{isa}: {} instead of {truth}",
                sig.loss
            );
        }
    });
}

#[test]
fn what_is_not_a_number_shows() {
    let mut case = Case::new(4, 5, 3, 8);
    case.x[4] = f32::NAN;
    let targets = case.targets(5);
    let what = Softmax::new(targets.clone(), vec![0.25; 4], vec![0.2; 5]);
    assert!(softmax(case.sides(), 2.0, &what, [true; 2], None).loss.is_nan());
    assert!(
        sigmoid(case.sides(), 2.0, 0.0, &targets, 1.0, [true; 2], None)
            .loss
            .is_nan()
    );
    assert!(structure(&case.x, &case.x, 4, Penalty::Squared, true).0.is_nan());
}

#[test]
fn empty_sides_cost_nothing() {
    for (n, m, d) in [(0, 0, 3), (0, 4, 2), (4, 0, 2), (2, 2, 0)] {
        let case = Case::new(n, m, d, 1);
        let targets = Targets::new(n, m, []).expect("no pair");
        let what = Softmax::new(targets.clone(), vec![1.0; n], vec![1.0; m]);
        let soft = softmax(case.sides(), 2.0, &what, [true; 2], None);
        assert_eq!((soft.loss, soft.x.map(|x| x.len())), (0.0, Some(n * d)));
        let sig = sigmoid(case.sides(), 2.0, 0.0, &targets, 1.0, [true; 2], None);
        assert!((sig.loss - (n * m) as f64 * 2f64.ln()).abs() < 1e-6);
    }
    assert_eq!(structure(&[], &[], 0, Penalty::Squared, true), (0.0, Some(vec![])));
    assert_eq!(structure(&[], &[], 0, Penalty::Squared, false), (0.0, None));
}

#[test]
fn targets_are_checked() {
    assert!(Targets::new(2, 3, [(0, 3)]).is_none());
    assert!(Targets::new(2, 3, [(2, 0)]).is_none());
    assert!(Targets::new(2, 3, [(1, 0), (0, 2), (1, 0)]).is_none());
    let targets = Targets::new(3, 3, [(2, 1), (0, 2), (2, 0)]).expect("sound");
    assert_eq!(
        (targets.of_row(0), targets.of_row(1), targets.of_row(2)),
        (&[2][..], &[][..], &[0, 1][..])
    );
}
