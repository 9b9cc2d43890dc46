//! Linear layers with activations between them, and batch normalisation.

use std::sync::{Arc, Mutex, PoisonError};

use bifocal_nn::composed::activate;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::Activation;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{Linear, ones, zeros};
use bifocal_nn::{Module, Param, Tensor, noise};

use super::{HeadActivation, HeadConfig, enter};

/// PyTorch's defaults for batch normalisation.
const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

/// See [`super::HeadKind::Mlp`].
#[derive(Module, Debug)]
pub struct MlpHead {
    pub(super) layers: Vec<Hidden>,
    pub(super) out: Linear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    unit: bool,
    #[module(skip)]
    dropout: f32,
}

/// Linear, batch normalisation where there is one, activation, dropout.
#[derive(Module, Debug)]
pub struct Hidden {
    linear: Linear,
    pub(super) norm: Option<BatchNorm>,
}

impl MlpHead {
    pub(super) fn new(config: &HeadConfig, input: usize, width: usize, rng: &mut Rng) -> Self {
        let hidden = match config.ratio {
            0 => width,
            ratio => ratio * input,
        };
        let layer = |i: usize, rng: &mut Rng| Hidden {
            linear: Linear::new(if i == 0 { input } else { hidden }, hidden, true, rng),
            norm: config.batch_norm.then(|| BatchNorm::new(hidden)),
        };
        let between = config.layers - 1;
        Self {
            layers: (0..between).map(|i| layer(i, rng)).collect(),
            out: Linear::new(if between == 0 { input } else { hidden }, width, true, rng),
            activation: match config.activation {
                HeadActivation::Gelu => Activation::GeluErf,
                HeadActivation::Relu => Activation::Relu,
            },
            unit: config.normalize_input,
            dropout: config.dropout,
        }
    }

    /// `[n, input]` → `[n, width]`.
    pub(super) fn forward(&self, x: Tensor<2>, training: bool) -> Tensor<2> {
        let mut x = enter(x, self.unit);
        for layer in &self.layers {
            x = match &layer.norm {
                None => layer.linear.fused(x, self.activation, None),
                Some(norm) => activate(norm.forward(layer.linear.forward(x), training), self.activation),
            };
            x = noise::dropout(x, self.dropout);
        }
        self.out.forward(x)
    }
}

/// Batch normalisation over rows (Ioffe & Szegedy 2015). In training each feature is brought to mean 0 and variance 1 over the batch; afterwards
/// by the running mean and variance, which follow the batches by a tenth each step.
#[derive(Module, Debug)]
pub struct BatchNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    /// Not learnt, but part of the state of a run: see [`BatchNorm::settle`].
    running_mean: Param<Tensor<1>>,
    running_var: Param<Tensor<1>>,
    #[module(skip)]
    seen: Seen,
}

/// Batches that have passed since the last step.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<Statistics>>>);

/// Of one batch, by feature.
#[derive(Debug)]
struct Statistics {
    mean: Vec<f32>,
    /// Unbiased.
    var: Vec<f32>,
}

impl BatchNorm {
    fn new(width: usize) -> Self {
        Self {
            weight: ones([width]),
            bias: zeros([width]),
            running_mean: zeros([width]),
            running_var: ones([width]),
            seen: Seen::default(),
        }
    }

    fn forward(&self, x: Tensor<2>, training: bool) -> Tensor<2> {
        let [n, _] = x.dims();
        let (mean, var) = if training && n > 1 {
            let mean = x.clone().mean_dim(0);
            let centred = x.clone() - mean.clone();
            let var = centred.powi_scalar(2).mean_dim(0);
            let unbiased = n as f32 / (n - 1) as f32;
            let spread = values(var.clone()).into_iter().map(|v| v * unbiased).collect();
            let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(Statistics {
                mean: values(mean.clone()),
                var: spread,
            });
            (mean, var)
        } else {
            (
                self.running_mean.val().unsqueeze::<2>(),
                self.running_var.val().unsqueeze::<2>(),
            )
        };
        let normal = (x - mean) / (var + EPS).sqrt();
        normal * self.weight.val().unsqueeze::<2>() + self.bias.val().unsqueeze::<2>()
    }

    /// Moves the running statistics; what is not finite is left out.
    pub(super) fn settle(&mut self) {
        let seen = std::mem::take(&mut *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner));
        for Statistics { mean, var } in seen {
            for (running, new) in [(&mut self.running_mean, mean), (&mut self.running_var, var)] {
                if new.iter().all(|v| v.is_finite()) {
                    let width = new.len();
                    let old = values(running.val()).into_iter();
                    let moved = old.zip(new).map(|(old, new)| old + MOMENTUM * (new - old)).collect();
                    *running = Param::from_tensor(tensor(moved, [width]));
                }
            }
        }
    }
}
