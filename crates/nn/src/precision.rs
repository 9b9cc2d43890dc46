//! How exactly matrix products multiply.
//!
//! A switch of the thread, not an argument: what a tower computes does not depend on it, and every forward of every layer would carry it along. An operation reads
//! it once, when it runs forward, and keeps it, so that its backward pass, wherever that runs, is of the same precision.
//!
//! [`fused::linear`](crate::fused::linear) and dense convolutions follow it, forward and backward. Attention, norms, activations, losses and the optimizer are f32
//! always, as are parameters (the "master weights" of Micikevicius et al. 2018) and all activations in memory; bf16 has the range of f32, therefore losses need no scaling.
//! A GELU that follows a product of rounded numbers, and of which no gradient is wanted, is computed to 1e-4.
//! Operations on devices without our kernels stay f32.
//!
//! Eight-bit integers ([`Precision::Int8`]) are for inference: an operation that is recorded for a backward pass multiplies in f32 instead, and so do losses. What they cost in
//! accuracy is in [`careful`].

use std::cell::Cell;

pub use bifocal_kernels::{Precision, bf16_unit, int8_unit};

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// The precision of products on this thread: f32 outside of any [`scope`].
pub fn current() -> Precision {
    CURRENT.get()
}

/// Runs `f` with products of that precision on this thread. Scopes nest; the former precision returns with the end, even by a panic.
pub fn scope<R>(precision: Precision, f: impl FnOnce() -> R) -> R {
    struct Restore(Precision);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(precision));
    f()
}

/// Numbers along k from which eight-bit integers are multiplied: what their instructions take at once. Narrower layers have more to lose, and nothing to gain.
const NARROW: usize = 64;

/// What a product over `k` numbers, for which `asked` was the thread's precision, is multiplied in: no eight-bit integers where a backward pass may follow, nor where numbers
/// are few.
pub(crate) fn of_product(asked: Precision, k: usize, recorded: bool) -> Precision {
    match asked {
        Precision::Int8 if recorded => asked.recorded(),
        Precision::Int8 if k < NARROW => Precision::Bf16,
        other => other,
    }
}

/// Runs `f` with products of bf16 where the thread's are of eight-bit integers: for a product of which one side has a few numbers much larger than all others.
///
/// The last layer of a language model's gated feed-forward part is such a one, since its input is a product of two. So is what leads back to few channels in an inverted
/// bottleneck, whose weights differ by orders of magnitude between input channels.
pub fn careful<R>(f: impl FnOnce() -> R) -> R {
    let precision = match current() {
        Precision::Int8 => Precision::Bf16,
        other => other,
    };
    scope(precision, f)
}
