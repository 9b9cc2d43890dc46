//! One block of coefficients from the bits of a scan (ITU-T T.81, F.2.2 and G.2).

use super::frame::ZIGZAG;
use super::huffman::{Bits, Huffman};

/// A sequential block: all coefficients at once. `block` is zero before.
#[inline(always)]
pub(super) fn sequential(bits: &mut Bits<'_>, dc: &Huffman, ac: &Huffman, prediction: &mut i32, block: &mut [i16; 64]) {
    let size = u32::from(bits.symbol(dc)).min(16);
    *prediction = prediction.wrapping_add(bits.signed(size));
    block[0] = *prediction as i16;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(ac);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run != 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        let value = bits.signed(size);
        if k >= 64 {
            break;
        }
        block[usize::from(ZIGZAG[k])] = value as i16;
        k += 1;
    }
}

/// Spectral band and precision of a progressive scan.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub start: usize,
    pub end: usize,
    /// Bit that an earlier scan reached; 0 for the first scan of a band.
    pub high: u32,
    /// Bit that this scan reaches.
    pub low: u32,
}

/// First scan of the DC coefficient.
pub(super) fn dc_first(bits: &mut Bits<'_>, dc: &Huffman, prediction: &mut i32, low: u32, block: &mut [i16; 64]) {
    let size = u32::from(bits.symbol(dc)).min(16);
    *prediction = prediction.wrapping_add(bits.signed(size));
    block[0] = prediction.wrapping_shl(low) as i16;
}

/// First scan of a band of AC coefficients. `run` counts the blocks that have nothing in this band.
pub(super) fn ac_first(bits: &mut Bits<'_>, ac: &Huffman, run: &mut u32, band: Band, block: &mut [i16; 64]) {
    if *run > 0 {
        *run -= 1;
        return;
    }
    let mut k = band.start;
    while k <= band.end {
        let symbol = bits.symbol(ac);
        let (skip, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if skip != 15 {
                *run = (1 << skip) - 1 + bits.take(skip);
                return;
            }
            k += 16;
            continue;
        }
        k += skip as usize;
        let value = bits.signed(size);
        if k > 63 {
            return;
        }
        block[usize::from(ZIGZAG[k])] = value.wrapping_shl(band.low) as i16;
        k += 1;
    }
}

/// Further scans of a band: one more bit for each coefficient that is not zero, and new ones between them.
pub(super) fn ac_refine(bits: &mut Bits<'_>, ac: &Huffman, run: &mut u32, band: Band, block: &mut [i16; 64]) {
    let one = 1i16.wrapping_shl(band.low);
    let mut k = band.start;
    // a coefficient that is not zero gets its next bit
    let refine = |bits: &mut Bits<'_>, c: &mut i16| {
        if bits.bit() && *c & one == 0 {
            *c = c.wrapping_add(if *c >= 0 { one } else { -one });
        }
    };
    if *run == 0 {
        while k <= band.end {
            let symbol = bits.symbol(ac);
            let (mut skip, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            let mut value = 0;
            if size == 0 {
                if skip != 15 {
                    *run = (1 << skip) + bits.take(skip);
                    break;
                }
            } else {
                // the size can only be 1
                value = if bits.bit() { one } else { -one };
            }
            // pass over `skip` coefficients that are still zero
            while k <= band.end {
                let c = &mut block[usize::from(ZIGZAG[k])];
                if *c != 0 {
                    refine(bits, c);
                } else if skip == 0 {
                    break;
                } else {
                    skip -= 1;
                }
                k += 1;
            }
            if value != 0 && k <= band.end {
                block[usize::from(ZIGZAG[k])] = value;
            }
            k += 1;
        }
    }
    if *run > 0 {
        while k <= band.end {
            let c = &mut block[usize::from(ZIGZAG[k])];
            if *c != 0 {
                refine(bits, c);
            }
            k += 1;
        }
        *run -= 1;
    }
}
