//! Throughput of each kernel beside the measured peak of this machine: GFLOP/s for products, GB/s for passes over memory.
//!
//! `cargo bench -p bifocal-kernels [-- FILTER]`; the number of threads is rayon's (`RAYON_NUM_THREADS`). Medians and bests of rounds; compare only within one run.
#![allow(unsafe_code)] // one call for the processor clock

use bifocal_kernels::{
    Activation, Precision, attention::*, conv::*, gemm::Grid, linear::*, norm::*, optim::*, peak, rope::*, scan::*,
};
use std::hint::black_box;
use std::sync::LazyLock;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: bifocal_kernels::allocator::Allocator = bifocal_kernels::allocator::Allocator;

fn numbers(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919 + i / 13) % 1009) as f32 / 504.5 - 1.0)
        .collect()
}

/// Seconds of the wall clock, or with `BIFOCAL_BENCH_CPU` of this process on its processors, which other programs disturb less (meaningful with one thread).
fn now() -> f64 {
    static CPU: LazyLock<bool> = LazyLock::new(|| std::env::var_os("BIFOCAL_BENCH_CPU").is_some());
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    #[cfg(unix)]
    if *CPU {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `t` is a valid place for the answer.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
        return t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9;
    }
    START.elapsed().as_secs_f64()
}

/// Best and median seconds of rounds that last about 0.3 s together.
fn time<R>(mut f: impl FnMut() -> R) -> (f64, f64) {
    black_box(f());
    let start = now();
    black_box(f());
    let rounds = ((0.3 / (now() - start)) as usize).clamp(5, 300);
    let mut seconds: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = now();
            black_box(f());
            now() - start
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[rounds / 2])
}

struct Bench {
    filter: String,
    /// Peak GFLOP/s and GB/s.
    flops: f64,
    bytes: f64,
    /// Peak of eight-bit integers, in 10⁹ operations a second.
    int8: f64,
}

impl Bench {
    fn run<R>(&self, name: &str, work: f64, peak: f64, unit: &str, f: impl FnMut() -> R) {
        if name.contains(&self.filter) {
            let (best, median) = time(f);
            let per = work / 1e9;
            println!(
                "{name:<44} {:>9.3} ms  best {:>7.1} median {:>7.1} {unit}  {:>3.0} % of peak",
                best * 1e3,
                per / best,
                per / median,
                100.0 * per / best / peak
            );
        }
    }
    fn flops<R>(&self, name: &str, flops: usize, f: impl FnMut() -> R) {
        self.run(name, flops as f64, self.flops, "GFLOP/s", f);
    }
    fn bytes<R>(&self, name: &str, numbers: usize, f: impl FnMut() -> R) {
        self.run(name, 4.0 * numbers as f64, self.bytes, "GB/s", f);
    }
}

fn main() {
    let filter = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with('-'))
        .unwrap_or_default();
    // The peaks: multiply-adds in registers, and a copy of memory.
    let flops = (0..5).map(|_| peak::flops()).fold(0.0, f64::max) / 1e9;
    let int8 = (0..5).map(|_| peak::int8_operations()).fold(0.0, f64::max) / 1e9;
    let big = numbers(16 << 20);
    let mut to = vec![0.0f32; big.len()];
    let bytes = 8.0 * big.len() as f64
        / 1e9
        / time(|| {
            rayon::scope(|s| {
                to.chunks_mut(4 << 20)
                    .zip(big.chunks(4 << 20))
                    .for_each(|(t, f)| s.spawn(move |_| t.copy_from_slice(f)))
            })
        })
        .0;
    println!(
        "{} threads, {}, bf16 by {}, int8 by {}; multiply-adds {flops:.1} GFLOP/s in f32, {int8:.1} GOP/s in int8, copy {bytes:.1} GB/s",
        rayon::current_num_threads(),
        bifocal_kernels::instruction_set(),
        bifocal_kernels::bf16_unit(),
        bifocal_kernels::int8_unit()
    );
    let bench = Bench {
        filter,
        flops,
        bytes,
        int8,
    };
    products(&bench);
    packed_products(&bench);
    one_row(&bench);
    rows(&bench);
    heads(&bench);
    others(&bench);
}

fn products(bench: &Bench) {
    for (t, din, dout) in [
        (1600, 768, 768),
        (1600, 768, 2304),
        (1600, 768, 3072),
        (1600, 3072, 768),
        (50, 768, 768),
        (50, 768, 3072),
        (1, 768, 3072),
    ] {
        let (x, w, b, gy) = (numbers(t * din), numbers(dout * din), numbers(dout), numbers(t * dout));
        let work = 2 * t * din * dout;
        for (precision, suffix) in [(Precision::F32, ""), (Precision::Bf16, " bf16")] {
            let name = |kind: &str| format!("{kind} {t}x{din}->{dout}{suffix}");
            let forward = |act, residual, keep| linear(&x, &w, Some(&b), act, residual, t, din, dout, keep, precision);
            let backward = |need| {
                let act = Activation::Identity;
                linear_backward(&gy, &x, &w, None, act, t, din, dout, need, precision)
            };
            bench.flops(&name("linear"), work, || forward(Activation::Identity, None, false));
            bench.flops(&name("linear+gelu+pre"), work, || {
                forward(Activation::GeluErf, None, true)
            });
            bench.flops(&name("linear+residual"), work, || {
                forward(Activation::Identity, Some(&gy), false)
            });
            bench.flops(&name("linear gx"), work, || backward([true, false, false]));
            bench.flops(&name("linear gw"), work, || backward([false, true, false]));
        }
    }
}

/// Layers whose weight was packed once, as in models that do not learn; rows are rounded each time. The ratios are to what the units do in registers, which memory does not
/// keep up with where a unit is fast.
fn packed_products(bench: &Bench) {
    for (t, din, dout) in [
        (1600, 768, 768),
        (1600, 768, 2304),
        (1600, 768, 3072),
        (1600, 3072, 768),
        (50, 768, 3072),
        (1, 768, 3072),
    ] {
        let (x, w, b, r) = (numbers(t * din), numbers(dout * din), numbers(dout), numbers(t * dout));
        for (precision, peak) in [
            (Precision::F32, bench.flops),
            (Precision::Bf16, bench.flops),
            (Precision::Int8, bench.int8),
        ] {
            let packed = pack_weight(&w, din, dout, precision);
            let forward = |act, residual: Option<&[f32]>| {
                let w = Weight::new(&w, Some(&packed));
                linear(&x, w, Some(&b), act, residual, t, din, dout, false, precision)
            };
            let run = |kind: &str, act, residual| {
                let name = format!("packed {kind} {t}x{din}->{dout} {}", precision.name());
                bench.run(&name, (2 * t * din * dout) as f64, peak, "GOP/s", || {
                    forward(act, residual)
                });
            };
            run("linear", Activation::Identity, None);
            run("linear+gelu", Activation::GeluErf, None);
            run("linear+residual", Activation::Identity, Some(&r));
        }
    }
    let (din, dout) = (768, 3072);
    let w = numbers(din * dout);
    bench.bytes("pack_weight 768->3072 int8", din * dout, || {
        pack_weight(&w, din, dout, Precision::Int8)
    });
}

/// What writing a token is bound by: one row times a large weight, as numbers and as levels of four bits. Both are counted as the bytes of the numbers, so that
/// levels may pass what memory gives.
fn one_row(bench: &Bench) {
    let (din, dout) = (576, 49_152);
    let x = numbers(din);
    let w: Vec<f32> = (0..din * dout).map(|i| (i * 7919 % 16) as f32 * 0.25 - 2.0).collect();
    bench.bytes(&format!("levels of {din}->{dout} looked for"), din * dout, || {
        Grid::of(&w, din, dout)
    });
    let grid = Grid::of(&w, din, dout);
    for (name, grid) in [("numbers", None), ("levels", grid.as_ref())] {
        bench.bytes(&format!("one row {din}->{dout}, weight in {name}"), din * dout, || {
            let w = Weight::new(&w, None).with_grid(grid);
            linear(
                &x,
                w,
                None,
                Activation::Identity,
                None,
                1,
                din,
                dout,
                false,
                Precision::F32,
            )
        });
    }
}

fn rows(bench: &Bench) {
    let (t, c) = (1600, 768);
    let (x, gy, w, b) = (numbers(t * c), numbers(t * c), numbers(c), numbers(c));
    bench.bytes("layer_norm 1600x768", 2 * t * c, || layer_norm(&x, &w, &b, 1e-5, t, c));
    bench.bytes("layer_norm_backward 1600x768", 3 * t * c, || {
        layer_norm_backward(&gy, &x, &w, 1e-5, t, c, [true; 3])
    });
    bench.bytes("rms_norm 1600x768", 2 * t * c, || rms_norm(&x, &w, 1e-5, t, c));
    bench.bytes("rms_norm_backward 1600x768", 3 * t * c, || {
        rms_norm_backward(&gy, &x, &w, 1e-5, t, c, [true; 2])
    });
    let h = 3072;
    let (x, gy) = (numbers(t * h), numbers(t * h));
    bench.bytes("activation gelu 1600x3072", 2 * t * h, || {
        bifocal_kernels::activation::activation(&x, Activation::GeluErf)
    });
    bench.bytes("activation_backward gelu 1600x3072", 3 * t * h, || {
        bifocal_kernels::activation::activation_backward(&gy, &x, Activation::GeluErf)
    });
    bench.bytes("gated silu 1600x1536", t * h + t * h / 2, || {
        bifocal_kernels::activation::gated(&x, Activation::Silu, t, h / 2)
    });
    bench.bytes("column_sums 1600x3072", t * h, || column_sums(&x, t, h));
    let n = 8 << 20;
    let (mut p, g, mut m, mut v) = (numbers(n), numbers(n), vec![0.0; n], vec![0.0; n]);
    let h = Adam {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        weight_decay: 0.1,
        l2: 0.0,
        step: 3,
    };
    bench.bytes("adam_step 8M", 7 * n, || adam_step(&mut p, &g, &mut m, &mut v, &h, 1.0));
}

fn heads(bench: &Bench) {
    for (sequences, n, heads, kv_heads, head_dim, causal) in [
        (32, 50, 12, 12, 64, false),
        (16, 64, 9, 3, 64, true),
        (4, 512, 8, 8, 64, false),
        (1, 2048, 9, 3, 64, true),
        (8, 197, 12, 12, 64, false),
    ] {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            causal,
            window: None,
            scale: 0.125,
        };
        let offsets: Vec<usize> = (0..=sequences).map(|i| i * n).collect();
        let (qkv, gy) = (
            numbers(sequences * n * shape.row()),
            numbers(sequences * n * heads * head_dim),
        );
        let (y, lse) = attention(&qkv, &offsets, &shape, true);
        let lse = lse.unwrap_or_default();
        let work = 4 * sequences * heads * n * n * head_dim / if causal { 2 } else { 1 };
        let name = |kind: &str| {
            format!(
                "{kind} {sequences}x{n} {heads}/{kv_heads}x{head_dim}{}",
                if causal { " causal" } else { "" }
            )
        };
        bench.flops(&name("attention"), work, || attention(&qkv, &offsets, &shape, true));
        bench.flops(&name("attention_backward"), work * 5 / 2, || {
            attention_backward(&gy, &qkv, &y, &lse, &offsets, &shape)
        });
        let positions: Vec<u32> = (0..sequences * n).map(|i| (i % n) as u32).collect();
        let turns = frequencies(1e4, head_dim);
        bench.bytes(&name("rope"), 2 * qkv.len(), || {
            rope(
                &qkv,
                &positions,
                heads + kv_heads,
                heads + 2 * kv_heads,
                &turns,
                RopeStyle::Half,
                false,
            )
        });
    }
}

fn others(bench: &Bench) {
    let shape = ConvShape {
        n: 8,
        h: 56,
        w: 56,
        c: 144,
        kh: 3,
        kw: 3,
        stride: 1,
        pad: [1; 4],
    };
    let (x, wt, b) = (numbers(8 * 56 * 56 * 144), numbers(9 * 144), numbers(144));
    bench.bytes("depthwise 3x3 8x56x56x144", 2 * x.len(), || {
        depthwise(&x, &wt, Some(&b), Activation::Relu6, &shape, false)
    });
    bench.bytes("depthwise_backward 3x3 8x56x56x144", 3 * x.len(), || {
        depthwise_backward(&x, &x, &wt, None, Activation::Identity, &shape, [true, true, false])
    });
    let shape = ConvShape {
        n: 32,
        h: 224,
        w: 224,
        c: 3,
        kh: 32,
        kw: 32,
        stride: 32,
        pad: [0; 4],
    };
    let x = numbers(32 * 224 * 224 * 3);
    bench.bytes("im2col 32x32 32x224x224x3", 2 * x.len(), || im2col(&x, &shape));
    let dim = 512;
    let rows: Vec<half::f16> = numbers(100_000 * dim).into_iter().map(half::f16::from_f32).collect();
    let query = numbers(dim);
    let mut scores = vec![0.0; 100_000];
    bench.bytes("scan_scores 100000x512", rows.len() / 2, || {
        scan_scores(&rows, dim, &query, &mut scores);
        scores[0]
    });
}
