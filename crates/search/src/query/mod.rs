//! What a query says, and one vector from several.

mod parse;

pub use parse::{QueryError, Term, parse, weighted};

use crate::error::StoreError;
use crate::store::unit;

/// The sum of unit vectors times their weights, normalised: a query of several texts, pictures and items. Negative weights lead away.
///
/// # Shapes
/// `parts`: weights with vectors of any length but zero. Every vector `[dim]`; returns `[dim]`.
///
/// # Errors
/// No parts, vectors of another width or without direction, weights that are not finite, parts that cancel out.
pub fn combine<V: AsRef<[f32]>>(parts: &[(f32, V)], dim: usize) -> Result<Vec<f32>, StoreError> {
    if parts.is_empty() {
        return Err(StoreError::Invalid {
            what: "the query".to_owned(),
            why: "is empty; give a text or a picture",
        });
    }
    let mut sum = vec![0.0f64; dim];
    let mut weights = 0.0f64;
    for (number, (weight, vector)) in parts.iter().enumerate() {
        let what = || format!("part {} of the query", number + 1);
        if !weight.is_finite() {
            return Err(StoreError::Invalid {
                what: format!("the weight of part {} of the query", number + 1),
                why: "must be a finite number",
            });
        }
        weights += f64::from(*weight).abs();
        for (s, v) in sum.iter_mut().zip(unit(vector.as_ref(), dim, what)?) {
            *s += f64::from(*weight) * f64::from(v);
        }
    }
    let length = sum.iter().map(|s| s * s).sum::<f64>().sqrt();
    // What rounding leaves of parts that cancel out has no direction of its own.
    if length <= 1e-6 * weights || weights == 0.0 {
        let why = "cancels out: its parts and weights leave no direction; change a weight";
        return Err(StoreError::Invalid {
            what: "the query".to_owned(),
            why,
        });
    }
    Ok(sum.into_iter().map(|s| (s / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(weight: f32, vector: &[f32]) -> (f32, &[f32]) {
        (weight, vector)
    }

    #[test]
    fn parts_count_by_weight_and_not_by_length() {
        let both = combine(&[part(1.0, &[10.0, 0.0]), part(1.0, &[0.0, 0.1])], 2).unwrap();
        assert!((both[0] - both[1]).abs() < 1e-6 && (both[0] - 0.5f32.sqrt()).abs() < 1e-6);
        let away = combine(&[part(2.0, &[1.0, 0.0]), part(-1.0, &[0.0, 1.0])], 2).unwrap();
        assert!((away[0] - 2.0 / 5f32.sqrt()).abs() < 1e-6 && (away[1] + 1.0 / 5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn queries_without_direction_are_refused() {
        assert!(matches!(combine::<&[f32]>(&[], 2), Err(StoreError::Invalid { .. })));
        assert!(matches!(
            combine(&[part(0.0, &[1.0, 0.0])], 2),
            Err(StoreError::Invalid { .. })
        ));
        assert!(matches!(
            combine(&[part(f32::NAN, &[1.0, 0.0])], 2),
            Err(StoreError::Invalid { .. })
        ));
        let opposite = [part(0.3, &[3.0, 4.0]), part(-0.3, &[0.6, 0.8])];
        assert!(matches!(combine(&opposite, 2), Err(StoreError::Invalid { .. })));
        assert!(matches!(
            combine(&[part(1.0, &[1.0])], 2),
            Err(StoreError::Dimensions { .. })
        ));
    }
}
