//! Stand-ins for pictures of the classes that a tower was trained to tell apart.

use bifocal_models::open::VisionEncoder;
use bifocal_models::vision::VisionTower;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::{Activation, linear};

use super::TrainError;
use crate::recipe::ClassRows;

/// A stand-in for a picture of each class that the tower was trained to tell apart.
///
/// A classifier's row says which features speak for its class, not what a picture of the class looks like: the two differ by the
/// covariance of the features (Haufe et al. 2014, "On the interpretation of weight vectors of linear models in multivariate
/// neuroimaging"). So each row is multiplied by the covariance of the pictures there are, scaled to their spread, and added to
/// their mean. Without pictures, or when the recipe says so, rows are taken as they are.
pub(super) fn classifier(
    encoder: &VisionEncoder,
    pictures: &[Option<Vec<f32>>],
    rows: ClassRows,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let found = match &encoder.tower {
        VisionTower::EfficientNetLite(tower) => tower.classifier(),
        _ => None,
    };
    let Some(classifier) = found else {
        return Err(TrainError::Features {
            what: "classes".to_owned(),
            message: format!(
                "{} has no classifier; take the source with kind = \"classifier\" out of the recipe",
                encoder.name
            ),
        });
    };
    let dim = encoder.tower.dim();
    let seen: Vec<f32> = pictures.iter().flatten().flatten().copied().collect();
    if seen.is_empty() || rows == ClassRows::Weights {
        return Ok(classifier
            .weight
            .chunks_exact(dim.max(1))
            .map(<[f32]>::to_vec)
            .collect());
    }
    Ok(patterns(&classifier.weight, &seen, dim))
}

/// Mean of the pictures + covariance · weight, scaled so that its deviation from the mean is that of a picture: in units of each feature's
/// standard deviation its root mean square is 1.
///
/// # Shapes
/// `weights` `[classes, dim]`, `pictures` `[n, dim]` → `classes` rows of `dim`.
fn patterns(weights: &[f32], pictures: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let (n, classes) = (pictures.len() / dim, weights.len() / dim);
    let mut mean = vec![0.0f64; dim];
    for row in pictures.chunks_exact(dim) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(m, &v)| *m += f64::from(v) / n as f64);
    }
    let mut centred = pictures.to_vec();
    let mut variance = vec![0.0f64; dim];
    for row in centred.chunks_exact_mut(dim) {
        for ((v, m), s) in row.iter_mut().zip(&mean).zip(&mut variance) {
            *v -= *m as f32;
            *s += f64::from(*v).powi(2) / n as f64;
        }
    }
    let product = |x, w| linear(x, w, None, Activation::Identity, None);
    let centred = tensor(centred, [n, dim]);
    // Xᵀ(X wᵀ) in place of (XᵀX) wᵀ: the covariance itself is never built.
    let scores = product(tensor(weights.to_vec(), [classes, dim]), centred.clone());
    let raised = values(product(scores, centred.transpose()));
    let place = |row: &[f32]| {
        let units = row
            .iter()
            .zip(&variance)
            .map(|(&v, s)| f64::from(v).powi(2) / s.max(1e-12));
        let size = (units.sum::<f64>() / dim as f64).sqrt().max(1e-12);
        row.iter()
            .zip(&mean)
            .map(|(&v, m)| (m + f64::from(v) / size) as f32)
            .collect()
    };
    raised.chunks_exact(dim).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_mean_plus_covariance_times_weight() {
        let (dim, n) = (3, 50);
        let mut rng = bifocal_nn::init::Rng::new(5);
        let pictures: Vec<f32> = (0..n)
            .flat_map(|_| {
                let (a, b) = (rng.normal(), rng.normal());
                [2.0 + a, 1.0 - 3.0 * a + 0.1 * b, 5.0 + 2.0 * b]
            })
            .collect();
        let weights = [1.0, 0.5, -0.25, 0.0, 0.0, 1.0];
        let found = patterns(&weights, &pictures, dim);
        let at = |i: usize, j: usize| f64::from(pictures[i * dim + j]);
        let mean: Vec<f64> = (0..dim)
            .map(|j| (0..n).map(|i| at(i, j)).sum::<f64>() / n as f64)
            .collect();
        let covariance =
            |j: usize, k: usize| (0..n).map(|i| (at(i, j) - mean[j]) * (at(i, k) - mean[k])).sum::<f64>() / n as f64;
        for (c, row) in found.iter().enumerate() {
            let raw: Vec<f64> = (0..dim)
                .map(|j| {
                    (0..dim)
                        .map(|k| covariance(j, k) * f64::from(weights[c * dim + k]))
                        .sum()
                })
                .collect();
            let size = (0..dim).map(|j| raw[j] * raw[j] / covariance(j, j)).sum::<f64>() / dim as f64;
            for j in 0..dim {
                let expected = mean[j] + raw[j] / size.sqrt();
                assert!((f64::from(row[j]) - expected).abs() < 1e-4, "{row:?} {expected}");
            }
        }
    }
}
