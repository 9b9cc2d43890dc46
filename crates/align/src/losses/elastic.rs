//! Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): what former tasks have come to need moves less.
//!
//! A task asks for `λ/2 Σ F (θ − θ*)²`, with θ* the weights that it ended with and F how much its loss depends on each of them: the diagonal of the
//! empirical Fisher matrix, the mean of squared gradients. The sum over tasks is a quadratic again, `A (θ − c)²` and a constant, with A = Σ F and
//! c = Σ F θ* / A, so that two numbers a weight hold any number of tasks.

use std::collections::BTreeMap;

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused;
use bifocal_nn::{Module, Tensor, params};

/// What former tasks ask of one parameter.
#[derive(Clone, Debug)]
pub struct Held {
    /// The parameter's.
    pub shape: Vec<usize>,
    /// A, one for each value, row-major; not below 0.
    pub importance: Tensor<1>,
    /// c.
    pub center: Tensor<1>,
}

impl Held {
    /// Of no task.
    pub fn nothing(shape: Vec<usize>) -> Self {
        let n = shape.iter().product();
        let zeros = || tensor(vec![0.0; n], [n]);
        Self {
            shape,
            importance: zeros(),
            center: zeros(),
        }
    }

    /// With what one more task asks: F and θ*.
    ///
    /// # Panics
    /// When there are not as many as the parameter has values.
    #[must_use]
    pub fn and(self, importance: &[f32], at: &[f32]) -> Self {
        let (mut a, mut c) = (values(self.importance), values(self.center));
        assert_eq!(
            [importance.len(), at.len()],
            [a.len(); 2],
            "Held::and: vectors differ in length"
        );
        for ((a, c), (&f, &x)) in a.iter_mut().zip(&mut c).zip(importance.iter().zip(at)) {
            *a += f;
            // the share of the new task; what nobody needs is where it was last
            let share = if *a > 0.0 { f / *a } else { 1.0 };
            *c = if share == 1.0 { x } else { *c + share * (x - *c) };
        }
        let n = a.len();
        Self {
            shape: self.shape,
            importance: tensor(a, [n]),
            center: tensor(c, [n]),
        }
    }
}

/// `weight / 2 · Σ A (θ − c)²` over the parameters that learn, by name; `None` when none of them is held.
///
/// # Shapes
/// The result `[1]`.
///
/// # Panics
/// When a parameter has another number of values than what holds it.
pub fn elastic<M: Module>(module: &M, held: &BTreeMap<String, Held>, weight: f32) -> Option<Tensor<1>> {
    let mut sum: Option<Tensor<1>> = None;
    params::vectors(module, |name, x| {
        let Some(held) = held.get(name).filter(|_| x.is_tracked()) else {
            return;
        };
        let term = fused::elastic(x, held.importance.clone(), held.center.clone(), weight);
        sum = Some(match sum.take() {
            Some(sum) => sum + term,
            None => term,
        });
    });
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use bifocal_nn::composed;
    use bifocal_nn::engine::scalar;
    use bifocal_nn::init::Rng;
    use bifocal_nn::layers::Linear;
    use bifocal_nn::optim::Gradients;

    const WEIGHT: f32 = 3.5;

    /// Three times as many numbers as one chunk of the kernel, so that sums meet.
    const MANY: usize = 100_000;

    fn vectors(n: usize) -> [Vec<f32>; 3] {
        let mut rng = Rng::new(5);
        let mut normal = || (0..n).map(|_| rng.normal()).collect::<Vec<_>>();
        let [x, importance, center] = [normal(), normal(), normal()];
        [x, importance.into_iter().map(|f| f * f).collect(), center]
    }

    fn naive([x, a, c]: [&[f32]; 3]) -> f64 {
        let term = |i: usize| f64::from(a[i]) * (f64::from(x[i]) - f64::from(c[i])).powi(2);
        0.5 * f64::from(WEIGHT) * (0..x.len()).map(term).sum::<f64>()
    }

    type Loss = fn(Tensor<1>, Tensor<1>, Tensor<1>, f32) -> Tensor<1>;

    #[test]
    fn equals_its_naive_twin_with_its_slope() {
        // the composed one adds all up in one f32
        for (n, loss, near) in [
            (7, fused::elastic as Loss, 1e-6),
            (MANY, fused::elastic, 1e-6),
            (MANY, composed::elastic, 1e-4),
        ] {
            let all = vectors(n);
            let [x, a, c] = all.clone().map(|v| tensor(v, [n]));
            let x = x.autodiff().require_grad();
            let value = loss(x.clone(), a, c, WEIGHT);
            let expected = naive(all.each_ref().map(Vec::as_slice));
            let found = f64::from(scalar(value.clone()));
            assert!((found - expected).abs() <= near * expected, "{found} {expected}");
            // recorded once more through another operation
            let grads = (value * 2.0).backward();
            let grads = x.grad(&grads).map(values).expect("x learns");
            let step = 1e-3;
            for i in (0..n).step_by(1 + n / 50) {
                let at = |by: f32| {
                    let one = |v: &Vec<f32>| [v[i]];
                    let [x, a, c] = all.each_ref().map(one);
                    (naive([&[x[0] + by], &a, &c]), x[0] + by)
                };
                let ((up, right), (down, left)) = (at(step), at(-step));
                let slope = 2.0 * (up - down) / f64::from(right - left);
                assert!(
                    (f64::from(grads[i]) - slope).abs() <= 1e-3 * slope.abs().max(1.0),
                    "{} {slope}",
                    grads[i]
                );
            }
        }
    }

    /// What two tasks ask for, one after the other, is what both ask for, but for a constant.
    #[test]
    fn two_tasks_are_one_quadratic() {
        let n = 40;
        let [first, second, other] = [1u64, 2, 3].map(|seed| {
            let mut rng = Rng::new(seed);
            (0..n).map(|_| rng.normal()).collect::<Vec<f32>>()
        });
        let square = |v: &[f32]| v.iter().map(|x| x * x).collect::<Vec<f32>>();
        let (mut f, g) = (square(&other), square(&first));
        f[3] = 0.0;
        let both = Held::nothing(vec![8, 5]).and(&f, &first).and(&g, &second);
        let (a, c) = (values(both.importance), values(both.center));
        let two = |x: &[f32]| naive([x, &f, &first]) + naive([x, &g, &second]);
        let [here, there] = [&other, &second];
        let (apart, merged) = (two(here) - two(there), naive([here, &a, &c]) - naive([there, &a, &c]));
        assert!((apart - merged).abs() < 1e-4 * apart.abs().max(1.0), "{apart} {merged}");
        // a value that no task needs stays with the last one's
        let none = Held::nothing(vec![n])
            .and(&vec![0.0; n], &first)
            .and(&vec![0.0; n], &second);
        assert_eq!(values(none.center), second);
        // one task is held where it ended, to the bit
        assert_eq!(values(Held::nothing(vec![n]).and(&g, &first).center), first);
    }

    /// Descending the sum of a quadratic loss and the penalty ends where calculus says: with none at the loss's own minimum, with a huge weight where
    /// the weights were.
    #[test]
    fn a_toy_ends_between_the_task_and_what_it_was() {
        let (wanted, was, importance) = (
            [1.0f32, -2.0, 0.5, 3.0],
            [0.0f32, 1.0, 2.0, 3.0],
            [1.0f32, 0.2, 4.0, 0.0],
        );
        for weight in [0.0f32, 1.0, 1e5] {
            let layer = Linear::new(4, 1, false, &mut Rng::new(1));
            let mut layer = params::set_trainable(layer, |_| true);
            let held = Held::nothing(vec![1, 4]).and(&importance, &was);
            let held = BTreeMap::from([("weight".to_owned(), held)]);
            for _ in 0..300 {
                let distance = layer.weight.val() - tensor(wanted.to_vec(), [1, 4]);
                let task = distance.powi_scalar(2).sum() * 0.5;
                let loss = task + elastic(&layer, &held, weight).expect("the weight is held");
                let grads = Gradients::collect(&layer, loss.backward());
                let slope = grads.get("weight").expect("it learns").to_vec();
                let mut x = values(layer.weight.val());
                for (i, x) in x.iter_mut().enumerate() {
                    *x -= slope[i] * 0.9 / (1.0 + weight * importance[i]);
                }
                let load = |_: &str, _: &[usize]| Ok::<_, ()>(Some(x.clone()));
                layer = params::load(layer, load).expect("four values");
            }
            for (i, x) in values(layer.weight.val()).into_iter().enumerate() {
                let pull = weight * importance[i];
                let expected = (wanted[i] + pull * was[i]) / (1.0 + pull);
                assert!(
                    (x - expected).abs() < 1e-4,
                    "{weight}: value {i} is {x}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_learn_is_not_counted() {
        let layer = params::set_trainable(Linear::new(4, 1, false, &mut Rng::new(1)), |_| false);
        let held = BTreeMap::from([("weight".to_owned(), Held::nothing(vec![1, 4]))]);
        assert!(elastic(&layer, &held, 1.0).is_none());
        assert!(elastic(&params::set_trainable(layer, |_| true), &BTreeMap::new(), 1.0).is_none());
    }
}
