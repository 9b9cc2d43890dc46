//! What the processor can do at most: the floor that benchmarks are compared with.
use crate::simd::{Simd, Task, dispatch};
use std::hint::black_box;
use std::time::Instant;

/// Independent sums, enough to hide the latency of a multiply-add and few enough for the registers of every instruction set.
const SUMS: usize = 12;

/// Floating-point operations per second of multiply-adds that stay in registers, on all threads of the pool at once, over about a tenth of a second.
pub fn flops() -> f64 {
    const ROUNDS: usize = 8_000_000;
    let start = Instant::now();
    let lanes = rayon::broadcast(|_| dispatch(Spin(ROUNDS)));
    let numbers: usize = lanes.iter().sum();
    (2 * SUMS * ROUNDS * numbers) as f64 / start.elapsed().as_secs_f64()
}

/// Multiplications and additions per second of eight-bit integers with sums of 32 bits, on all threads of the pool at once: by the unit that products use ([`crate::int8_unit`]), with
/// operands in registers where it has large ones, and in the first-level cache otherwise.
pub fn int8_operations() -> f64 {
    // the first run says how many operations take a tenth of a second
    let run = |operations: usize| {
        let start = Instant::now();
        let done: usize = rayon::broadcast(|_| crate::gemm::spin_bytes(operations)).iter().sum();
        done as f64 / start.elapsed().as_secs_f64()
    };
    let threads = rayon::current_num_threads() as f64;
    let rough = run(4 << 30) / threads;
    run((rough * 0.1) as usize)
}

/// Runs that many rounds; returns the numbers in a register.
struct Spin(usize);
impl Task for Spin {
    type Out = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let (x, y) = (s.splat(black_box(0.99)), s.splat(black_box(1e-3)));
        let mut sums = [y; SUMS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.fma(*sum, x, y);
            }
        }
        black_box(sums.map(|sum| s.sum(sum)));
        S::LANES
    }
}
