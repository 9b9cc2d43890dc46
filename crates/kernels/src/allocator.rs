//! The allocator: activations are large, short-lived, and of the same sizes at every step.
use std::ffi::c_long;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};

/// mimalloc, to be a program's `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: mi_option_t = 15;

/// `mi_option_allow_thp`: 0 without transparent huge pages, 1 with them, 2 so that they stay whole.
const HUGE_PAGES: mi_option_t = 43;

/// Keeps freed memory for the next step instead of giving it back after a second: a training step lasts longer than that, and would pay for zeroed pages
/// each time. `MIMALLOC_PURGE_DELAY` overrides. Call it at the beginning of `main`.
pub fn keep_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: sets a number in a table; the option exists, see the test.
        unsafe { mi_option_set(PURGE_DELAY, -1) }
    }
}

/// Gives freed memory back by whole huge pages only, for programs that run for weeks. Smaller holes are filled with zeros again by the kernel, which makes
/// huge pages out of small ones at its leisure (Linux's khugepaged): memory that nobody asked for, and more of it from hour to hour.
/// `MIMALLOC_ALLOW_THP` overrides. Call it at the beginning of `main`.
pub fn keep_huge_pages() {
    if std::env::var_os("MIMALLOC_ALLOW_THP").is_none() {
        // SAFETY: sets a number in a table; the option exists, see the test.
        unsafe { mi_option_set(HUGE_PAGES, 2) }
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
    fn the_options_are_those_of_these_names() {
        // The variables are read when the process starts, by name: the numbers are right if they give the same values.
        let by_name = std::env::var("MIMALLOC_PURGE_DELAY").map_or(Ok(1000), |v| v.parse());
        assert_eq!(Ok(purge_delay()), by_name);
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            keep_memory();
            assert_eq!(purge_delay(), -1);
        }
        // SAFETY: reads a number from a table.
        let huge_pages = || unsafe { mi_option_get(HUGE_PAGES) };
        let by_name = std::env::var("MIMALLOC_ALLOW_THP").map_or(Ok(1), |v| v.parse());
        assert_eq!(Ok(huge_pages()), by_name);
        if std::env::var_os("MIMALLOC_ALLOW_THP").is_none() {
            keep_huge_pages();
            assert_eq!(huge_pages(), 2);
        }
    }
}
