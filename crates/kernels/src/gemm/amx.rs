//! Products of bf16 and of bytes on the tile unit (AMX): sixteen rows by sixteen columns by 32 or 64 numbers along k in one instruction.
//!
//! Its instructions are written as assembly, since Rust has no stable names for them yet. The compiler never uses tile registers itself.
use std::arch::asm;

/// Rows of the tile of C that a call computes, in two tile registers.
pub(super) const ROWS: usize = 32;
/// Columns, in two.
pub(super) const COLS: usize = 32;
/// Words (pairs along k) that one instruction takes.
pub(super) const WORDS: usize = 16;
/// Bytes of a row of a tile register.
const LINE: usize = 64;

/// Whether the processor has the unit and the system lets this process use it.
#[cfg(target_os = "linux")]
pub(super) fn available() -> bool {
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    // SAFETY: asks the system to save larger registers for this process; it answers 0 when it will, and does nothing else.
    features & BF16 != 0
        && features & TILE != 0
        && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0
}

/// Elsewhere nobody has asked the system yet.
#[cfg(not(target_os = "linux"))]
pub(super) fn available() -> bool {
    false
}

/// Whether the unit multiplies bytes; [`available`] says whether it may be used at all.
pub(super) fn multiplies_bytes() -> bool {
    const INT8: u32 = 1 << 25;
    std::arch::x86_64::__cpuid_count(7, 0).edx & INT8 != 0
}

/// The shape of the tile registers, as `ldtilecfg` reads it: palette, start row, bytes of a row and rows of each.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPE: Shape = Shape {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [
        LINE as u16,
        LINE as u16,
        LINE as u16,
        LINE as u16,
        LINE as u16,
        LINE as u16,
        LINE as u16,
        LINE as u16,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// This thread's tile registers, full size, until it is dropped.
pub(in crate::gemm) struct Ready(());

impl Ready {
    /// # Safety
    /// Only after [`available`] answered true.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the unit is there; the shape is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPE, options(nostack, readonly, preserves_flags)) };
        Self(())
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // SAFETY: the unit is there, since `new` ran. Registers without content make switches of threads cheaper.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Numbers of a tile of C.
pub(super) const TILE: usize = ROWS * COLS;

/// Sums a panel of A times a panel of B into a whole tile that lies by itself, row after row: overwrites it, or adds to it.
///
/// Rows of C itself may be a multiple of 4 KiB apart, which would put all of them in the same few places of the first-level cache: measured at a third of the speed.
/// A is read once for each panel of B, and with the hint that says so: the slice of B, which is read for each panel of A, then stays in that cache.
///
/// # Safety
/// [`Ready`] lives on this thread; `words` is a multiple of [`WORDS`]; `a` holds `words × 32` words, 16 of each row side by side, `b` `words × 32`; `sums` is
/// writable for [`TILE`] numbers (readable too when `add`).
#[inline(never)]
pub(super) unsafe fn tile(words: usize, a: *const f32, b: *const f32, ahead: *const f32, sums: *mut f32, add: bool) {
    debug_assert!(words.is_multiple_of(WORDS));
    // SAFETY: the caller's contract: each instruction touches 16 rows of 64 bytes of a panel or of the tile.
    unsafe {
        if add {
            asm!(
                "tileloadd tmm0, [{c} + {row}]",
                "tileloadd tmm1, [{c} + {row} + 64]",
                "tileloadd tmm2, [{c} + {row} + 2048]",
                "tileloadd tmm3, [{c} + {row} + 2112]",
                c = in(reg) sums, row = in(reg) 2 * LINE,
                options(nostack, readonly, preserves_flags),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem, preserves_flags)
            );
        }
        asm!(
            "test {n}, {n}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{b} + {two}]",
            "prefetcht1 [{ahead}]",
            "tileloaddt1 tmm6, [{a} + {one}]",
            "tdpbf16ps tmm0, tmm6, tmm4",
            "prefetcht1 [{ahead} + 64]",
            "tileloadd tmm5, [{b} + {two} + 64]",
            "tdpbf16ps tmm1, tmm6, tmm5",
            "prefetcht1 [{ahead} + 128]",
            "tileloaddt1 tmm7, [{a} + {one} + 1024]",
            "tdpbf16ps tmm2, tmm7, tmm4",
            "prefetcht1 [{ahead} + 192]",
            "tdpbf16ps tmm3, tmm7, tmm5",
            "add {a}, 2048",
            "add {b}, 2048",
            "add {ahead}, 256",
            "dec {n}",
            "jnz 2b",
            "3:",
            "tilestored [{c} + {two}], tmm0",
            "tilestored [{c} + {two} + 64], tmm1",
            "tilestored [{c} + {two} + 2048], tmm2",
            "tilestored [{c} + {two} + 2112], tmm3",
            n = inout(reg) words / WORDS => _,
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            ahead = inout(reg) ahead => _,
            c = in(reg) sums,
            one = in(reg) LINE,
            two = in(reg) 2 * LINE,
            options(nostack),
        );
    }
}

/// Sums rows of bytes without a sign times a panel of bytes with one: `rows` of 1 to 32 rows of `to`, 32 integers each.
///
/// # Safety
/// [`Ready`] lives on this thread, and [`multiplies_bytes`]; `words` is a multiple of [`WORDS`]. `a` holds 16 rows of that many words, `stride` words apart, or 32 where more are
/// asked for; `b` holds `words × 32` words; `to` is writable for as many rows as `a` has.
#[inline(never)]
pub(super) unsafe fn bytes_tile(
    words: usize,
    (a, stride): (*const f32, usize),
    rows: usize,
    b: *const f32,
    to: *mut f32,
) {
    debug_assert!(words.is_multiple_of(WORDS));
    // SAFETY: the caller's contract: each instruction touches 16 rows of 64 bytes of A, of a panel, or of `to`.
    unsafe {
        if rows <= ROWS / 2 {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "test {n}, {n}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{b} + {two}]",
                "tileloadd tmm6, [{a} + {row}]",
                "tdpbusd tmm0, tmm6, tmm4",
                "tileloadd tmm5, [{b} + {two} + 64]",
                "tdpbusd tmm1, tmm6, tmm5",
                "add {a}, 64",
                "add {b}, 2048",
                "dec {n}",
                "jnz 2b",
                "3:",
                "tilestored [{c} + {two}], tmm0",
                "tilestored [{c} + {two} + 64], tmm1",
                n = inout(reg) words / WORDS => _,
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                c = in(reg) to,
                row = in(reg) 4 * stride,
                two = in(reg) 2 * LINE,
                options(nostack),
            );
            return;
        }
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {n}, {n}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{b} + {two}]",
            "tileloadd tmm6, [{a} + {row}]",
            "tdpbusd tmm0, tmm6, tmm4",
            "tileloadd tmm5, [{b} + {two} + 64]",
            "tdpbusd tmm1, tmm6, tmm5",
            "tileloadd tmm7, [{d} + {row}]",
            "tdpbusd tmm2, tmm7, tmm4",
            "tdpbusd tmm3, tmm7, tmm5",
            "add {a}, 64",
            "add {d}, 64",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "3:",
            "tilestored [{c} + {two}], tmm0",
            "tilestored [{c} + {two} + 64], tmm1",
            "tilestored [{c} + {two} + 2048], tmm2",
            "tilestored [{c} + {two} + 2112], tmm3",
            n = inout(reg) words / WORDS => _,
            a = inout(reg) a => _,
            d = inout(reg) a.wrapping_add(16 * stride) => _,
            b = inout(reg) b => _,
            c = in(reg) to,
            row = in(reg) 4 * stride,
            two = in(reg) 2 * LINE,
            options(nostack),
        );
    }
}

/// Multiplications and additions of one round of [`spin`].
pub(super) const SPIN: usize = 4 * 2 * 16 * 16 * 64;

/// Products of bytes that stay in registers: what the unit can do at most.
///
/// # Safety
/// [`Ready`] lives on this thread, and [`multiplies_bytes`].
#[inline(never)]
pub(super) unsafe fn spin(rounds: usize) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            "tilezero tmm5",
            "test {n}, {n}",
            "jz 3f",
            "2:",
            "tdpbusd tmm0, tmm4, tmm5",
            "tdpbusd tmm1, tmm4, tmm5",
            "tdpbusd tmm2, tmm4, tmm5",
            "tdpbusd tmm3, tmm4, tmm5",
            "dec {n}",
            "jnz 2b",
            "3:",
            n = inout(reg) rounds => _,
            options(nostack, nomem),
        );
    }
}
