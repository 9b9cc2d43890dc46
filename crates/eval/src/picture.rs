//! How near a picture is to another one, and how much of a codebook is used.

/// Peak signal-to-noise ratio in decibels of values in 0…255: 10·log₁₀(255² / mean squared difference). Equal pictures have an infinite one.
///
/// # Shapes
/// Both of the same length; `None` otherwise, or without values.
pub fn psnr(a: &[u8], b: &[u8]) -> Option<f64> {
    if a.len() != b.len() || a.is_empty() {
        return None;
    }
    let square = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b)).pow(2);
    let error = a.iter().zip(b).map(square).sum::<u64>() as f64 / a.len() as f64;
    Some(10.0 * (255.0f64.powi(2) / error).log10())
}

/// Side of the window of [`ssim`].
const WINDOW: usize = 7;

/// Structural similarity (Wang et al. 2004) with the defaults of scikit-image's `structural_similarity`: means, variances and covariances (of samples, divided by
/// 48) over a uniform window of 7 × 7, K₁ = 0.01, K₂ = 0.03, of values in 0…255; the mean over all windows that lie inside the picture and over channels.
///
/// # Shapes
/// Both `[h, w, channels]`; `None` when they are not, or a side is below 7.
pub fn ssim(a: &[u8], b: &[u8], [h, w]: [usize; 2], channels: usize) -> Option<f64> {
    let values = h.checked_mul(w)?.checked_mul(channels)?;
    if a.len() != values || b.len() != values || h < WINDOW || w < WINDOW || channels == 0 {
        return None;
    }
    let total: f64 = (0..channels).map(|c| channel(a, b, [h, w], channels, c)).sum();
    Some(total / channels as f64)
}

/// Σ a, Σ b, Σ a², Σ b², Σ ab.
type Sums = [u64; 5];

fn channel(a: &[u8], b: &[u8], [h, w]: [usize; 2], channels: usize, c: usize) -> f64 {
    let at = |y: usize, x: usize| {
        let i = (y * w + x) * channels + c;
        let (a, b) = (u64::from(a[i]), u64::from(b[i]));
        [a, b, a * a, b * b, a * b]
    };
    let change = |sums: &mut Sums, by: Sums, up: bool| {
        for (sum, by) in sums.iter_mut().zip(by) {
            *sum = if up { *sum + by } else { *sum - by };
        }
    };
    // sums over columns of seven rows, then along the row: all of them exact
    let mut columns: Vec<Sums> = vec![[0; 5]; w];
    let (mut total, mut windows) = (0.0, 0usize);
    for y in 0..h {
        for (x, column) in columns.iter_mut().enumerate() {
            change(column, at(y, x), true);
            if y >= WINDOW {
                change(column, at(y - WINDOW, x), false);
            }
        }
        if y + 1 < WINDOW {
            continue;
        }
        let mut sums = [0; 5];
        for x in 0..w {
            change(&mut sums, columns[x], true);
            if x >= WINDOW {
                change(&mut sums, columns[x - WINDOW], false);
            }
            if x + 1 >= WINDOW {
                total += window(sums);
                windows += 1;
            }
        }
    }
    total / windows.max(1) as f64
}

fn window(sums: Sums) -> f64 {
    let n = (WINDOW * WINDOW) as f64;
    let [a, b, aa, bb, ab] = sums.map(|sum| sum as f64 / n);
    let sample = n / (n - 1.0);
    let (var_a, var_b, cov) = (sample * (aa - a * a), sample * (bb - b * b), sample * (ab - a * b));
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    (2.0 * a * b + c1) * (2.0 * cov + c2) / ((a * a + b * b + c1) * (var_a + var_b + c2))
}

/// How a codebook is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeUse {
    /// How many different codes occur.
    pub used: usize,
    /// Over how many.
    pub of: usize,
    /// 2 to the entropy of how often each occurs, in bits: so many codes, equally frequent, would say as much.
    pub perplexity: f64,
}

impl CodeUse {
    /// Of codes below `of`; others do not count.
    pub fn count(codes: impl IntoIterator<Item = u32>, of: usize) -> Self {
        let mut times = vec![0u64; of];
        for code in codes {
            if let Some(times) = times.get_mut(code as usize) {
                *times += 1;
            }
        }
        let total = times.iter().sum::<u64>() as f64;
        let share = |n: &u64| *n as f64 / total;
        let entropy: f64 = times
            .iter()
            .filter(|n| **n > 0)
            .map(|n| -share(n) * share(n).log2())
            .sum();
        Self {
            used: times.iter().filter(|n| **n > 0).count(),
            of,
            perplexity: entropy.exp2(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_like_itself() {
        let picture: Vec<u8> = (0..9 * 8 * 3).map(|i| (i * 37 % 251) as u8).collect();
        assert_eq!(psnr(&picture, &picture), Some(f64::INFINITY));
        assert!((ssim(&picture, &picture, [9, 8], 3).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(psnr(&picture, &picture[1..]), None);
        assert_eq!(psnr(&[], &[]), None);
        assert_eq!(ssim(&picture, &picture, [8, 8], 3), None);
        assert_eq!(ssim(&picture, &picture, [72, 3], 1), None, "no window fits");
        // one step of 255: the least that there is
        assert_eq!(psnr(&[0], &[255]), Some(0.0));
    }

    #[test]
    fn use_is_counted() {
        let even = CodeUse::count([0, 1, 2, 3, 0, 1, 2, 3], 8);
        assert_eq!((even.used, even.of), (4, 8));
        assert!((even.perplexity - 4.0).abs() < 1e-12);
        let one = CodeUse::count([5, 5, 99], 8);
        assert_eq!((one.used, one.perplexity), (1, 1.0));
        assert_eq!(CodeUse::count([], 8).used, 0);
        assert_eq!(CodeUse::count([], 8).perplexity, 1.0);
    }
}
