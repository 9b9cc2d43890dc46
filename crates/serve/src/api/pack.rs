//! Rows in fewer bytes.

/// One bit a value, 1 for those above zero, the first in the highest bit, as numpy packs them.
pub(super) fn pack(row: &[f32]) -> Vec<u8> {
    let byte = |values: &[f32]| {
        (0..8).fold(0, |byte, at| {
            byte << 1 | u8::from(values.get(at).is_some_and(|&v| v > 0.0))
        })
    };
    row.chunks(8).map(byte).collect()
}

/// Eight bits a value; the largest value of the row becomes ±127, so that cosines stay.
pub(super) fn to_i8(row: &[f32]) -> Vec<i8> {
    let largest = row.iter().fold(0f32, |most, v| most.max(v.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    row.iter().map(|v| (v * scale).round() as i8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_packed_as_numpy_does() {
        // np.packbits(np.array([1,-1,1,0,0,0,0,1, .5]) > 0) = [161, 128]
        assert_eq!(pack(&[1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5]), [161, 128]);
    }

    #[test]
    fn eight_bits_keep_the_direction() {
        assert_eq!(to_i8(&[0.02, -0.01, 0.0]), [127, -64, 0]);
        assert_eq!(to_i8(&[0.0, 0.0]), [0, 0]);
        let row: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
        let small = to_i8(&row);
        let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| {
            let (ab, aa, bb) = a.fold((0.0, 0.0, 0.0), |(x, y, z), (a, b)| (x + a * b, y + a * a, z + b * b));
            ab / (aa * bb).sqrt()
        };
        let cosine = dot(&mut row.iter().zip(&small).map(|(&a, &b)| (f64::from(a), f64::from(b))));
        assert!(cosine > 0.9999, "{cosine}");
    }
}
