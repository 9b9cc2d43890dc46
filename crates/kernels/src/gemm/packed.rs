//! Right operands that are packed once and used again and again: weights that do not change.
use super::format::{Format, Precision};
use super::int8::Bytes;
use super::pack::panel_stride;
use super::{Mat, PanelStride, each, k_passes};
use crate::buffer::Shared;
use crate::simd::{Isa, Simd, Task, dispatch_on, isa};
use std::fmt;

/// Numbers of a cache line.
const LINE: usize = 16;

/// A right operand in the order in which tiles read it. Products with it give the same bits as with the matrix itself.
pub struct Packed(Form);

enum Form {
    Words(Words),
    Bytes(Bytes),
}

impl Packed {
    /// Packs a matrix, on the threads of the pool. It needs as much memory again, and a little more for panels that are not full; where the processor multiplies
    /// bf16, half as much for products in that precision; a quarter for those of eight-bit integers.
    pub fn new(b: Mat, precision: Precision) -> Self {
        b.check("b");
        Self(match precision {
            Precision::Int8 => Form::Bytes(Bytes::new(b)),
            Precision::F32 | Precision::Bf16 => Form::Words(Words::new(b, precision)),
        })
    }

    /// Whether it is what products in that precision read.
    pub fn serves(&self, precision: Precision) -> bool {
        let isa = isa();
        match &self.0 {
            Form::Words(words) => {
                precision != Precision::Int8 && (words.isa, words.format) == (isa, Format::of(precision, isa))
            }
            Form::Bytes(bytes) => precision == Precision::Int8 && bytes.serves(isa),
        }
    }

    /// As words, if they are of a matrix of that size, and in the order of that instruction set.
    pub(super) fn words(&self, isa: Isa, format: Format, b: Mat) -> Option<&Words> {
        match &self.0 {
            Form::Words(words) if words.fits(isa, format, b) => Some(words),
            _ => None,
        }
    }

    /// As eight-bit integers, if they are of a matrix of that size, and in the order of that instruction set.
    pub(super) fn bytes(&self, isa: Isa, b: Mat) -> Option<&Bytes> {
        match &self.0 {
            Form::Bytes(bytes) if bytes.fits(isa, b) => Some(bytes),
            _ => None,
        }
    }
}

/// A right operand whose panels are words.
pub(super) struct Words {
    isa: Isa,
    format: Format,
    k: usize,
    n: usize,
    /// The passes over k one after the other, of each all panels of columns; they begin at a cache line.
    data: Vec<f32>,
    first: usize,
}

impl Words {
    fn new(b: Mat, precision: Precision) -> Self {
        let isa = isa();
        let format = Format::of(precision, isa);
        let mut packed = Self {
            isa,
            format,
            k: b.rows,
            n: b.cols,
            data: Vec::new(),
            first: 0,
        };
        let words = format.words(b.rows);
        packed.data = vec![0.0; packed.start(words) + LINE];
        packed.first = packed.data.as_ptr().align_offset(64).min(LINE);
        for (k0, k1) in k_passes(words, format.unit()).filter(|(k0, k1)| k1 > k0) {
            let range = packed.first + packed.start(k0)..packed.first + packed.start(k1);
            let panels = (0, packed.panels());
            pack_panels(
                isa,
                format,
                b,
                (k0, k1 - k0),
                panels,
                rayon::current_num_threads(),
                &mut packed.data[range],
            );
        }
        packed
    }

    /// Whether it is of a matrix of that size, and in the order of that instruction set. An empty sum needs none.
    fn fits(&self, isa: Isa, format: Format, b: Mat) -> bool {
        self.k > 0 && (self.isa, self.format, self.k, self.n) == (isa, format, b.rows, b.cols)
    }

    /// The panels of the pass that begins at word `k0`.
    pub(super) fn pass(&self, k0: usize) -> &[f32] {
        &self.data[self.first + self.start(k0)..]
    }

    fn panels(&self) -> usize {
        self.n.div_ceil(dispatch_on(self.isa, Width))
    }

    /// Where the pass that begins at word `k0` begins; for the last word the length of all.
    fn start(&self, k0: usize) -> usize {
        let before = k_passes(self.format.words(self.k), self.format.unit()).filter(|&(_, end)| 0 < end && end <= k0);
        let panel: usize = before
            .map(|(from, to)| dispatch_on(self.isa, PanelStride(to - from)))
            .sum();
        panel * self.panels()
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.0 {
            Form::Words(words) => write!(f, "Packed({}×{})", words.k, words.n),
            Form::Bytes(bytes) => write!(f, "Packed({}×{}, int8)", bytes.k, bytes.n),
        }
    }
}

/// Packs the panels `from..to` of columns over the words `k0..k0 + kp`, [`panel_stride`] apart.
pub(super) fn pack_panels(
    isa: Isa,
    format: Format,
    b: Mat,
    (k0, kp): (usize, usize),
    (from, to): (usize, usize),
    threads: usize,
    dst: &mut [f32],
) {
    let (panel, nr) = (dispatch_on(isa, PanelStride(kp)), dispatch_on(isa, Width));
    assert!(dst.len() >= (to - from) * panel, "pack_panels: room for all panels");
    let shared = Shared::of(dst);
    let packers = if threads == 1 { 1 } else { (to - from).min(4 * threads) };
    each(packers, threads, |i| {
        let (first, last) = ((to - from) * i / packers, (to - from) * (i + 1) / packers);
        // SAFETY: these panels lie inside the buffer (asserted above) and belong to this task alone.
        let dst = unsafe { std::slice::from_raw_parts_mut(shared.ptr().add(first * panel), (last - first) * panel) };
        let cols = ((from + first) * nr, ((from + last) * nr).min(b.cols));
        dispatch_on(
            isa,
            PackB {
                format,
                b,
                k: (k0, kp),
                cols,
                dst,
            },
        );
    });
}

/// Columns of a tile.
pub(super) struct Width;
impl Task for Width {
    type Out = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        2 * S::LANES
    }
}

struct PackB<'a> {
    format: Format,
    b: Mat<'a>,
    k: (usize, usize),
    cols: (usize, usize),
    dst: &'a mut [f32],
}
impl Task for PackB<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let stride = panel_stride::<S>(2 * S::LANES, self.k.1);
        self.format.pack_b(s, self.b, self.k, self.cols, self.dst, stride);
    }
}
