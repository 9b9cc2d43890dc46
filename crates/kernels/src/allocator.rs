//! The allocator for programs that train: activations are large, short-lived, and of the same sizes at every step.
use std::ffi::c_long;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};

/// mimalloc, to be a program's `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: mi_option_t = 15;

/// Keeps freed memory for the next step instead of giving it back after a second: a training step lasts longer than that, and would pay for zeroed pages
/// each time. `MIMALLOC_PURGE_DELAY` overrides. Call it at the beginning of `main`.
pub fn keep_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: sets a number in a table; the option exists, see the test.
        unsafe { mi_option_set(PURGE_DELAY, -1) }
    }
}

/// Milliseconds until freed memory goes back; -1 for never.
pub fn purge_delay() -> c_long {
    // SAFETY: reads a number from a table.
    unsafe { mi_option_get(PURGE_DELAY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_purge_delay() {
        // The variable is read when the process starts, by name: the number is right if it gives the same value.
        let by_name = std::env::var("MIMALLOC_PURGE_DELAY").map_or(Ok(1000), |v| v.parse());
        assert_eq!(Ok(purge_delay()), by_name);
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            keep_memory();
            assert_eq!(purge_delay(), -1);
        }
    }
}
