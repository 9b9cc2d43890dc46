//! Products of a few rows with a transposed weight: dot products along k, bound by reading the weight once.
use super::{Mat, Plan, each};
use crate::activation::{apply, per_activation};
use crate::simd::{Isa, Simd, Task, dispatch_on, steps};

/// Rows of A up to which reading B unpacked wins.
const ROWS: usize = 4;

/// Whether both operands run along k and A is thin.
pub(super) fn applies(a: Mat, b: Mat, accumulate: bool) -> bool {
    a.rows <= ROWS && a.col_stride == 1 && b.row_stride == 1 && !accumulate && a.cols > 0
}

pub(super) fn run(isa: Isa, plan: &Plan) {
    let threads = if plan.n * plan.k < 32 * 1024 {
        1
    } else {
        rayon::current_num_threads()
    };
    let chunks = if threads == 1 {
        1
    } else {
        (4 * threads).min(plan.n.div_ceil(16))
    };
    each(chunks, threads, |i| {
        dispatch_on(
            isa,
            Chunk {
                plan,
                from: plan.n * i / chunks,
                to: plan.n * (i + 1) / chunks,
            },
        )
    });
}

struct Chunk<'a> {
    plan: &'a Plan<'a>,
    from: usize,
    to: usize,
}

impl Task for Chunk<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { plan, from, to } = self;
        for j in from..to {
            let w = &plan.b.data[j * plan.b.col_stride..][..plan.k];
            match plan.m {
                1 => dots::<S, 1>(s, plan, j, w),
                2 => dots::<S, 2>(s, plan, j, w),
                3 => dots::<S, 3>(s, plan, j, w),
                _ => dots::<S, 4>(s, plan, j, w),
            }
        }
    }
}

#[inline(always)]
fn dots<S: Simd, const M: usize>(s: S, plan: &Plan, j: usize, w: &[f32]) {
    let rows: [&[f32]; M] = std::array::from_fn(|i| &plan.a.data[i * plan.a.row_stride..][..plan.k]);
    // Two accumulators per row hide the latency of the additions.
    let mut acc = [[s.zero(); 2]; M];
    let mut odd = 0;
    for k in steps::<S>(plan.k) {
        let b = s.get(&w[k..]);
        for i in 0..M {
            acc[i][odd] = s.fma(s.get(&rows[i][k..]), b, acc[i][odd]);
        }
        odd ^= 1;
    }
    for i in 0..M {
        let e = plan.epilogue;
        let at = i * plan.n + j;
        let v = s.sum(s.add(acc[i][0], acc[i][1])) + e.bias.map_or(0.0, |b| b[j]);
        let y = per_activation!(e.act, act => first(s, apply(s, act, s.splat(v)))) + e.residual.map_or(0.0, |r| r[at]);
        // SAFETY: (i, j) lies inside C and `pre`; column j belongs to this task.
        unsafe {
            if let Some(pre) = e.pre {
                pre.ptr().add(at).write(v);
            }
            plan.c.ptr().add(at).write(y);
        }
    }
}

#[inline(always)]
fn first<S: Simd>(s: S, v: S::V) -> f32 {
    let mut lane = [0f32];
    s.set(&mut lane, v);
    lane[0]
}
