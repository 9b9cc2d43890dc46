//! Distillation of similarity distributions: a student's softmaxed similarities are held to a teacher's, over rows and over columns.
use super::{Contrast, Gradients, RUN, RowLse, Sides, Stream, chunk_rows, sum_rows};
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};

/// How far the student's distribution p is from the teacher's q. Both have the same gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// −Σ q log p.
    CrossEntropy,
    /// Σ q (log q − log p), which is 0 when student and teacher agree.
    KullbackLeibler,
}

/// A teacher's similarities: as many rows on both sides as the student has, of any width.
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// Its rows.
    pub sides: Sides<'a>,
    /// What ⟨x, y⟩ is multiplied by.
    pub scale: f32,
}

/// ½ (mean over rows + mean over columns) of the divergence between softmax(teacher) and softmax(scale·⟨x, y⟩).
///
/// `need` says which of the gradients of `x` and `y` are computed, `rows` overrides the size of a chunk. Similarities of both are computed twice.
pub fn distill(
    sides: Sides,
    scale: f32,
    teacher: Teacher,
    divergence: Divergence,
    need: [bool; 2],
    rows: Option<usize>,
) -> Contrast {
    sides.check("distill");
    teacher.sides.check("distill, teacher");
    let size = (teacher.sides.n, teacher.sides.m);
    assert_eq!(
        size,
        (sides.n, sides.m),
        "distill: the teacher must have [n, m] similarities"
    );
    // Two chunks are held at a time.
    let rows = chunk_rows(sides.n, 2 * sides.m, rows);
    let streams = [Stream::new(sides, rows), Stream::new(teacher.sides, rows)];
    let mut buffers = [streams[0].buffer(), streams[1].buffer()];
    let scales = [scale, teacher.scale];
    let column_lse = [0, 1].map(|k| streams[k].column_lse(scales[k], &mut buffers[k]));
    let mut gradients = Gradients::new(sides, need);
    let mut totals = [0.0; 2];
    let [student_z, teacher_z] = &mut buffers;
    let shares = [0.5 / sides.n.max(1) as f32, 0.5 / sides.m.max(1) as f32];
    for range in streams[0].chunks() {
        let z = streams[0].products(range.clone(), student_z);
        let t = &*streams[1].products(range.clone(), teacher_z);
        sum_rows(z, sides.m, range.start, &mut totals, |i, z| {
            let t = &t[(i - range.start) * sides.m..][..sides.m];
            let lse = [
                dispatch(RowLse { z, scale }) as f32,
                dispatch(RowLse { z: t, scale: scales[1] }) as f32,
            ];
            dispatch(Derive {
                z,
                t,
                scales,
                lse,
                columns: [&column_lse[0], &column_lse[1]],
                shares,
                kl: divergence == Divergence::KullbackLeibler,
            })
        });
        gradients.push(range, z);
    }
    let (x, y) = gradients.finish();
    Contrast {
        loss: totals[0],
        x,
        y,
        scale: totals[1],
        bias: 0.0,
    }
}

/// Turns a row of ⟨x, y⟩ into the derivative with respect to it; returns what it adds to the loss and to the derivative of the scale.
struct Derive<'a> {
    z: &'a mut [f32],
    t: &'a [f32],
    /// Each pair is the student's, then the teacher's.
    scales: [f32; 2],
    lse: [f32; 2],
    columns: [&'a [f32]; 2],
    /// Weights of a row's and of a column's divergence.
    shares: [f32; 2],
    kl: bool,
}
impl Task for Derive<'_> {
    type Out = [f64; 2];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f64; 2] {
        let [scale, teacher_scale] = self.scales.map(|v| s.splat(v));
        let row_lse = self.lse.map(|v| s.splat(v));
        let shares = self.shares.map(|v| s.splat(v));
        let mut totals = [0.0; 2];
        for (at, run) in self.z.chunks_mut(RUN).enumerate() {
            let mut acc = [s.zero(); 2];
            for i in steps::<S>(run.len()) {
                let (j, left) = (at * RUN + i, run.len() - i);
                let dot = s.get(&run[i..]);
                let z = s.mul(dot, scale);
                let t = s.mul(s.get(&self.t[j..]), teacher_scale);
                let column_lse = self.columns.map(|lse| s.get(&lse[j..]));
                let mut g = s.zero();
                for (lse, share) in [row_lse, column_lse].into_iter().zip(shares) {
                    let (log_p, log_q) = (s.sub(z, lse[0]), s.sub(t, lse[1]));
                    let q = exp(s, log_q);
                    let missing = if self.kl {
                        s.sub(log_q, log_p)
                    } else {
                        s.sub(s.zero(), log_p)
                    };
                    acc[0] = s.add(acc[0], s.head(s.mul(s.mul(share, q), missing), left));
                    g = s.fma(share, s.sub(exp(s, log_p), q), g);
                }
                acc[1] = s.fma(g, dot, acc[1]);
                s.set(&mut run[i..], s.mul(g, scale));
            }
            for (total, acc) in totals.iter_mut().zip(acc) {
                *total += f64::from(s.sum(acc));
            }
        }
        totals
    }
}
