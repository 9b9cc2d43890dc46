//! How exactly matrix products multiply.
//!
//! A switch of the thread, not an argument: what a tower computes does not depend on it, and every forward of every layer would carry it along. An operation reads
//! it once, when it runs forward, and keeps it, so that its backward pass, wherever that runs, is of the same precision.
//!
//! [`fused::linear`](crate::fused::linear) and dense convolutions follow it, forward and backward. Attention, norms, activations, losses and the optimizer are f32
//! always, as are parameters (the "master weights" of Micikevicius et al. 2018) and all activations in memory; bf16 has the range of f32, therefore losses need no scaling.
//! Operations on devices without our kernels stay f32.

use std::cell::Cell;

pub use bifocal_kernels::{Precision, bf16_unit};

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
