//! Many points become as many as can be seen.

/// Points of a curve: a step and a value.
pub(super) type Point = (u64, f64);

/// Mean with a memory of a sixtieth of the curve, free of the bias towards the start (Kingma and Ba, 2015, section 3). Values that are
/// not finite are passed over.
pub(super) fn smooth(points: &[Point]) -> Vec<Point> {
    let memory = (points.len() as f64 / 60.0).max(2.0);
    let keep = 1.0 - 1.0 / memory;
    let (mut mean, mut weight) = (0.0, 0.0);
    points
        .iter()
        .filter(|(_, v)| v.is_finite())
        .map(|&(step, v)| {
            mean = keep * mean + (1.0 - keep) * v;
            weight = keep * weight + (1.0 - keep);
            (step, mean / weight)
        })
        .collect()
}

/// The first and last point and, of each of `columns` equal ranges of steps, the lowest and the highest, in their order: at that
/// many columns of pixels the line looks the same. Values that are not finite stay where they end a run of others, so that lines have their
/// gaps.
pub(super) fn thin(points: &[Point], columns: u64) -> Vec<Point> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Vec::new();
    };
    if points.len() as u64 <= 2 * columns {
        return points.to_vec();
    }
    let range = u128::from(last.0.saturating_sub(first.0)) + 1;
    let column = |step: u64| u128::from(step.saturating_sub(first.0)) * u128::from(columns) / range;
    let mut kept = vec![0, points.len() - 1];
    let mut next = 0;
    for group in points.chunk_by(|a, b| column(a.0) == column(b.0)) {
        let start = next;
        next += group.len();
        let finite = || group.iter().enumerate().filter(|(_, (_, v))| v.is_finite());
        let lowest = finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let highest = finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        kept.extend(lowest.into_iter().chain(highest).map(|(i, _)| start + i));
        if lowest.is_none() {
            kept.push(start);
        }
    }
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().map(|i| points[i]).collect()
}

/// At most `most` points at equal distances, the last one among them.
pub(super) fn sample(points: &[Point], most: usize) -> Vec<Point> {
    let every = points.len().div_ceil(most.max(1)).max(1);
    let mut sampled: Vec<Point> = points.iter().rev().step_by(every).copied().collect();
    sampled.reverse();
    sampled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_stay_and_everything_keeps_its_order() {
        let mut points: Vec<Point> = (1..=100_000u64).map(|i| (i, (i as f64 * 0.01).sin())).collect();
        points[54_321].1 = 40.0;
        points[77_777].1 = -40.0;
        points[20_000..30_000].iter_mut().for_each(|p| p.1 = f64::NAN);
        let thinned = thin(&points, 500);
        assert!(thinned.len() <= 1002, "{}", thinned.len());
        assert!(thinned.contains(&(54_322, 40.0)) && thinned.contains(&(77_778, -40.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!((thinned[0].0, thinned[thinned.len() - 1].0), (1, 100_000));
        assert!(thinned.iter().any(|p| p.1.is_nan()));
        assert!(thin(&[], 5).is_empty());
        assert_eq!(thin(&points[..7], 5).len(), 7);
        assert_eq!(sample(&points, 300).len(), 300);
        assert_eq!(sample(&points, 300)[299].0, 100_000);
        assert!(sample(&[], 0).is_empty());
    }

    #[test]
    fn the_mean_begins_with_the_first_value() {
        let level = smooth(&[(1, 5.0), (2, 5.0), (3, f64::NAN), (4, 5.0)]);
        assert_eq!(level.len(), 3);
        assert!(level.iter().all(|(_, v)| (v - 5.0).abs() < 1e-12));
        // a memory of two: (1/4·1 + 1/2·4) / (3/4)
        assert!((smooth(&[(1, 1.0), (2, 4.0)])[1].1 - 3.0).abs() < 1e-12);
    }
}
