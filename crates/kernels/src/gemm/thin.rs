//! Products of a few rows with a transposed weight: dot products along k, bound by reading the weight once.
use super::{Format, Grid, Mat, Plan, each};
use crate::activation::{apply, apply_near, per_activation};
use crate::simd::{Isa, Simd, Task, dispatch_on, steps};

/// Rows of A up to which reading B unpacked wins.
const ROWS: usize = 4;

/// Whether both operands run along k and A is thin.
pub(super) fn applies(a: Mat, b: Mat, accumulate: bool) -> bool {
    a.rows <= ROWS && a.col_stride == 1 && b.row_stride == 1 && !accumulate && a.cols > 0
}

pub(super) fn run(isa: Isa, plan: &Plan, grid: Option<&Grid>) {
    let threads = plan.on.threads(plan.n * plan.k, 32 * 1024);
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
                grid,
                from: plan.n * i / chunks,
                to: plan.n * (i + 1) / chunks,
            },
        )
    });
}

struct Chunk<'a> {
    plan: &'a Plan<'a>,
    grid: Option<&'a Grid>,
    from: usize,
    to: usize,
}

impl Task for Chunk<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { plan, grid, from, to } = self;
        match plan.m {
            1 => columns::<S, 1>(s, plan, grid, from, to),
            2 => columns::<S, 2>(s, plan, grid, from, to),
            3 => columns::<S, 3>(s, plan, grid, from, to),
            _ => columns::<S, 4>(s, plan, grid, from, to),
        }
    }
}

/// Columns `from..to`, four at a time: several streams through B keep more reads under way than one.
#[inline(always)]
fn columns<S: Simd, const M: usize>(s: S, plan: &Plan, grid: Option<&Grid>, from: usize, to: usize) {
    let mut j = from;
    while j + 4 <= to {
        finish::<S, M, 4>(s, plan, j, dots(s, plan, grid, j));
        j += 4;
    }
    while j < to {
        finish::<S, M, 1>(s, plan, j, dots(s, plan, grid, j));
        j += 1;
    }
}

/// Row by row of A, the sums over k with `J` columns of B, lane by lane.
#[inline(always)]
fn dots<S: Simd, const M: usize, const J: usize>(s: S, plan: &Plan, grid: Option<&Grid>, j: usize) -> [[S::V; J]; M] {
    let rows: [&[f32]; M] = std::array::from_fn(|i| &plan.a.data[i * plan.a.row_stride..][..plan.k]);
    let plain = plan.format == Format::Plain;
    if let Some(grid) = grid {
        return grid.dots(s, rows, j, plain);
    }
    let cols: [&[f32]; J] = std::array::from_fn(|q| &plan.b.data[(j + q) * plan.b.col_stride..][..plan.k]);
    let mut acc = [[s.zero(); J]; M];
    for k in steps::<S>(plan.k) {
        let mut x = [s.zero(); M];
        for i in 0..M {
            x[i] = rounded(s, s.get(&rows[i][k..]), plain);
        }
        for q in 0..J {
            let w = rounded(s, s.get(&cols[q][k..]), plain);
            for i in 0..M {
                acc[i][q] = s.fma(x[i], w, acc[i][q]);
            }
        }
    }
    acc
}

/// As products of bf16 read it, unless they are plain ones. No closure: those are not inlined where registers are wide.
#[inline(always)]
pub(super) fn rounded<S: Simd>(s: S, v: S::V, plain: bool) -> S::V {
    if plain { v } else { s.bf16(v) }
}

/// Writes the numbers of `J` columns.
#[inline(always)]
fn finish<S: Simd, const M: usize, const J: usize>(s: S, plan: &Plan, j: usize, acc: [[S::V; J]; M]) {
    for i in 0..M {
        for q in 0..J {
            let e = plan.epilogue;
            let at = i * plan.n + j + q;
            let v = s.sum(acc[i][q]) + e.bias.map_or(0.0, |b| b[j + q]);
            let y = per_activation!(e.act, act => {
                first(s, if e.near { apply_near(s, act, s.splat(v)) } else { apply(s, act, s.splat(v)) })
            });
            // SAFETY: (i, j + q) lies inside C and `pre`; these columns belong to this task.
            unsafe {
                if let Some(pre) = e.pre {
                    pre.ptr().add(at).write(v);
                }
                plan.c.ptr().add(at).write(y + e.residual.map_or(0.0, |r| r[at]));
            }
        }
    }
}

#[inline(always)]
fn first<S: Simd>(s: S, v: S::V) -> f32 {
    let mut lane = [0f32];
    s.set(&mut lane, v);
    lane[0]
}
