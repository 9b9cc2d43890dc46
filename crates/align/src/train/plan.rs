//! Which parameters learn, and how: a stage's rules laid over the parameters that there are.

use std::collections::BTreeMap;
use std::fmt;

use bifocal_nn::optim::{Rate, layer_decay};
use bifocal_nn::params::ParamInfo;

use crate::recipe::{Decay, FreezeRule, OptimizerSpec};

/// A rule that matches no parameter: most likely a misspelt name, and then something would learn that must not.
#[derive(Debug, thiserror::Error)]
#[error("the freeze rule {pattern:?} matches no parameter; parameters begin with: {beginnings}")]
pub struct NoMatch {
    /// The rule's pattern.
    pub pattern: String,
    /// First parts of the names there are.
    pub beginnings: String,
}

/// How one parameter learns.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Learns {
    lr: f64,
    weight_decay: f64,
}

/// How all parameters of a stage learn.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    learns: BTreeMap<String, Learns>,
    rows: Vec<Row>,
}

/// Parameters that learn alike and begin alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// First part of their names.
    pub group: String,
    /// How many tensors.
    pub tensors: usize,
    /// How many values.
    pub values: usize,
    /// Multiplier of the learning rate and weight decay; `None` when frozen.
    pub learns: Option<(f64, f64)>,
}

impl Plan {
    /// Lays rules over parameters.
    ///
    /// # Errors
    /// [`NoMatch`] for a rule without an effect on anything.
    pub fn new(params: &[ParamInfo], rules: &[FreezeRule], optimizer: &OptimizerSpec) -> Result<Self, NoMatch> {
        for rule in rules {
            if !params.iter().any(|p| matches(&rule.pattern, &p.name)) {
                return Err(NoMatch {
                    pattern: rule.pattern.clone(),
                    beginnings: beginnings(params),
                });
            }
        }
        let names = || params.iter().map(|p| p.name.as_str());
        let mut by_layer: BTreeMap<String, f64> = BTreeMap::new();
        for (tower, &decay) in &optimizer.layer_decay {
            let below = format!("{tower}.");
            by_layer.extend(layer_decay(
                names().filter(|name| name.starts_with(&below)),
                decay,
                false,
            ));
        }
        let mut learns = BTreeMap::new();
        let mut rows: Vec<Row> = Vec::new();
        for param in params {
            let rule = rules.iter().rev().find(|r| matches(&r.pattern, &param.name));
            let decays = match optimizer.decay {
                Decay::All => true,
                // A scalar such as the temperature has one axis of length 1.
                Decay::Matrices => param.shape.len() >= 2,
            };
            let rate = match rule {
                Some(rule) if rule.frozen || rule.lr == 0.0 => None,
                rule => Some(Learns {
                    lr: rule.map_or(1.0, |r| r.lr) * by_layer.get(&param.name).copied().unwrap_or(1.0),
                    weight_decay: if decays {
                        rule.and_then(|r| r.weight_decay).unwrap_or(optimizer.weight_decay)
                    } else {
                        0.0
                    },
                }),
            };
            let group = param.name.split('.').next().unwrap_or("").to_owned();
            let values = param.shape.iter().product();
            let key = rate.map(|r| (r.lr, r.weight_decay));
            match rows.iter_mut().find(|r| r.group == group && r.learns == key) {
                Some(row) => {
                    row.tensors += 1;
                    row.values += values;
                }
                None => rows.push(Row {
                    group,
                    tensors: 1,
                    values,
                    learns: key,
                }),
            }
            if let Some(rate) = rate {
                learns.insert(param.name.clone(), rate);
            }
        }
        Ok(Self { learns, rows })
    }

    /// Whether a parameter learns.
    pub fn learns(&self, name: &str) -> bool {
        self.learns.contains_key(name)
    }

    /// Whether any parameter whose name begins so learns.
    pub fn learns_below(&self, prefix: &str) -> bool {
        self.learns.keys().any(|name| name.starts_with(prefix))
    }

    /// Names of what learns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.learns.keys().map(String::as_str)
    }

    /// What a parameter learns with, at a learning rate of the schedule.
    pub fn rate(&self, name: &str, lr: f64) -> Rate {
        match self.learns.get(name) {
            Some(l) => Rate {
                lr: (lr * l.lr) as f32,
                weight_decay: l.weight_decay as f32,
            },
            None => Rate {
                lr: 0.0,
                weight_decay: 0.0,
            },
        }
    }

    /// Grouped, in the order of the parameters.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14} {:>8} {:>13}  how", "parameters", "tensors", "values")?;
        for row in &self.rows {
            write!(f, "{:<14} {:>8} {:>13}  ", row.group, row.tensors, row.values)?;
            match row.learns {
                None => writeln!(f, "frozen")?,
                Some((lr, decay)) => writeln!(f, "lr × {lr}, weight decay {decay}")?,
            }
        }
        Ok(())
    }
}

fn beginnings(params: &[ParamInfo]) -> String {
    let mut all: Vec<&str> = params.iter().map(|p| p.name.split('.').next().unwrap_or("")).collect();
    all.dedup();
    all.join(", ")
}

/// Whether a pattern, in which `*` stands for any characters, matches all of a name.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(found) => rest = &rest[found + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Vec<ParamInfo> {
        [
            ("vision.conv.weight", vec![4, 3]),
            ("vision.conv.bias", vec![4]),
            ("image_head.linear.weight", vec![2, 4]),
            ("image_head.linear.bias", vec![2]),
            ("logit_scale", vec![1]),
        ]
        .map(|(name, shape)| ParamInfo {
            name: name.to_owned(),
            shape,
            trainable: true,
        })
        .to_vec()
    }

    fn rule(pattern: &str, frozen: bool, lr: f64, weight_decay: Option<f64>) -> FreezeRule {
        FreezeRule {
            pattern: pattern.to_owned(),
            frozen,
            lr,
            weight_decay,
        }
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        let rules = [
            rule("vision.*", true, 1.0, None),
            rule("vision.*.bias", false, 0.1, Some(9.0)),
            rule("*_head.*.weight", false, 2.0, Some(0.5)),
        ];
        let plan = Plan::new(&params(), &rules, &OptimizerSpec::default()).expect("all match");
        assert!(!plan.learns("vision.conv.weight"));
        // a bias has no decay, whatever a rule says
        let found = plan.rate("vision.conv.bias", 1.0);
        assert_eq!((found.lr, found.weight_decay), (0.1, 0.0));
        let found = plan.rate("image_head.linear.weight", 1.0);
        assert_eq!((found.lr, found.weight_decay), (2.0, 0.5));
        let found = plan.rate("logit_scale", 0.5);
        assert_eq!((found.lr, found.weight_decay), (0.5, 0.0));
        assert!(plan.learns_below("vision."));
        let table = plan.to_string();
        assert!(
            table.contains("vision                1            12  frozen"),
            "{table}"
        );
    }

    #[test]
    fn decay_of_all_means_all() {
        let optimizer = OptimizerSpec {
            decay: Decay::All,
            weight_decay: 0.25,
            ..OptimizerSpec::default()
        };
        let plan = Plan::new(&params(), &[], &optimizer).expect("no rules");
        for param in params() {
            assert_eq!(plan.rate(&param.name, 1.0).weight_decay, 0.25);
        }
    }

    #[test]
    fn a_rule_without_effect_is_refused() {
        let rules = [rule("visoin.*", true, 1.0, None)];
        let error = Plan::new(&params(), &rules, &OptimizerSpec::default());
        let error = error.expect_err("nothing begins so").to_string();
        assert!(
            error.contains("visoin") && error.contains("vision, image_head"),
            "{error}"
        );
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("*", "a.b", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*.1.*", "blocks.1.weight", true),
            ("*.1.*", "blocks.11.weight", false),
            ("a*a", "a", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
