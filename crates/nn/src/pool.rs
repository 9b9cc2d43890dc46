//! A whole pass on the threads that share its operations.

use std::sync::{Mutex, PoisonError};

use bifocal_kernels::team::stretch;
use burn::tensor::Device;

use crate::engine;
use crate::precision::{self, Precision};

/// One pass at a time: a thread of the pool that waits for the others does what else there is to do, and with a second pass that would be all of it, under whatever
/// locks the first one holds.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a pass of a model on a thread of the pool, with the calling thread's [`precision`] and [`engine::device`]; for one that is of the pool already, at once.
///
/// From outside of the pool each operation would wake a thread that then wakes the others, and would be woken by it at the end: for operations as short as those of one
/// token, that takes as long as they do.
pub fn pass<R: Send>(compute: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() {
        return compute();
    }
    let here = Here::new();
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    rayon::scope(|_| here.scope(compute))
}

/// Both at once on threads of the pool, with the calling thread's [`precision`] and [`engine::device`].
pub fn both<A: Send, B: Send>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B + Send) -> (A, B) {
    let here = Here::new();
    rayon::join(|| here.scope(one), || here.scope(other))
}

/// What a thread has set for what it computes.
struct Here {
    precision: Precision,
    device: Device,
}

impl Here {
    fn new() -> Self {
        Self {
            precision: precision::current(),
            device: engine::device(),
        }
    }

    /// On another thread.
    fn scope<R>(&self, compute: impl FnOnce() -> R) -> R {
        engine::scope(self.device.clone(), || precision::scope(self.precision, compute))
    }
}

/// As [`pass`] of a few rows, whose operations are too short to wake a thread for each of them: the pool's threads wait for them awake.
pub fn pass_of_few<R: Send>(compute: impl FnOnce() -> R + Send) -> R {
    pass(|| stretch(compute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_keeps_its_precision_and_may_hold_another() {
        let inside = precision::scope(Precision::Bf16, || {
            pass(|| {
                (
                    rayon::current_thread_index(),
                    precision::current(),
                    pass(precision::current),
                )
            })
        });
        assert!(inside.0.is_some());
        assert_eq!((inside.1, inside.2), (Precision::Bf16, Precision::Bf16));
        assert_eq!(precision::current(), Precision::F32);
    }

    #[test]
    fn what_runs_beside_keeps_the_precision() {
        let found = precision::scope(Precision::Bf16, || both(precision::current, precision::current));
        assert_eq!(found, (Precision::Bf16, Precision::Bf16));
    }

    #[test]
    fn a_pass_that_fails_does_not_stop_the_next() {
        let failed = std::panic::catch_unwind(|| pass(|| -> () { panic!("on purpose") }));
        assert!(failed.is_err());
        assert_eq!(pass(|| 1), 1);
    }
}
