//! Sums of two vectors in place, on all cores. Numbers do not mix with their neighbours, so that the result does not depend on the number of threads.
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;

/// Numbers per task.
const CHUNK: usize = 32 * 1024;

/// `to ← to + x`.
///
/// # Shapes
/// The same length.
pub fn add(to: &mut [f32], x: &[f32]) {
    blend(to, x, Kind::Add);
}

/// `to ← to · factor`.
pub fn scale(to: &mut [f32], factor: f32) {
    to.par_chunks_mut(CHUNK).for_each(|to| dispatch(Scale { to, factor }));
}

/// `to ← to + share · (x - to)`: where both are equal nothing moves.
///
/// # Shapes
/// The same length.
pub fn approach(to: &mut [f32], x: &[f32], share: f32) {
    blend(to, x, Kind::Approach(share));
}

#[derive(Clone, Copy)]
enum Kind {
    Add,
    Approach(f32),
}

fn blend(to: &mut [f32], x: &[f32], kind: Kind) {
    assert_eq!(to.len(), x.len(), "blend: vectors differ in length");
    to.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(to, x)| dispatch(Blend { to, x, kind }));
}

struct Blend<'a> {
    to: &'a mut [f32],
    x: &'a [f32],
    kind: Kind,
}
impl Task for Blend<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { to, x, kind } = self;
        match kind {
            Kind::Add => crate::linear::add(s, x, to),
            Kind::Approach(share) => {
                for i in steps::<S>(to.len()) {
                    let old = s.get(&to[i..]);
                    let new = s.fma(s.sub(s.get(&x[i..]), old), s.splat(share), old);
                    s.set(&mut to[i..], new);
                }
            }
        }
    }
}

struct Scale<'a> {
    to: &'a mut [f32],
    factor: f32,
}
impl Task for Scale<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in steps::<S>(self.to.len()) {
            let new = s.mul(s.get(&self.to[i..]), s.splat(self.factor));
            s.set(&mut self.to[i..], new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, wide};

    #[test]
    fn they_agree_with_f64() {
        each_isa(|isa| {
            for n in [0, 1, 17, CHUNK + 5] {
                let (a, x) = (numbers(n, 1), numbers(n, 2));
                let check = |found: &dyn Fn(&mut [f32]), truth: fn(f64, f64) -> f64| {
                    let mut to = a.clone();
                    found(&mut to);
                    let truth: Vec<f64> = wide(&a).iter().zip(wide(&x)).map(|(&a, x)| truth(a, x)).collect();
                    assert_close(&to, &truth, 1e-6, isa);
                };
                check(&|to| add(to, &x), |a, x| a + x);
                check(&|to| scale(to, 0.3), |a, _| a * f64::from(0.3f32));
                check(&|to| approach(to, &x, 0.25), |a, x| 0.75 * a + 0.25 * x);
                let mut same = a.clone();
                approach(&mut same, &a, 0.1);
                assert_eq!(same, a);
            }
        });
    }
}
