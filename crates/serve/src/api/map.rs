//! `/v1/map`: the collection on a plane.
//!
//! The two directions in which the stored vectors differ most (principal components), from at most five thousand of them, evenly spaced in the
//! order of keys. Computed once for each state of the store, beside the requests.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bifocal_search::Store;
use bytes::Bytes;
use serde_json::json;

use crate::app::Shared;
use crate::error::{Answer, ApiError};
use crate::store;

/// Items on the map.
const MOST: usize = 5_000;
/// Rounds of the power iteration; the picture does not change visibly after a third of them.
const ROUNDS: usize = 60;

/// The map of one state of the store, as JSON.
#[derive(Default)]
pub(crate) struct Cache {
    kept: Mutex<Option<(u64, Bytes)>>,
    /// Held while one is computed: others wait for it and do not compute it again.
    busy: tokio::sync::Mutex<()>,
}

impl Cache {
    fn get(&self, generation: u64) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref()
            .filter(|kept| kept.0 == generation)
            .map(|kept| kept.1.clone())
    }
}

/// `GET /v1/map`.
pub(crate) async fn map(State(app): State<Shared>) -> Answer<Response> {
    let engine = app.engine()?;
    let asked = engine.store()?;
    let generation = store::ask(asked, |store| Ok(store.stats()?.generation)).await?;
    let json = match app.map.get(generation) {
        Some(json) => json,
        None => {
            let _busy = app.map.busy.lock().await;
            match app.map.get(generation) {
                Some(json) => json,
                None => {
                    let shared = Arc::clone(asked);
                    let json = engine.aside(move || draw(&*shared)).await?;
                    *app.map.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, json.clone()));
                    json
                }
            }
        }
    };
    let mut response = json.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn draw(store: &dyn Store) -> Answer<Bytes> {
    let (keys, vectors) = store::sample(store, MOST)?;
    let plane = principal(&vectors, store.model().dim, keys.len());
    let round = |v: f64| (v * 1e5).round() / 1e5;
    let points = keys.iter().zip(&plane.points);
    let points: Vec<_> = points
        .map(|(key, [x, y])| json!({ "key": key, "x": round(*x), "y": round(*y) }))
        .collect();
    let json = json!({ "points": points, "explained": plane.explained.map(round) });
    serde_json::to_vec(&json).map(Bytes::from).map_err(|_| ApiError::lost())
}

/// Points on the plane, and which share of all variance each axis shows.
struct Plane {
    points: Vec<[f64; 2]>,
    explained: [f64; 2],
}

/// The first two principal components by subspace iteration. The same vectors give the same plane: it starts from fixed directions, and
/// each axis points to where its largest coefficient is positive.
fn principal(vectors: &[f32], dim: usize, n: usize) -> Plane {
    let flat = Plane {
        points: vec![[0.0; 2]; n],
        explained: [0.0; 2],
    };
    if n < 2 || dim < 2 {
        return flat;
    }
    let mut mean = vec![0.0f64; dim];
    for row in vectors.chunks_exact(dim) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(m, &v)| *m += f64::from(v) / n as f64);
    }
    let centred: Vec<f64> = vectors
        .chunks_exact(dim)
        .flat_map(|row| row.iter().zip(&mean).map(|(&v, m)| f64::from(v) - m))
        .collect();
    let total: f64 = centred.iter().map(|v| v * v).sum();
    if total <= 1e-12 {
        return flat;
    }
    // fixed, and not orthogonal to anything in particular
    let start = |seed: usize| {
        (0..dim)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 1009.0 - 0.5)
            .collect::<Vec<_>>()
    };
    let mut axes = [start(1), start(2)];
    orthonormal(&mut axes);
    let mut variance = [0.0; 2];
    for _ in 0..ROUNDS {
        let mut next = [vec![0.0; dim], vec![0.0; dim]];
        for row in centred.chunks_exact(dim) {
            for (axis, sum) in axes.iter().zip(&mut next) {
                let along = dot(row, axis);
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += along * v);
            }
        }
        variance = [dot(&next[0], &axes[0]), dot(&next[1], &axes[1])];
        axes = next;
        orthonormal(&mut axes);
    }
    for axis in &mut axes {
        let largest = axis
            .iter()
            .copied()
            .fold(0.0, |most: f64, v| if v.abs() > most.abs() { v } else { most });
        if largest < 0.0 {
            axis.iter_mut().for_each(|v| *v = -*v);
        }
    }
    Plane {
        points: centred
            .chunks_exact(dim)
            .map(|row| [dot(row, &axes[0]), dot(row, &axes[1])])
            .collect(),
        explained: variance.map(|v| (v / total).clamp(0.0, 1.0)),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gram and Schmidt's; an axis without any variance becomes zero.
fn orthonormal(axes: &mut [Vec<f64>; 2]) {
    let [first, second] = axes;
    normalise(first);
    let along = dot(first, second);
    second.iter_mut().zip(&*first).for_each(|(s, f)| *s -= along * f);
    normalise(second);
}

fn normalise(axis: &mut [f64]) {
    let length = dot(axis, axis).sqrt();
    let scale = if length > 1e-9 { 1.0 / length } else { 0.0 };
    axis.iter_mut().for_each(|v| *v *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directions_of_most_variance_are_found() {
        // along (0.6, 0.8, 0) by up to 50, along (0, 0, 1) by up to 5, and nothing else
        let vectors: Vec<f32> = (0..101)
            .flat_map(|i| {
                let (a, b) = (i as f32 - 50.0, (i * 37 % 11) as f32 - 5.0);
                [3.0 + 0.6 * a, 0.8 * a, b - 1.0]
            })
            .collect();
        let plane = principal(&vectors, 3, 101);
        assert!(
            plane.explained[0] > 0.98 && plane.explained.iter().sum::<f64>() > 0.999_999,
            "{:?}",
            plane.explained
        );
        let [first, last] = [plane.points[0], plane.points[100]];
        assert!(
            (first[0] + 50.0).abs() < 0.2 && (last[0] - 50.0).abs() < 0.2,
            "{first:?} {last:?}"
        );
    }

    #[test]
    fn what_has_no_plane_lies_in_one_point() {
        for n in [0, 1, 3] {
            let plane = principal(&vec![0.5; 4 * n], 4, n);
            assert_eq!((plane.points.len(), plane.explained), (n, [0.0; 2]));
            assert!(plane.points.iter().all(|p| *p == [0.0; 2]));
        }
        // a line has one direction
        let line: Vec<f32> = (0..9).flat_map(|i| [i as f32, 0.0]).collect();
        let plane = principal(&line, 2, 9);
        assert!(
            plane.explained[0] > 0.999 && plane.explained[1] < 1e-6,
            "{:?}",
            plane.explained
        );
        assert!(plane.points.iter().flatten().all(|v| v.is_finite()));
    }
}
