//! Colour at full resolution: libjpeg's "fancy" triangle filters where they apply, repetition elsewhere.

use super::frame::{Component, Frame};

/// Writes row `y` of a component at full resolution to the front of `out`, which has room for the padded width and more.
#[inline(always)]
pub(super) fn row(frame: &Frame, c: &Component, y: usize, out: &mut [u8], sums: &mut [u16]) {
    let (across, down) = (
        frame.h_max * frame.side / (c.h * c.side),
        frame.v_max * frame.side / (c.v * c.side),
    );
    let stride = c.blocks_wide * c.side;
    // rows beyond the picture repeat its first and last row
    let line = |y: usize| &c.plane[y.min(c.height - 1) * stride..][..c.width];
    let near = line(y / down);
    // the second nearest row: above for the upper one of a pair, below for the lower
    let far = || {
        if y.is_multiple_of(2) {
            line((y / 2).saturating_sub(1))
        } else {
            line(y / 2 + 1)
        }
    };
    match (across, down) {
        (1, 1) => out[..c.width].copy_from_slice(near),
        // horizontal filters need three samples; narrower components are repeated
        (2, 1) if c.width > 2 => h2v1(near, out),
        (2, 2) if c.width > 2 => h2v2(near, far(), out, sums),
        (1, 2) => {
            let bias = 1 + (y % 2) as u16;
            for ((o, &n), &f) in out.iter_mut().zip(near).zip(far()) {
                *o = ((3 * u16::from(n) + u16::from(f) + bias) >> 2) as u8;
            }
        }
        _ => {
            for (o, &n) in out.chunks_exact_mut(across).zip(near) {
                o.fill(n);
            }
        }
    }
}

/// Three quarters of the nearer sample and one of the further, rounded down and up in turn.
#[inline(always)]
fn h2v1(near: &[u8], out: &mut [u8]) {
    let n = near.len();
    let out = &mut out[..2 * n];
    let at = |i: usize| u16::from(near[i]);
    out[0] = near[0];
    out[1] = ((3 * at(0) + at(1) + 2) >> 2) as u8;
    for (o, w) in out[2..2 * n - 2].as_chunks_mut::<2>().0.iter_mut().zip(near.windows(3)) {
        let middle = 3 * u16::from(w[1]);
        o[0] = ((middle + u16::from(w[0]) + 1) >> 2) as u8;
        o[1] = ((middle + u16::from(w[2]) + 2) >> 2) as u8;
    }
    out[2 * n - 2] = ((3 * at(n - 1) + at(n - 2) + 1) >> 2) as u8;
    out[2 * n - 1] = near[n - 1];
}

/// The same in both directions, with one rounding at the end.
#[inline(always)]
fn h2v2(near: &[u8], far: &[u8], out: &mut [u8], sums: &mut [u16]) {
    let n = near.len();
    let (out, sums) = (&mut out[..2 * n], &mut sums[..n]);
    for ((s, &a), &b) in sums.iter_mut().zip(near).zip(far) {
        *s = 3 * u16::from(a) + u16::from(b);
    }
    out[0] = ((4 * sums[0] + 8) >> 4) as u8;
    out[1] = ((3 * sums[0] + sums[1] + 7) >> 4) as u8;
    for (o, w) in out[2..2 * n - 2].as_chunks_mut::<2>().0.iter_mut().zip(sums.windows(3)) {
        let middle = 3 * w[1];
        o[0] = ((middle + w[0] + 8) >> 4) as u8;
        o[1] = ((middle + w[2] + 7) >> 4) as u8;
    }
    out[2 * n - 2] = ((3 * sums[n - 1] + sums[n - 2] + 8) >> 4) as u8;
    out[2 * n - 1] = ((4 * sums[n - 1] + 7) >> 4) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triangles_by_hand() {
        let mut out = [0; 6];
        h2v1(&[0, 100, 255], &mut out);
        // 0, (0·3+100+2)/4, (300+0+1)/4, (300+255+2)/4, (765+100+1)/4, 255
        assert_eq!(out, [0, 25, 75, 139, 216, 255]);
        h2v2(&[0, 100, 255], &[0, 100, 255], &mut out, &mut [0; 3]);
        assert_eq!(out, [0, 25, 75, 139, 216, 255]);
        h2v2(&[8, 8, 8], &[0, 0, 0], &mut out, &mut [0; 3]);
        // 3·8 = 24 everywhere: (96+8)/16 = 6, (96+7)/16 = 6
        assert_eq!(out, [6; 6]);
    }
}
