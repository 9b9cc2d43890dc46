//! Linear probe: multinomial logistic regression on frozen features, as CLIP evaluates them (Radford et al. 2021, §3.2 and appendix A.3).
//!
//! Minimises `C · Σ cross-entropy + ‖W‖²/2` over weights and biases; biases are not penalised, as `LogisticRegression` of scikit-learn has it. L-BFGS
//! (Nocedal 1980; Nocedal and Wright 2006, algorithms 7.4 and 7.5) with backtracking until Armijo's condition holds, up to rounding; sums in f64, in an order that does
//! not depend on the number of threads.

use rayon::prelude::*;

use crate::calibration::check_labels;
use crate::error::{EvalError, check_matrix, rows_of};

/// Pairs of steps and gradient changes that are kept, as scipy does.
const MEMORY: usize = 10;
/// Rows whose sums one task keeps.
const CHUNK: usize = 256;
/// Armijo's share of the expected decrease.
const ARMIJO: f64 = 1e-4;
/// A decrease below this share of the value is lost in its rounding: close to the end a step is then taken as it is.
const ROUNDING: f64 = 1e-13;
/// Curvature below this share of the step's size says nothing.
const CURVATURE: f64 = 1e-12;

/// A fitted classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    dim: usize,
    classes: usize,
    /// `[classes, dim + 1]`, the bias last.
    weights: Vec<f64>,
    /// Steps that were taken.
    pub iterations: usize,
    /// Whether the gradient became small enough.
    pub converged: bool,
}

/// When to stop, and how much to trust the data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeOptions {
    /// Inverse of the penalty; CLIP's official code takes 0.316 without a search.
    pub c: f64,
    /// Steps at most; CLIP takes 1000.
    pub iterations: usize,
    /// Largest number of the gradient, relative to C · rows, at which it is done.
    pub tolerance: f64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            c: 0.316,
            iterations: 1000,
            tolerance: 1e-6,
        }
    }
}

impl Probe {
    /// Fits a classifier.
    ///
    /// # Shapes
    /// `x` `[N, dim]`, `labels` `[N]` below `classes`.
    ///
    /// # Errors
    /// Empty input, lengths that do not fit, values that are not finite, labels that are no class, a `c` that is not positive.
    pub fn fit(
        x: &[f32],
        labels: &[usize],
        dim: usize,
        classes: usize,
        options: &ProbeOptions,
    ) -> Result<Self, EvalError> {
        check_labels(labels, classes)?;
        check_matrix("the training matrix", x, labels.len(), dim)?;
        if !(options.c > 0.0 && options.c.is_finite()) {
            return Err(EvalError::Parameter {
                what: "C",
                value: options.c,
                expected: "give a positive number; it is the inverse of the penalty",
            });
        }
        let problem = Problem {
            x,
            labels,
            dim,
            classes,
            c: options.c,
        };
        let enough = options.tolerance * options.c * labels.len() as f64;
        let (weights, iterations, converged) = minimise(&problem, enough, options.iterations);
        Ok(Self {
            dim,
            classes,
            weights,
            iterations,
            converged,
        })
    }

    /// Log-odds of every class.
    ///
    /// # Shapes
    /// `x` `[N, dim]` → `[N, classes]`.
    ///
    /// # Errors
    /// Another width than in training, values that are not finite.
    pub fn scores(&self, x: &[f32]) -> Result<Vec<f64>, EvalError> {
        rows_of("the image matrix", x, self.dim)?;
        let row = |row: &[f32]| logits(&self.weights, row).collect::<Vec<f64>>();
        Ok(x.par_chunks_exact(self.dim).flat_map_iter(row).collect())
    }

    /// The class of each row; among equals the first.
    ///
    /// # Errors
    /// As [`Probe::scores`].
    pub fn predict(&self, x: &[f32]) -> Result<Vec<usize>, EvalError> {
        let best = |row: &[f64]| (1..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
        Ok(self.scores(x)?.chunks_exact(self.classes).map(best).collect())
    }
}

fn logits<'a>(weights: &'a [f64], row: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
    weights.chunks_exact(row.len() + 1).map(move |w| {
        let (bias, w) = w.split_last().unwrap_or((&0.0, &[]));
        w.iter().zip(row).map(|(w, &v)| w * f64::from(v)).sum::<f64>() + bias
    })
}

struct Problem<'a> {
    x: &'a [f32],
    labels: &'a [usize],
    dim: usize,
    classes: usize,
    c: f64,
}

impl Problem<'_> {
    /// The objective and its gradient. Chunks are summed in their order.
    fn at(&self, weights: &[f64]) -> (f64, Vec<f64>) {
        let line = self.dim + 1;
        let part = |(rows, labels): (&[f32], &[usize])| {
            let (mut loss, mut gradient) = (0.0, vec![0.0; weights.len()]);
            for (row, &label) in rows.chunks_exact(self.dim).zip(labels) {
                let mut share: Vec<f64> = logits(weights, row).collect();
                let top = share.iter().copied().fold(f64::MIN, f64::max);
                let own = share[label];
                share.iter_mut().for_each(|s| *s = (*s - top).exp());
                let sum: f64 = share.iter().sum();
                loss += sum.ln() + top - own;
                for (class, (share, gradient)) in share.iter().zip(gradient.chunks_exact_mut(line)).enumerate() {
                    let error = share / sum - f64::from(u8::from(class == label));
                    gradient
                        .iter_mut()
                        .zip(row)
                        .for_each(|(g, &v)| *g += error * f64::from(v));
                    gradient[self.dim] += error;
                }
            }
            (loss, gradient)
        };
        let (mut loss, mut gradient) = (0.0, vec![0.0; weights.len()]);
        // so many chunks at a time that their gradients stay small
        let wave = 4 * rayon::current_num_threads();
        for (rows, labels) in self
            .x
            .chunks(wave * CHUNK * self.dim)
            .zip(self.labels.chunks(wave * CHUNK))
        {
            let parts: Vec<(f64, Vec<f64>)> = rows
                .par_chunks(CHUNK * self.dim)
                .zip(labels.par_chunks(CHUNK))
                .map(part)
                .collect();
            for (l, g) in parts {
                loss += l;
                gradient.iter_mut().zip(&g).for_each(|(sum, g)| *sum += g);
            }
        }
        loss *= self.c;
        for (gradient, weights) in gradient.chunks_exact_mut(line).zip(weights.chunks_exact(line)) {
            gradient.iter_mut().for_each(|g| *g *= self.c);
            for (g, w) in gradient.iter_mut().zip(&weights[..self.dim]) {
                *g += w;
                loss += w * w / 2.0;
            }
        }
        (loss, gradient)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// → weights, steps, whether the gradient fell below `enough`.
fn minimise(problem: &Problem, enough: f64, most: usize) -> (Vec<f64>, usize, bool) {
    let mut at = vec![0.0; problem.classes * (problem.dim + 1)];
    let (mut value, mut gradient) = problem.at(&at);
    let mut memory: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    let largest = |g: &[f64]| g.iter().fold(0.0f64, |most, g| most.max(g.abs()));
    for iteration in 0..most {
        if largest(&gradient) <= enough {
            return (at, iteration, true);
        }
        let mut direction = descent(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // rounding has spoilt the memory: steepest descent is always one
            memory.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let mut step = if memory.is_empty() {
            1.0 / dot(&gradient, &gradient).sqrt().max(1.0)
        } else {
            1.0
        };
        let next = loop {
            let there: Vec<f64> = at.iter().zip(&direction).map(|(a, d)| a + step * d).collect();
            let (value_there, gradient_there) = problem.at(&there);
            if value_there <= value + ARMIJO * step * slope + ROUNDING * value.abs() {
                break Some((there, value_there, gradient_there));
            }
            step /= 2.0;
            if step < 1e-20 {
                break None;
            }
        };
        // no smaller value can be told apart from this one
        let Some((there, value_there, gradient_there)) = next else {
            return (at, iteration, false);
        };
        let moved: Vec<f64> = there.iter().zip(&at).map(|(a, b)| a - b).collect();
        let turned: Vec<f64> = gradient_there.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        if dot(&moved, &turned) > CURVATURE * dot(&moved, &moved) {
            memory.push((moved, turned));
            if memory.len() > MEMORY {
                memory.remove(0);
            }
        }
        (at, value, gradient) = (there, value_there, gradient_there);
    }
    let converged = largest(&gradient) <= enough;
    (at, most, converged)
}

/// Minus the inverse Hessian times the gradient, as far as the memory knows it: the two loops.
fn descent(gradient: &[f64], memory: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(memory.len());
    for (s, y) in memory.iter().rev() {
        let alpha = dot(s, &q) / dot(s, y);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((s, y)) = memory.last() {
        let scale = dot(s, y) / dot(y, y);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((s, y), alpha) in memory.iter().zip(alphas.into_iter().rev()) {
        let beta = dot(y, &q) / dot(s, y);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(n: usize) -> (Vec<f32>, Vec<usize>) {
        let mut state = 5u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
        let centre = [[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]];
        let x = labels
            .iter()
            .flat_map(|&l| [centre[l][0] + next(), centre[l][1] + next()])
            .collect();
        (x, labels)
    }

    #[test]
    fn clear_groups_are_told_apart() {
        let (x, labels) = blobs(600);
        let probe = Probe::fit(&x, &labels, 2, 3, &ProbeOptions::default()).unwrap();
        assert!(probe.converged, "{} steps", probe.iterations);
        let right = probe
            .predict(&x)
            .unwrap()
            .iter()
            .zip(&labels)
            .filter(|(a, b)| a == b)
            .count();
        assert!(right > 595, "{right}");
    }

    #[test]
    fn the_gradient_is_that_of_the_objective() {
        let (x, labels) = blobs(40);
        let problem = Problem {
            x: &x,
            labels: &labels,
            dim: 2,
            classes: 3,
            c: 0.7,
        };
        let at: Vec<f64> = (0..9).map(|i| (f64::from(i) * 0.7).sin()).collect();
        let (_, gradient) = problem.at(&at);
        for i in 0..9 {
            let value = |delta: f64| {
                let mut there = at.clone();
                there[i] += delta;
                problem.at(&there).0
            };
            let expected = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!(
                (gradient[i] - expected).abs() < 1e-6 * expected.abs().max(1.0),
                "{i}: {} {expected}",
                gradient[i]
            );
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, labels) = blobs(3000);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Probe::fit(&x, &labels, 2, 3, &ProbeOptions::default()).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn doubtful_input_is_refused() {
        let with = |c| ProbeOptions {
            c,
            ..ProbeOptions::default()
        };
        assert!(matches!(
            Probe::fit(&[1.0], &[0], 1, 1, &with(0.0)),
            Err(EvalError::Parameter { .. })
        ));
        assert!(matches!(
            Probe::fit(&[1.0], &[1], 1, 1, &with(1.0)),
            Err(EvalError::Index { .. })
        ));
        assert!(matches!(
            Probe::fit(&[f32::NAN], &[0], 1, 1, &with(1.0)),
            Err(EvalError::NotFinite { .. })
        ));
    }
}
