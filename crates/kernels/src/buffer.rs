//! Output vectors that are written once, parallel loops over their rows, and scratch memory that outlives a call.
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// Numbers that one parallel task should at least handle, so that starting it is small change.
const TASK_NUMBERS: usize = 16 * 1024;

/// Rows per parallel block for rows of `c` numbers. Depends on the shape only, so sums over blocks do not depend on the machine.
pub(crate) fn rows_per_block(c: usize) -> usize {
    (TASK_NUMBERS / c.max(1)).max(1)
}

/// A vector of `rows × c` numbers, filled block by block in parallel: `body(first_row, block)`.
///
/// # Safety
/// `body` must write every number of the block that it gets.
pub(crate) unsafe fn par_rows(rows: usize, c: usize, body: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * c);
    if rows * c > 0 {
        let block = rows_per_block(c);
        let spare = &mut out.spare_capacity_mut()[..rows * c];
        if rows <= block {
            body(0, spare);
        } else {
            spare
                .par_chunks_mut(block * c)
                .enumerate()
                .for_each(|(i, chunk)| body(i * block, chunk));
        }
        // SAFETY: the caller vouches that all blocks, hence all numbers, were written.
        unsafe { out.set_len(rows * c) };
    }
    out
}

/// As [`par_rows`], with `sums` running totals beside: `body(first_row, block, totals)` adds to totals that start at zero for each block of rows;
/// the totals of the blocks are then added in order, so that the result does not depend on the number of threads.
///
/// # Safety
/// `body` must write every number of the block that it gets. With `c == 0` blocks are empty and `width` alone decides how many rows a block has.
pub(crate) unsafe fn par_rows_sums(
    rows: usize,
    c: usize,
    width: usize,
    sums: usize,
    body: impl Fn(std::ops::Range<usize>, &mut [MaybeUninit<f32>], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let block = rows_per_block(width);
    let blocks = rows.div_ceil(block);
    let mut out = Vec::<f32>::with_capacity(rows * c);
    let base = Shared(out.as_mut_ptr());
    let mut totals = vec![0.0; blocks * sums];
    let places = Shared::of(&mut totals);
    let run = |i: usize| {
        let range = i * block..((i + 1) * block).min(rows);
        // SAFETY: blocks of rows, and the totals of each, are disjoint; both vectors have room for all of them.
        let (chunk, total) = unsafe {
            (
                std::slice::from_raw_parts_mut(
                    base.ptr().add(range.start * c).cast::<MaybeUninit<f32>>(),
                    range.len() * c,
                ),
                std::slice::from_raw_parts_mut(places.ptr().add(i * sums), sums),
            )
        };
        body(range, chunk, total);
    };
    if blocks <= 1 {
        (0..blocks).for_each(run);
    } else {
        (0..blocks).into_par_iter().for_each(run);
    }
    // SAFETY: the caller vouches that all blocks were written.
    unsafe { out.set_len(rows * c) };
    if blocks == 0 {
        totals.resize(sums, 0.0);
    }
    let (first, rest) = totals.split_at_mut(sums);
    for part in rest.chunks_exact(sums.max(1)) {
        first.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    totals.truncate(sums);
    (out, totals)
}

/// A vector of `len` numbers that `fill` writes through a pointer.
///
/// # Safety
/// `fill` must write all `len` numbers.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(Shared)) -> Vec<f32> {
    let mut out = Vec::<f32>::with_capacity(len);
    fill(Shared(out.as_mut_ptr()));
    // SAFETY: the caller vouches that all numbers were written.
    unsafe { out.set_len(len) };
    out
}

/// A pointer that parallel tasks write through at places of their own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: it is only an address; whoever writes through it vouches that tasks keep to disjoint places.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn of(x: &mut [f32]) -> Self {
        Self(x.as_mut_ptr())
    }
    /// The place `n` numbers further on.
    pub(crate) fn at(self, n: usize) -> Self {
        Self(self.0.wrapping_add(n))
    }
    #[inline(always)]
    pub(crate) fn ptr(self) -> *mut f32 {
        self.0
    }
}

/// Initialised numbers seen as memory to be overwritten.
pub(crate) fn as_uninit(x: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: same layout; users of the view only write `f32` numbers into it.
    unsafe { &mut *(std::ptr::from_mut(x) as *mut [MaybeUninit<f32>]) }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Largest buffer that a thread keeps between calls, in numbers (64 MiB).
const KEEP: usize = 16 << 20;

/// Memory of unspecified content, aligned to a cache line, from the thread's own store, to which it returns when dropped.
///
/// A guard and not a closure: code in a closure would be compiled outside the function that enables the instruction set.
/// It is absent from the store while it is in use, since rayon may run another task of ours on this thread in the meantime.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Scratch {
    pub(crate) fn take(len: usize) -> Self {
        const LINE: usize = 16;
        let mut buffer = SCRATCH.with_borrow_mut(|store| {
            let best = (0..store.len())
                .filter(|&i| store[i].len() >= len + LINE)
                .min_by_key(|&i| store[i].len());
            best.map(|i| store.swap_remove(i))
                .or_else(|| store.pop())
                .unwrap_or_default()
        });
        if buffer.len() < len + LINE {
            buffer = vec![0.0; len + LINE];
        }
        let start = buffer.as_ptr().align_offset(64).min(LINE);
        Self { buffer, start, len }
    }

    #[inline(always)]
    pub(crate) fn numbers(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.buffer.len() <= KEEP {
            let buffer = std::mem::take(&mut self.buffer);
            // While the thread itself ends, its store may be gone: then the memory is simply freed.
            let _ = SCRATCH.try_with(|store| store.borrow_mut().push(buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_aligned_nested_and_reused() {
        let mut outer = Scratch::take(1000);
        let first = outer.numbers().as_ptr() as usize;
        assert_eq!(first % 64, 0);
        outer.numbers().fill(1.0);
        let mut inner = Scratch::take(500);
        inner.numbers().fill(2.0);
        assert!(outer.numbers().iter().all(|&v| v == 1.0));
        drop(inner);
        drop(outer);
        assert_eq!(Scratch::take(900).numbers().as_ptr() as usize, first);
    }

    #[test]
    fn rows_are_filled_once_each() {
        for (rows, c) in [(0, 5), (1, 1), (3, 0), (7000, 3)] {
            // SAFETY: every number of the block is written.
            let v = unsafe {
                par_rows(rows, c, |first, block| {
                    for (i, o) in block.iter_mut().enumerate() {
                        o.write((first * c + i) as f32);
                    }
                })
            };
            assert_eq!(v.len(), rows * c);
            assert!(v.iter().enumerate().all(|(i, &x)| x == i as f32));
        }
    }
}
