//! From logits to the next token.

use bifocal_nn::init::Rng;

use super::GenerateError;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0: always the likeliest token ("greedy").
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn from; 0: all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability (Holtzman et al. 2020, "nucleus"); 1: all.
    pub top_p: f32,
}

impl Default for Sampling {
    /// Greedy, as all of LLaVA's evaluations.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
        }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GenerateError::Field`].
    pub fn check(&self) -> Result<(), GenerateError> {
        let field = |field, value: f32, allowed| {
            Err(GenerateError::Field {
                field,
                value: value.to_string(),
                allowed,
            })
        };
        if !(0.0..=100.0).contains(&self.temperature) {
            return field("temperature", self.temperature, "0 (greedy) to 100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return field("top_p", self.top_p, "above 0 and at most 1");
        }
        Ok(())
    }

    /// The next token.
    ///
    /// # Errors
    /// [`GenerateError::NotFinite`] when no logit is a number.
    pub fn draw(&self, logits: &[f32], rng: &mut Rng) -> Result<u32, GenerateError> {
        let drawn = match self.temperature == 0.0 {
            true => likeliest(logits),
            false => pick(&self.candidates(logits), rng.unit()),
        };
        drawn.ok_or(GenerateError::NotFinite)
    }

    /// The tokens that may come next with their probabilities, likeliest first; of equal ones, the smaller id. The probabilities add up to 1. Empty when no
    /// logit is a number above −∞.
    ///
    /// # Shapes
    /// `logits`: one a token.
    pub fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let usable = |(id, &logit): (usize, &f32)| (logit > f32::NEG_INFINITY).then_some((id as u32, logit));
        let mut all: Vec<(u32, f32)> = logits.iter().enumerate().filter_map(usable).collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.top_k > 0 && self.top_k < all.len() {
            all.select_nth_unstable_by(self.top_k - 1, order);
            all.truncate(self.top_k);
        }
        all.sort_unstable_by(order);
        let Some(&(_, top)) = all.first() else { return all };
        let temperature = self.temperature.max(f32::MIN_POSITIVE);
        // a logit of +∞ leaves no room for others
        let weigh = |logit: f32| {
            if logit == top {
                1.0
            } else {
                ((logit - top) / temperature).exp()
            }
        };
        all.iter_mut().for_each(|(_, p)| *p = weigh(*p));
        let total: f64 = all.iter().map(|&(_, p)| f64::from(p)).sum();
        let mut before = 0.0;
        let kept = all.iter().take_while(|(_, p)| {
            let more = before < f64::from(self.top_p) * total;
            before += f64::from(*p);
            more
        });
        let kept = kept.count().max(1);
        all.truncate(kept);
        let total: f64 = all.iter().map(|&(_, p)| f64::from(p)).sum();
        all.iter_mut().for_each(|(_, p)| *p = (f64::from(*p) / total) as f32);
        all
    }
}

/// The token of the largest logit, the first of several; `None` when none is a number above −∞.
pub fn likeliest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, top)| top) {
            best = Some((id as u32, logit));
        }
    }
    best.map(|(id, _)| id)
}

/// The candidate at a place in [0, 1) when they are laid side by side, each as wide as it is probable.
pub fn pick(candidates: &[(u32, f32)], place: f32) -> Option<u32> {
    let mut sum = 0.0;
    let found = candidates.iter().find(|(_, p)| {
        sum += p;
        place < sum
    });
    // rounding may leave a little room at the end
    found.or(candidates.last()).map(|&(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| 3.0 * rng.normal()).collect()
    }

    fn with(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling {
            temperature,
            top_k,
            top_p,
        }
    }

    #[test]
    fn candidates_are_the_likeliest_and_add_up_to_one() {
        for seed in 0..40 {
            let logits = logits(50, seed);
            for (k, p) in [(0, 1.0), (5, 1.0), (0, 0.7), (9, 0.5), (1, 1.0), (0, 1e-6), (500, 0.9)] {
                let sampling = with(0.8, k, p);
                let found = sampling.candidates(&logits);
                let sum: f32 = found.iter().map(|c| c.1).sum();
                assert!((sum - 1.0).abs() < 1e-5, "{sum}");
                assert!(found.is_sorted_by(|a, b| a.1 >= b.1));
                assert!(k == 0 || found.len() <= k);
                assert_eq!(found[0].0, likeliest(&logits).unwrap());
                let least = found.iter().map(|c| logits[c.0 as usize]).fold(f32::INFINITY, f32::min);
                let above = logits.iter().filter(|&&l| l > least).count();
                assert_eq!(above + 1, found.len(), "nothing likelier is left out");
                let whole = with(0.8, k, 1.0).candidates(&logits);
                let share: f32 = whole[..found.len()].iter().map(|c| c.1).sum();
                let without: f32 = whole[..found.len() - 1].iter().map(|c| c.1).sum();
                assert!(
                    share >= p - 1e-5 && without < p + 1e-5,
                    "the fewest that reach {p}: {share} {without}"
                );
            }
        }
    }

    #[test]
    fn draws_come_as_often_as_they_are_probable() {
        let (logits, sampling) = (logits(6, 7), with(1.0, 0, 1.0));
        let candidates = sampling.candidates(&logits);
        let (mut rng, mut seen) = (Rng::new(3), [0u32; 6]);
        let draws = 40_000;
        for _ in 0..draws {
            seen[sampling.draw(&logits, &mut rng).unwrap() as usize] += 1;
        }
        for (id, p) in candidates {
            let share = seen[id as usize] as f32 / draws as f32;
            assert!((share - p).abs() < 0.01, "{id}: {share} {p}");
        }
    }

    #[test]
    fn greedy_is_the_limit_of_cold_and_seeds_repeat() {
        for seed in 0..20 {
            let logits = logits(30, seed);
            let cold = with(1e-3, 0, 1.0).draw(&logits, &mut Rng::new(seed)).unwrap();
            let greedy = Sampling::default().draw(&logits, &mut Rng::new(0)).unwrap();
            assert_eq!(cold, greedy);
            let warm = with(1.3, 0, 0.95);
            let draw = || warm.draw(&logits, &mut Rng::new(seed)).unwrap();
            assert_eq!(draw(), draw());
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_passed_over() {
        let broken = [f32::NAN, f32::NEG_INFINITY];
        for sampling in [Sampling::default(), with(1.0, 0, 1.0)] {
            assert_eq!(sampling.draw(&broken, &mut Rng::new(0)), Err(GenerateError::NotFinite));
            assert_eq!(sampling.draw(&[f32::NAN, 1.0], &mut Rng::new(0)), Ok(1));
            let infinite = [0.0, f32::INFINITY, 3.0];
            assert_eq!(sampling.draw(&infinite, &mut Rng::new(0)), Ok(1));
        }
    }

    #[test]
    fn places_cover_all_candidates() {
        let candidates = [(4, 0.5), (2, 0.3), (9, 0.2)];
        let at = |place| pick(&candidates, place).unwrap();
        assert_eq!(
            [at(0.0), at(0.49), at(0.5), at(0.79), at(0.81), at(0.999_999_9)],
            [4, 4, 2, 2, 9, 9]
        );
        assert_eq!(pick(&[], 0.5), None);
    }

    #[test]
    fn choices_that_cannot_be_are_refused() {
        for sampling in [
            with(-1.0, 0, 1.0),
            with(f32::NAN, 0, 1.0),
            with(1.0, 0, 0.0),
            with(1.0, 0, 1.1),
        ] {
            assert!(sampling.check().is_err(), "{sampling:?}");
        }
        assert!(with(0.7, 40, 0.9).check().is_ok());
    }
}
