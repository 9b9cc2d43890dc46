//! The optimizers' steps of ordinary burn operations, for parameters that are not on the CPU. Parameter, gradient and moments stay where they are.

use burn::tensor::{Device, Tensor, TensorData};

use super::{OptimizerConfig, OptimizerKind, Rate};
use crate::engine::values;

/// State of one parameter, as vectors on its device.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    m: Tensor<1>,
    /// `None` for Lion.
    v: Option<Tensor<1>>,
}

impl Moments {
    /// Takes state to a device.
    pub fn put(host: super::Moments, device: &Device) -> Self {
        let put = |numbers: Vec<f32>| {
            let size = numbers.len();
            Tensor::from_data(TensorData::new(numbers, [size]), device)
        };
        Self {
            m: put(host.m),
            v: (!host.v.is_empty()).then(|| put(host.v)),
        }
    }

    /// Reads it back.
    pub fn read(&self) -> super::Moments {
        super::Moments {
            m: values(self.m.clone()),
            v: self.v.clone().map(values).unwrap_or_default(),
        }
    }

    /// One step of a parameter `p`, by the rules of `bifocal_kernels::optim`: the same formulas in the same order, constants rounded once from f64. `step` counts from 1.
    pub fn step(
        &mut self,
        p: Tensor<1>,
        grad: Tensor<1>,
        scale: f32,
        config: &OptimizerConfig,
        rate: Rate,
        step: u64,
    ) -> Tensor<1> {
        let (b1, b2) = (f64::from(config.beta1), f64::from(config.beta2));
        let (lr, decay) = (f64::from(rate.lr), f64::from(rate.weight_decay));
        let keep = match config.kind {
            OptimizerKind::Adam => 1.0,
            OptimizerKind::AdamW | OptimizerKind::Lion => (1.0 - lr * decay) as f32,
        };
        let grad = grad * scale;
        let m = self.m.clone();
        if config.kind == OptimizerKind::Lion {
            let direction = (m.clone() * config.beta1 + grad.clone() * (1.0 - b1) as f32).sign();
            self.m = m * config.beta2 + grad * (1.0 - b2) as f32;
            return p * keep - direction * rate.lr;
        }
        let grad = match config.kind {
            OptimizerKind::Adam => grad + p.clone() * rate.weight_decay,
            _ => grad,
        };
        let v = self.v.take().unwrap_or_else(|| m.zeros_like());
        let m = m * config.beta1 + grad.clone() * (1.0 - b1) as f32;
        let v = v * config.beta2 + grad.powi_scalar(2) * (1.0 - b2) as f32;
        // lr·m̂/(√v̂ + eps) = (lr / c1)·m / (√v / √c2 + eps)
        let step = step.max(1) as f64;
        let pace = (lr / (1.0 - b1.powf(step))) as f32;
        let root = (1.0 / (1.0 - b2.powf(step)).sqrt()) as f32;
        let slope = m.clone() / (v.clone().sqrt() * root + config.eps);
        (self.m, self.v) = (m, Some(v));
        p * keep - slope * pace
    }
}
