//! The accurate integer inverse transform of libjpeg ("islow"): Loeffler, Ligtenberg and Moschytz 1989, with 13 fractional bits in the
//! constants and 2 in the values between the passes.

const CONST_BITS: i32 = 13;
const PASS1_BITS: i32 = 2;

/// `x · 2¹³`, rounded.
const fn fix(x: f64) -> i32 {
    (x * 8192.0 + 0.5) as i32
}

type Block = [[i32; 8]; 8];

/// One pass over the eight columns of `x`. The results are divided by `2^shift` and rounded.
#[inline(always)]
fn pass(x: &Block, shift: i32) -> Block {
    let (add, sub, mul) = (i32::wrapping_add, i32::wrapping_sub, i32::wrapping_mul);
    let mut out = [[0; 8]; 8];
    // one loop around everything becomes one instruction for eight columns; operations on arrays of eight did not
    for i in 0..8 {
        // even part
        let z1 = mul(add(x[2][i], x[6][i]), fix(0.541196100));
        let t2 = sub(z1, mul(x[6][i], fix(1.847759065)));
        let t3 = add(z1, mul(x[2][i], fix(0.765366865)));
        let t0 = add(x[0][i], x[4][i]) << CONST_BITS;
        let t1 = sub(x[0][i], x[4][i]) << CONST_BITS;
        let (e0, e3) = (add(t0, t3), sub(t0, t3));
        let (e1, e2) = (add(t1, t2), sub(t1, t2));

        // odd part
        let (z1, z2) = (add(x[7][i], x[1][i]), add(x[5][i], x[3][i]));
        let (z3, z4) = (add(x[7][i], x[3][i]), add(x[5][i], x[1][i]));
        let z5 = mul(add(z3, z4), fix(1.175875602));
        let z1 = mul(z1, -fix(0.899976223));
        let z2 = mul(z2, -fix(2.562915447));
        let z3 = add(mul(z3, -fix(1.961570560)), z5);
        let z4 = add(mul(z4, -fix(0.390180644)), z5);
        let o0 = add(mul(x[7][i], fix(0.298631336)), add(z1, z3));
        let o1 = add(mul(x[5][i], fix(2.053119869)), add(z2, z4));
        let o2 = add(mul(x[3][i], fix(3.072711026)), add(z2, z3));
        let o3 = add(mul(x[1][i], fix(1.501321110)), add(z1, z4));

        let down = |v: i32| add(v, 1 << (shift - 1)) >> shift;
        out[0][i] = down(add(e0, o3));
        out[1][i] = down(add(e1, o2));
        out[2][i] = down(add(e2, o1));
        out[3][i] = down(add(e3, o0));
        out[4][i] = down(sub(e3, o0));
        out[5][i] = down(sub(e2, o1));
        out[6][i] = down(sub(e1, o2));
        out[7][i] = down(sub(e0, o3));
    }
    out
}

/// Three perfect shuffles of the rows are a transposition, and suit vector registers.
#[inline(always)]
fn transpose(mut x: Block) -> Block {
    for _ in 0..3 {
        let mut t = [[0; 8]; 8];
        for i in 0..4 {
            let (a, b) = (x[i], x[i + 4]);
            t[2 * i] = [a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]];
            t[2 * i + 1] = [a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]];
        }
        x = t;
    }
    x
}

#[inline(always)]
fn sample(v: i32) -> u8 {
    v.wrapping_add(128).clamp(0, 255) as u8
}

/// Dequantises and transforms a block (natural order) into eight rows of `out`, `stride` apart.
#[inline(always)]
pub(super) fn inverse(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    let mut any = 0;
    for &c in &coefficients[1..] {
        any |= c;
    }
    if any == 0 {
        // both passes of a block with one value, by hand
        let dc = i32::from(coefficients[0]).wrapping_mul(i32::from(quant[0])) << PASS1_BITS;
        let value = sample(dc.wrapping_add(1 << (PASS1_BITS + 2)) >> (PASS1_BITS + 3));
        for row in 0..8 {
            out[row * stride..row * stride + 8].fill(value);
        }
        return;
    }
    let mut x = [[0; 8]; 8];
    for (x, (&c, &q)) in x.as_flattened_mut().iter_mut().zip(coefficients.iter().zip(quant)) {
        *x = i32::from(c).wrapping_mul(i32::from(q));
    }
    let columns = pass(&x, CONST_BITS - PASS1_BITS);
    let rows = transpose(pass(&transpose(columns), CONST_BITS + PASS1_BITS + 3));
    for (i, row) in rows.iter().enumerate() {
        let out = &mut out[i * stride..i * stride + 8];
        for j in 0..8 {
            out[j] = sample(row[j]);
        }
    }
}

/// cos(k·π/16) for k up to 8.
const COSINES: [f64; 9] = [
    1.0,
    0.980_785_280_403_230_4,
    0.923_879_532_511_286_7,
    0.831_469_612_302_545_2,
    std::f64::consts::FRAC_1_SQRT_2,
    0.555_570_233_019_602_2,
    0.382_683_432_365_089_8,
    0.195_090_322_016_128_27,
    0.0,
];

const fn cosine(sixteenths: usize) -> f64 {
    match sixteenths % 32 {
        k @ 0..=8 => COSINES[k],
        k @ 9..=16 => -COSINES[16 - k],
        k @ 17..=24 => -COSINES[k - 16],
        k => COSINES[32 - k],
    }
}

/// What a coefficient contributes to the mean of 8 / `S` neighbouring samples, `[coefficient][mean]`.
const fn means<const S: usize>() -> [[f32; S]; 8] {
    let mut base = [[0.0; S]; 8];
    let mut k = 0;
    while k < 8 {
        let mut at = 0;
        while at < 8 {
            let scale = if k == 0 { COSINES[4] } else { 1.0 };
            base[k][at * S / 8] += (0.5 * scale * cosine((2 * at + 1) * k) * S as f64 / 8.0) as f32;
            at += 1;
        }
        k += 1;
    }
    base
}

/// Dequantises a block and transforms it into `S` rows of `out`: the means of 8 / `S` × 8 / `S` samples each, as libjpeg-turbo's reduced transforms have them but for rounding.
#[inline(always)]
pub(super) fn reduced<const S: usize>(coefficients: &[i16; 64], quant: &[u16; 64], out: &mut [u8], stride: usize) {
    let base = const { means::<S>() };
    let mut columns = [[0.0; 8]; S];
    for v in 0..8 {
        for u in 0..8 {
            let value = i32::from(coefficients[v * 8 + u]).wrapping_mul(i32::from(quant[v * 8 + u])) as f32;
            for y in 0..S {
                columns[y][u] += base[v][y] * value;
            }
        }
    }
    for (y, row) in columns.iter().enumerate() {
        let mut sums = [128.5; S];
        for u in 0..8 {
            for x in 0..S {
                sums[x] += base[u][x] * row[u];
            }
        }
        for (out, sum) in out[y * stride..y * stride + S].iter_mut().zip(sums) {
            // a conversion of floats ends at 0 and 255 by itself
            *out = sum as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of many coefficients and of few, quantised by 3, become the means of what the definition gives.
    fn close_to_the_definition<const S: usize>(inverse: impl Fn(&[i16; 64], &mut [u8; 64]), tolerance: f64) {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as i16 - 128
        };
        for round in 0..50 {
            let mut c = [0i16; 64];
            for (k, c) in c.iter_mut().enumerate() {
                if round < 25 || k % 5 == 0 {
                    *c = next() / (1 + k as i16 / 4);
                }
            }
            let mut out = [0; 64];
            inverse(&c, &mut out);
            let mut exact = [[0.0; S]; S];
            for y in 0..8 {
                for x in 0..8 {
                    let mut sum = 0.0;
                    for v in 0..8 {
                        for u in 0..8 {
                            let scale = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
                            let cos = |a: usize, k: usize| {
                                ((2 * a + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos()
                            };
                            sum += scale(u) * scale(v) * f64::from(c[v * 8 + u]) * 3.0 * cos(x, u) * cos(y, v) / 4.0;
                        }
                    }
                    exact[y * S / 8][x * S / 8] += sum * (S * S) as f64 / 64.0;
                }
            }
            for (y, row) in exact.iter().enumerate() {
                for (x, exact) in row.iter().enumerate() {
                    let exact = (exact + 128.0).clamp(0.0, 255.0);
                    let found = f64::from(out[y * 8 + x]);
                    assert!(
                        (found - exact).abs() <= tolerance,
                        "{found} for {exact} at {x},{y} of {S}"
                    );
                }
            }
        }
    }

    #[test]
    fn all_sizes_are_close_to_the_definition() {
        close_to_the_definition::<8>(|c, out| inverse(c, &[3; 64], out, 8), 1.0);
        close_to_the_definition::<4>(|c, out| reduced::<4>(c, &[3; 64], out, 8), 0.51);
        close_to_the_definition::<2>(|c, out| reduced::<2>(c, &[3; 64], out, 8), 0.51);
        close_to_the_definition::<1>(|c, out| reduced::<1>(c, &[3; 64], out, 8), 0.51);
    }

    #[test]
    fn the_short_way_equals_the_long_one() {
        for dc in -1100..1100 {
            let mut c = [0i16; 64];
            c[0] = dc;
            let (mut short, mut long) = ([0; 64], [0; 64]);
            inverse(&c, &[1; 64], &mut short, 8);
            // a coefficient that the table turns into zero prevents the short way
            c[63] = 1;
            let mut quant = [1; 64];
            quant[63] = 0;
            inverse(&c, &quant, &mut long, 8);
            assert_eq!(short, long, "{dc}");
        }
    }
}
