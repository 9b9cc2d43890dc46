//! Numbers with their intervals, as they are found.

use std::collections::BTreeMap;

use anyhow::Result;
use bifocal_eval::{Unit, interval};

use super::results::{Kind, Metric, Units};

/// Of more groups than this, the outcomes of single pictures are kept for their mean only.
const GROUPS: usize = 8;

/// What has been measured on a benchmark so far.
pub struct Tally {
    seed: u64,
    metrics: Vec<Metric>,
    /// By metric, then group in the order they came.
    units: BTreeMap<String, Vec<(String, Vec<Unit>)>>,
}

impl Tally {
    /// Nothing yet; `seed` is that of the bootstrap.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            metrics: Vec::new(),
            units: BTreeMap::new(),
        }
    }

    /// Adds a share with its interval.
    pub fn share(&mut self, name: &str, group: &str, units: Vec<Unit>, chance: Option<f64>) -> Result<()> {
        let found = interval(&units, self.seed)?;
        self.metrics.push(Metric {
            name: name.to_owned(),
            group: group.to_owned(),
            value: found.mean,
            low: Some(found.low),
            high: Some(found.high),
            chance,
            unit: Kind::Share,
        });
        self.units
            .entry(name.to_owned())
            .or_default()
            .push((group.to_owned(), units));
        Ok(())
    }

    /// Adds a number without an interval.
    pub fn plain(&mut self, name: &str, group: &str, value: f64, unit: Kind, chance: Option<f64>) {
        self.metrics.push(Metric {
            name: name.to_owned(),
            group: group.to_owned(),
            value,
            low: None,
            high: None,
            chance,
            unit,
        });
    }

    /// Adds, for a share that was measured in groups, the mean over some of them: each group counts the same, however large it is. `into` is
    /// what the mean is called.
    pub fn mean(&mut self, name: &str, into: &str, of: impl Fn(&str) -> bool) -> Result<()> {
        let Some(groups) = self.units.get(name) else {
            return Ok(());
        };
        let groups: Vec<&Vec<Unit>> = groups
            .iter()
            .filter(|(group, _)| of(group))
            .map(|(_, units)| units)
            .collect();
        if groups.is_empty() {
            return Ok(());
        }
        let units = mean_units(&groups);
        let known: Option<Vec<f64>> = self
            .metrics
            .iter()
            .filter(|m| m.name == name && of(&m.group))
            .map(|m| m.chance)
            .collect();
        let chance = known.map(|all| all.iter().sum::<f64>() / all.len().max(1) as f64);
        self.share(name, into, units, chance)
    }

    /// As [`Tally::mean`], but each item counts the same, whatever its group.
    pub fn pool(&mut self, name: &str, into: &str, of: impl Fn(&str) -> bool) -> Result<()> {
        let Some(groups) = self.units.get(name) else {
            return Ok(());
        };
        let groups = groups.iter().filter(|(group, _)| of(group));
        let units: Vec<Unit> = groups.flat_map(|(_, units)| units.iter().copied()).collect();
        let chance = self
            .metrics
            .iter()
            .find(|m| m.name == name && of(&m.group))
            .and_then(|m| m.chance);
        match units.is_empty() {
            true => Ok(()),
            false => self.share(name, into, units, chance),
        }
    }

    /// Everything, the means first.
    pub fn finish(mut self) -> (Vec<Metric>, BTreeMap<String, Units>) {
        self.metrics.sort_by_key(|metric| !metric.group.is_empty());
        let mut kept = BTreeMap::new();
        for (name, groups) in &self.units {
            let few = groups.len() <= GROUPS;
            for (group, units) in groups.iter().filter(|(group, _)| few || group.is_empty()) {
                let key = match group.as_str() {
                    "" => name.clone(),
                    group => format!("{name}/{group}"),
                };
                kept.insert(key, Units::from(&units[..]));
            }
        }
        (self.metrics, kept)
    }
}

/// Units whose mean is the mean of the groups' means. Groups of equal length are about the same pictures (languages): a picture is then one unit.
fn mean_units(groups: &[&Vec<Unit>]) -> Vec<Unit> {
    let share = 1.0 / groups.len() as f64;
    let weighted = groups.iter().map(|units| {
        let count: f64 = units.iter().map(|unit| unit.count).sum();
        let weight = share / count.max(f64::MIN_POSITIVE);
        units.iter().map(move |unit| Unit {
            sum: unit.sum * weight,
            count: unit.count * weight,
        })
    });
    let same = groups.len() > 1 && groups.iter().all(|units| units.len() == groups[0].len());
    if !same {
        return weighted.flatten().collect();
    }
    let mut sums = vec![Unit { sum: 0.0, count: 0.0 }; groups[0].len()];
    for group in weighted {
        for (sum, unit) in sums.iter_mut().zip(group) {
            sum.sum += unit.sum;
            sum.count += unit.count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(of: &[f64]) -> Vec<Unit> {
        of.iter().copied().map(Unit::one).collect()
    }

    #[test]
    fn groups_count_the_same_however_large() {
        let mut tally = Tally::new(1);
        tally
            .share("accuracy", "a", units(&[1.0, 1.0, 1.0, 0.0]), Some(0.5))
            .unwrap();
        tally.share("accuracy", "b", units(&[0.0, 1.0]), Some(0.25)).unwrap();
        tally.mean("accuracy", "", |_| true).unwrap();
        let (metrics, kept) = tally.finish();
        assert_eq!((metrics[0].group.as_str(), metrics[0].chance), ("", Some(0.375)));
        assert!((metrics[0].value - 0.625).abs() < 1e-12);
        assert_eq!(
            kept.keys().collect::<Vec<_>>(),
            ["accuracy", "accuracy/a", "accuracy/b"]
        );
    }

    #[test]
    fn the_same_pictures_in_two_languages_are_one_unit_each() {
        let (a, b) = (units(&[1.0, 0.0, 1.0]), units(&[1.0, 1.0, 0.0]));
        let found = mean_units(&[&a, &b]);
        assert_eq!(found.len(), 3);
        assert!((found.iter().map(|u| u.sum).sum::<f64>() - 4.0 / 6.0).abs() < 1e-12);
    }
}
