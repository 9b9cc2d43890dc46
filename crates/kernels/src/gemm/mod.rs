//! Matrix products C (+)= A·B with packed operands, register tiles, and an epilogue that runs while a tile is in cache.
//!
//! Plan (after Goto & van de Geijn 2008): B is packed once, in panels as wide as a tile, by all threads; then each task packs a block of A rows small enough for the
//! second-level cache (or reads them where they lie, where B has few panels) and walks over the panels of B: one panel slice in the first-level cache, all row panels against it. Each number of C is summed over k in one
//! order that does not depend on the number of threads.
#[cfg(target_arch = "x86_64")]
mod amx;
mod format;
mod grid;
mod int8;
mod pack;
mod packed;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod thin;
mod tile;

use crate::activation::Activation;
use crate::buffer::{Scratch, Shared};
use crate::simd::{Isa, Simd, Task, dispatch_on, isa};
use crate::team::each;
use crate::trace;
use format::Format;
pub use format::{Precision, bf16_unit};
pub use grid::Grid;
pub use int8::int8_unit;
pub(crate) use int8::spin as spin_bytes;
pub(crate) use pack::pack_b;
use pack::panel_stride;
pub use packed::Packed;
use packed::{Words, pack_panels};
use tile::finish_tile;
pub(crate) use tile::{Lhs, MultiplyAdd, Tile, any_tile, tile_into};

/// A matrix somewhere in a slice: number `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Distance between rows, in numbers.
    pub row_stride: usize,
    /// Distance between columns, in numbers.
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// The transpose of the same numbers.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn check(&self, name: &str) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(
                last < self.data.len(),
                "gemm: {name} is {}×{} with strides {} and {}, but its slice has {} numbers",
                self.rows,
                self.cols,
                self.row_stride,
                self.col_stride,
                self.data.len()
            );
        }
    }
}

/// A right operand, perhaps with a copy of it that is packed already, and one of its transpose that is smaller.
#[derive(Clone, Copy)]
pub(crate) struct Rhs<'a> {
    pub mat: Mat<'a>,
    pub packed: Option<&'a Packed>,
    pub grid: Option<&'a Grid>,
}

impl<'a> From<Mat<'a>> for Rhs<'a> {
    fn from(mat: Mat<'a>) -> Self {
        Self {
            mat,
            packed: None,
            grid: None,
        }
    }
}

/// What happens to a number of C once its sum is complete: pre = sum (+ bias), y = act(pre) (+ residual).
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub act: Activation,
    /// Whether [`apply_near`](crate::activation::apply_near) will do.
    pub near: bool,
    /// Row-major, as large as C.
    pub residual: Option<&'a [f32]>,
    /// Where pre goes (row-major, as large as C).
    pub pre: Option<Shared>,
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// The threads of the pool.
    Pool,
    /// The thread that asks: one of several that compute parts of the same.
    Caller,
}

impl On {
    /// How many threads share a product of that many multiplications, if it takes at least `from` to be worth it.
    fn threads(self, multiplications: usize, from: usize) -> usize {
        if self == Self::Caller || multiplications < from {
            1
        } else {
            rayon::current_num_threads()
        }
    }
}

/// Words along k in one slice of a panel: 256 × 32 columns × 4 bytes are two thirds of a 48 KiB first-level cache.
const KC: usize = 256;
/// A block of A and its share of scratch: at most this many words (1 MiB, half of a typical second-level cache).
const A_BLOCK: usize = 256 * 1024;
/// Row panels in a block of A: a tile column of C then stays in the first-level cache.
const A_PANELS: usize = 16;
/// Blocks of rows for each thread, as long as they hold [`FEW_PANELS`].
const BLOCKS_PER_THREAD: usize = 8;
const FEW_PANELS: usize = 6;
/// Most words along k that one pass over B takes: a full block of A then stays within its share of a second-level cache that two hardware threads use.
const K_PASS: usize = 800;
/// Words of packed B in one pass (32 MiB).
const B_PASS: usize = 8 << 20;
/// Products of fewer multiplications than this run on the calling thread.
const PARALLEL_FROM: usize = 100 * 100 * 100;

/// C = A·B, or C += A·B when `accumulate`. With [`Precision::Bf16`] numbers of A and B are rounded to bf16 first; sums stay f32. With [`Precision::Int8`] both become
/// eight-bit integers, unless the product is added to what is there.
///
/// # Shapes
/// `a`: `m×k`, `b`: `k×n`, `c`: row-major `m×n`.
pub fn gemm(a: Mat, b: Mat, c: &mut [f32], accumulate: bool, precision: Precision) {
    assert_eq!(c.len(), a.rows * b.cols, "gemm: c must be {}×{}", a.rows, b.cols);
    // SAFETY: `c` has m·n numbers, all of them initialised.
    unsafe {
        gemm_into(
            a,
            b.into(),
            Shared::of(c),
            accumulate,
            &Epilogue::default(),
            precision,
            On::Pool,
        )
    }
}

/// As [`gemm`], into memory that may be uninitialised, with an epilogue. Every number of C (and of `pre`) is written.
///
/// # Safety
/// `c` must be writable for `m·n` numbers, and readable when `accumulate`; the same for `epilogue.pre`.
pub(crate) unsafe fn gemm_into(
    a: Mat,
    rhs: Rhs,
    c: Shared,
    accumulate: bool,
    epilogue: &Epilogue,
    precision: Precision,
    on: On,
) {
    let b = rhs.mat;
    assert_eq!(a.cols, b.rows, "gemm: a has {} columns, b has {} rows", a.cols, b.rows);
    a.check("a");
    b.check("b");
    let (m, n) = (a.rows, b.cols);
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), n, "gemm: one bias per column");
    }
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), m * n, "gemm: residual as large as c");
    }
    if m == 0 || n == 0 {
        return;
    }
    trace::operations(|| 2 * m * n * a.cols);
    let isa = isa();
    if precision == Precision::Int8 && !accumulate {
        let own;
        let bytes = match rhs.packed.and_then(|packed| packed.bytes(isa, b)) {
            Some(bytes) => bytes,
            None => {
                own = int8::Bytes::new(b);
                &own
            }
        };
        // SAFETY: the caller's contract, and what was checked above.
        return unsafe { int8::run(isa, a, bytes, c, epilogue, on) };
    }
    let format = Format::of(precision, isa);
    let packed = rhs.packed.and_then(|packed| packed.words(isa, format, b));
    let plan = Plan::new(isa, format, a, b, packed, c, epilogue, on);
    if thin::applies(a, b, accumulate) {
        let grid = rhs.grid.filter(|grid| grid.fits(b.rows, b.cols));
        return thin::run(isa, &plan, grid);
    }
    for (k0, k1) in k_passes(plan.words, format.unit()) {
        plan.pass(k0, k1 - k0, accumulate || k0 > 0, k1 == plan.words);
    }
}

/// Parts of the words along k, each for one pass over B.
fn k_passes(words: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> {
    parts(words, unit, words.div_ceil(K_PASS).max(1))
}

/// About equal parts of some words, which are a multiple of `unit`.
#[inline(always)]
fn parts(words: usize, unit: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    let units = words / unit;
    (0..count).map(move |part| (units * part / count * unit, units * (part + 1) / count * unit))
}

/// One product and the geometry of its tiles.
#[derive(Clone, Copy)]
struct Plan<'a> {
    isa: Isa,
    format: Format,
    a: Mat<'a>,
    b: Mat<'a>,
    packed: Option<&'a Words>,
    c: Shared,
    epilogue: &'a Epilogue<'a>,
    on: On,
    m: usize,
    n: usize,
    k: usize,
    /// Words of a packed line; where k is divided, it is by words.
    words: usize,
    /// Rows and columns of a tile.
    mr: usize,
    nr: usize,
}

/// Part of a product that one task computes.
#[derive(Clone, Copy)]
struct Part {
    /// Words along k: the first, and how many.
    k0: usize,
    kp: usize,
    /// Whether C already holds a partial sum.
    add: bool,
    /// Whether the sum is complete afterwards.
    last: bool,
    /// Row panels and column panels.
    rows: (usize, usize),
    cols: (usize, usize),
}

impl<'a> Plan<'a> {
    fn new(
        isa: Isa,
        format: Format,
        a: Mat<'a>,
        b: Mat<'a>,
        packed: Option<&'a Words>,
        c: Shared,
        epilogue: &'a Epilogue<'a>,
        on: On,
    ) -> Self {
        let (mr, lanes) = dispatch_on(isa, Geometry(format));
        Self {
            isa,
            format,
            a,
            b,
            packed,
            c,
            epilogue,
            on,
            m: a.rows,
            n: b.cols,
            k: a.cols,
            words: format.words(a.cols),
            mr,
            nr: 2 * lanes,
        }
    }

    /// Adds the products over the words `k0..k0 + kp`.
    fn pass(&self, k0: usize, kp: usize, add: bool, last: bool) {
        let threads = self.on.threads(self.m * self.n * self.k, PARALLEL_FROM);
        let row_panels = self.m.div_ceil(self.mr);
        let col_panels = self.n.div_ceil(self.nr);
        let block_panels = (A_BLOCK / (kp.max(1) * self.mr)).clamp(1, A_PANELS);
        let part = Part {
            k0,
            kp,
            add,
            last,
            rows: (0, row_panels),
            cols: (0, col_panels),
        };
        if row_panels <= block_panels && (threads == 1 || col_panels >= 2 * threads) {
            // All of A fits a block: nobody shares B, so that every task packs its own panels unless they are there.
            let packed_b = self.packed.map(|packed| (packed.pass(k0), 0));
            let chunks = if threads == 1 { 1 } else { col_panels.min(2 * threads) };
            let run = |i: usize| {
                let cols = (col_panels * i / chunks, col_panels * (i + 1) / chunks);
                dispatch_on(
                    self.isa,
                    Block {
                        plan: self,
                        part: Part { cols, ..part },
                        packed_b,
                    },
                );
            };
            return each(chunks, threads, run);
        }
        let blocks = |packed: &[f32], first: usize, (j0, j1): (usize, usize)| {
            // More blocks than the cache asks for, as long as each reuses a panel of B a few times: the last ones to finish then wait less for each other.
            let even = (BLOCKS_PER_THREAD * threads).min(row_panels / FEW_PANELS);
            let wanted = row_panels.div_ceil(block_panels).max(even).next_multiple_of(threads);
            let row_blocks = wanted.min(row_panels);
            let col_chunks = if row_blocks >= threads {
                1
            } else {
                (2 * threads).div_ceil(row_blocks).min(j1 - j0)
            };
            each(row_blocks * col_chunks, threads, |i| {
                let (r, q) = (i / col_chunks, i % col_chunks);
                let rows = (row_panels * r / row_blocks, row_panels * (r + 1) / row_blocks);
                let cols = (j0 + (j1 - j0) * q / col_chunks, j0 + (j1 - j0) * (q + 1) / col_chunks);
                dispatch_on(
                    self.isa,
                    Block {
                        plan: self,
                        part: Part { rows, cols, ..part },
                        packed_b: Some((packed, first)),
                    },
                );
            });
        };
        if let Some(packed) = self.packed {
            return blocks(packed.pass(k0), 0, (0, col_panels));
        }
        let pass_panels = (B_PASS / (kp.max(1) * self.nr)).max(1);
        for j0 in (0..col_panels).step_by(pass_panels) {
            let j1 = (j0 + pass_panels).min(col_panels);
            let mut memory = Scratch::take((j1 - j0) * dispatch_on(self.isa, PanelStride(kp)));
            let buffer = memory.numbers();
            pack_panels(self.isa, self.format, self.b, (k0, kp), (j0, j1), threads, buffer);
            blocks(buffer, j0, (j0, j1));
        }
    }
}

struct Geometry(Format);
impl Task for Geometry {
    type Out = (usize, usize);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (self.0.rows::<S>(), S::LANES)
    }
}

struct PanelStride(usize);
impl Task for PanelStride {
    type Out = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        panel_stride::<S>(2 * S::LANES, self.0)
    }
}

/// A block of rows against a range of column panels.
struct Block<'a> {
    plan: &'a Plan<'a>,
    part: Part,
    /// Packed panels, and the number of the first; without them the block packs its own.
    packed_b: Option<(&'a [f32], usize)>,
}
impl Task for Block<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { plan, part, packed_b } = self;
        let Part {
            k0,
            kp,
            add,
            last,
            rows: (p0, p1),
            cols: (j0, j1),
        } = part;
        let (format, nr) = (plan.format, 2 * S::LANES);
        let mr = format.rows::<S>();
        let (r0, r1) = (p0 * mr, (p1 * mr).min(plan.m));
        let (a_stride, b_stride) = (panel_stride::<S>(mr, kp), panel_stride::<S>(nr, kp));
        // Rows of B that lie side by side are read in longer runs when several panels are packed at once.
        let group = if plan.b.col_stride == 1 { 4 } else { 1 };
        let in_place = format.reads_in_place(plan.a, j1 - j0);
        let a_len = if in_place { 0 } else { (p1 - p0) * a_stride };
        let sums_len = format.apart().map_or(0, |(tile, _)| (p1 - p0) * tile);
        let mut memory = Scratch::take(a_len + sums_len + if packed_b.is_some() { 0 } else { group * b_stride });
        let (a, rest) = memory.numbers().split_at_mut(a_len);
        let (sums, own) = rest.split_at_mut(sums_len);
        if !in_place {
            format.pack_a(s, plan.a, (r0, r1), (k0, kp), a);
        }
        let _ready = format.begin();
        let slices = kp.div_ceil(KC).max(1);
        for j in j0..j1 {
            let b = match packed_b {
                Some((panels, first)) => &panels[(j - first) * b_stride..][..b_stride],
                None => {
                    let place = (j - j0) % group;
                    if place == 0 {
                        format.pack_b(
                            s,
                            plan.b,
                            (k0, kp),
                            (j * nr, ((j + group).min(j1) * nr).min(plan.n)),
                            own,
                            b_stride,
                        );
                    }
                    &own[place * b_stride..][..b_stride]
                }
            };
            let cols = nr.min(plan.n - j * nr);
            for (slice, (q0, q1)) in parts(kp, format.unit(), slices).enumerate() {
                let finish = slice + 1 == slices;
                // While these tiles are computed, the next slice of B comes nearer: each tile fetches one line per four steps along k, or four where tiles are few.
                let next = b.as_ptr().wrapping_add(q1 * nr);
                let hurry = format.apart().is_none() && (r1 - r0) / mr <= nr / 8;
                let (covered, lines) = if hurry { (nr / 16, 4) } else { (nr / 4, 1) };
                for p in 0..p1 - p0 {
                    let row = r0 + p * mr;
                    let at = row * plan.n + j * nr;
                    let rows = mr.min(r1 - row);
                    // SAFETY: panel `p` holds kp·mr words, or A itself is read, which `check` saw to have all its rows; panel `j` of B holds kp·nr; the tile lies inside C
                    // (rows < m, cols < n) and inside this task's rows and columns.
                    unsafe {
                        let a = if in_place {
                            let from = plan.a.data.as_ptr().wrapping_add(row * plan.a.row_stride + k0 + q0);
                            Lhs {
                                ptr: from,
                                row: plan.a.row_stride,
                                k: 1,
                            }
                        } else {
                            format.lhs::<S>(a.as_ptr().add(p * a_stride), q0)
                        };
                        let (b, c) = (b.as_ptr().add(q0 * nr), plan.c.ptr().add(at));
                        let ahead = if p < covered {
                            next.wrapping_add(p * lines * (q1 - q0) / 4 * 16)
                        } else {
                            b
                        };
                        let to = Tile {
                            c,
                            stride: plan.n,
                            rows,
                            cols,
                            ahead,
                            hurry,
                        };
                        let apart = format
                            .apart()
                            .map(|(tile, stride)| (sums.as_mut_ptr().add(p * tile), stride));
                        match apart {
                            Some((c, stride)) => format.tile(s, q1 - q0, a, b, Tile { c, stride, ..to }, slice > 0),
                            None => format.tile(s, q1 - q0, a, b, to, add || slice > 0),
                        }
                        if finish {
                            let epilogue = if last { plan.epilogue } else { &Epilogue::default() };
                            let apart = apart.map(|(c, stride)| (c.cast_const(), stride));
                            finish_tile(s, to, apart, add, at, j * nr, epilogue);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod bf16_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers};
    use proptest::prelude::*;

    fn naive(a: Mat, b: Mat, c: &[f32], accumulate: bool) -> Vec<f64> {
        let at = |m: Mat, i: usize, j: usize| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
        (0..a.rows * b.cols)
            .map(|x| {
                let (i, j) = (x / b.cols, x % b.cols);
                (0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum::<f64>()
                    + if accumulate { f64::from(c[x]) } else { 0.0 }
            })
            .collect()
    }

    /// A matrix with one of four layouts: rows or columns contiguous, a view into wider rows, or both strides larger than one.
    pub(super) fn matrix(data: &[f32], rows: usize, cols: usize, layout: usize) -> Mat<'_> {
        match layout % 4 {
            0 => Mat::new(data, rows, cols),
            1 => Mat::new(data, cols, rows).t(),
            2 => Mat {
                data,
                rows,
                cols,
                row_stride: cols + 3,
                col_stride: 1,
            },
            _ => Mat {
                data,
                rows,
                cols,
                row_stride: 2 * cols + 1,
                col_stride: 2,
            },
        }
    }

    fn check(m: usize, k: usize, n: usize, layouts: usize, accumulate: bool) {
        let (da, db, mut c) = (
            numbers(m * (2 * k + 4) + 8, 1),
            numbers(k * (2 * n + 4) + 8, 2),
            numbers(m * n, 3),
        );
        let (a, b) = (matrix(&da, m, k, layouts), matrix(&db, k, n, layouts / 4));
        let truth = naive(a, b, &c, accumulate);
        gemm(a, b, &mut c, accumulate, Precision::F32);
        assert_close(
            &c,
            &truth,
            2e-5,
            &format!("{m}×{k}×{n} layouts {layouts} accumulate {accumulate}"),
        );
    }

    #[test]
    fn every_shape_class_layout_and_instruction_set() {
        each_isa(|_| {
            for (m, k, n) in [
                (0, 3, 3),
                (3, 0, 3),
                (3, 3, 0),
                (1, 1, 1),
                (1, 7, 100),
                (13, 16, 31),
                (14, 17, 32),
                (15, 33, 33),
                (29, 300, 65),
                (230, 40, 70),
                (33, 600, 20),
                // A is packed even where its rows lie side by side: many columns, and rows 4 KiB apart
                (29, 40, 300),
                (15, 1024, 33),
            ] {
                for layouts in 0..16 {
                    check(m, k, n, layouts, layouts % 3 == 0);
                }
            }
        });
    }

    #[test]
    fn a_packed_operand_gives_the_same_bits() {
        each_isa(|_| {
            for (m, k, n) in [
                (3, 40, 70),
                (20, 0, 5),
                (20, 33, 31),
                (64, K_PASS + 9, 100),
                (300, 2 * K_PASS + 1, 65),
            ] {
                let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
                let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
                let packed = Packed::new(b, Precision::F32);
                let (mut plain, mut again) = (vec![0.0; m * n], vec![1.0; m * n]);
                gemm(a, b, &mut plain, false, Precision::F32);
                let rhs = Rhs {
                    mat: b,
                    packed: Some(&packed),
                    grid: None,
                };
                // SAFETY: `again` has m·n numbers.
                unsafe {
                    gemm_into(
                        a,
                        rhs,
                        Shared::of(&mut again),
                        false,
                        &Epilogue::default(),
                        Precision::F32,
                        On::Pool,
                    )
                };
                assert_eq!(plain, again, "{m}×{k}×{n}");
            }
        });
    }

    #[test]
    fn several_passes_over_k() {
        check(17, 2 * K_PASS + 5, 40, 0, false);
        check(300, K_PASS + 1, 33, 4, true);
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (a, b) = (numbers(500 * 300, 1), numbers(300 * 200, 2));
        let run = |threads| {
            let mut c = vec![0.0; 500 * 200];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                gemm(
                    Mat::new(&a, 500, 300),
                    Mat::new(&b, 200, 300).t(),
                    &mut c,
                    false,
                    Precision::F32,
                )
            });
            c
        };
        let one = run(1);
        assert!([2, 3, 8].iter().all(|&t| run(t) == one));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_small_product(m in 0usize..70, k in 0usize..70, n in 0usize..70, layouts in 0usize..16, accumulate: bool) {
            check(m, k, n, layouts, accumulate);
        }
    }
}
