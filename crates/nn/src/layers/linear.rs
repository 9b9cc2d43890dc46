//! The linear layer: a weight, perhaps a bias, perhaps adapters of low rank.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use super::zeros;
use crate::fused::{self, Activation};
use crate::init::{Init, Rng};
use crate::lora::{Adapter, low_rank, walk};
use crate::packed::PackedWeight;

/// How visitors are told that the fields they see are a linear layer's.
pub(crate) const LAYER: &str = "Struct:Linear";

/// Rows of a layer that are a layer of their own in the reference implementation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub name: &'static str,
    pub rows: Range<usize>,
}

/// `act(x wᵀ + b + Σ scale·(drop(x) aᵀ) bᵀ)`: the sum is over the adapters of [`crate::lora`], of which a new layer has none.
///
/// Its parameters are `weight`, `bias`, and for each adapter `lora.a` and `lora.b`, with the part's name in between where an adapter belongs to a
/// part of the layer (`qkv.lora.v.a`).
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    pub(crate) lora: Vec<Adapter>,
    pub(crate) parts: Arc<[Part]>,
    pub(crate) packed: PackedWeight,
}

impl Linear {
    /// A layer with PyTorch's default initialisation.
    pub fn new(din: usize, dout: usize, bias: bool, rng: &mut Rng) -> Self {
        let init = Init::linear(din);
        Self::from_params(
            Param::from_tensor(init.tensor([dout, din], rng)),
            bias.then(|| Param::from_tensor(init.tensor([dout], rng))),
        )
    }

    /// A layer of a weight `[out, in]` and a bias `[out]`.
    pub fn from_params(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            lora: Vec::new(),
            parts: Arc::default(),
            packed: PackedWeight::default(),
        }
    }

    /// A layer whose weights are about to be loaded.
    pub fn empty(din: usize, dout: usize, bias: bool) -> Self {
        Self::from_params(zeros([dout, din]), bias.then(|| zeros([dout])))
    }

    /// Says that the layer is several of the reference implementation with their rows below each other: their names and numbers of rows, from
    /// the first row on. Each can then have an adapter of its own (see [`crate::lora::attach`]).
    ///
    /// # Panics
    /// When there are not as many rows as the parts have.
    #[must_use]
    pub fn with_parts(mut self, parts: &[(&'static str, usize)]) -> Self {
        let mut end = 0;
        let part = |&(name, rows): &(&'static str, usize)| {
            end += rows;
            let rows = end - rows..end;
            Part { name, rows }
        };
        self.parts = parts.iter().map(part).collect();
        assert_eq!(
            end,
            self.weight.dims()[0],
            "with_parts: rows of the parts and of the layer"
        );
        self
    }

    /// `[t, in]` → `[t, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.fused(x, Activation::Identity, None)
    }

    /// `act(x wᵀ + b) + residual` in one pass.
    pub fn fused(&self, x: Tensor<2>, act: Activation, residual: Option<Tensor<2>>) -> Tensor<2> {
        let low = low_rank(&self.lora, &x, 0..self.weight.dims()[0]);
        let bias = self.bias.as_ref().map(Param::val);
        let weight = self.weight.val();
        let prepared = self.packed.of(&weight, x.dims()[0]);
        let Some((h, b)) = low else {
            return fused::linear_prepared(x, weight, prepared, bias, act, residual);
        };
        let product = |to| {
            let low = fused::linear(h, b, None, Activation::Identity, to);
            fused::linear_prepared(x, weight, prepared, bias, Activation::Identity, Some(low))
        };
        if act == Activation::Identity {
            return product(residual);
        }
        let y = fused::activation(product(None), act);
        match residual {
            Some(residual) => y + residual,
            None => y,
        }
    }

    /// Some rows of the layer: what [`Linear::forward`] gives in these columns.
    ///
    /// # Shapes
    /// `[t, in]` → `[t, rows]`.
    pub fn rows(&self, x: Tensor<2>, rows: Range<usize>) -> Tensor<2> {
        let [_, din] = x.dims();
        let low =
            low_rank(&self.lora, &x, rows.clone()).map(|(h, b)| fused::linear(h, b, None, Activation::Identity, None));
        let bias = self.bias.as_ref().map(|bias| bias.val().slice([rows.clone()]));
        let weight = self.weight.val().slice([rows, 0..din]);
        fused::linear(x, weight, bias, Activation::Identity, low)
    }

    /// `scale · (x wᵀ + b) + residual`, channel by channel. The scale goes into the layer's rows, which are far fewer than those of x.
    ///
    /// # Shapes
    /// `scale` `[out]`; else as [`Linear::fused`].
    pub fn scaled(&self, x: Tensor<2>, scale: Tensor<1>, residual: Tensor<2>) -> Tensor<2> {
        let column = || scale.clone().unsqueeze_dim::<2>(1);
        let residual = match low_rank(&self.lora, &x, 0..self.weight.dims()[0]) {
            Some((h, b)) => fused::linear(h, b * column(), None, Activation::Identity, Some(residual)),
            None => residual,
        };
        let bias = self.bias.as_ref().map(|bias| bias.val() * scale.clone());
        let weight = self.weight.val() * column();
        fused::linear(x, weight, bias, Activation::Identity, Some(residual))
    }

    /// The same layer with other fields: what the functions of [`Module`] that change all of them need.
    fn each(
        self,
        weight: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>,
        bias: impl FnOnce(Param<Tensor<1>>) -> Param<Tensor<1>>,
        adapter: impl FnMut(Adapter) -> Adapter,
    ) -> Self {
        Self {
            weight: weight(self.weight),
            bias: self.bias.map(bias),
            lora: self.lora.into_iter().map(adapter).collect(),
            parts: self.parts,
            packed: self.packed,
        }
    }
}

/// Written out, and not derived, for the names of adapters, and because [`walk`] exchanges layers on its way through a module.
impl Module for Linear {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        walk::seen(self);
        visitor.enter_module("weight", LAYER);
        self.weight.visit(visitor);
        visitor.exit_module("weight", LAYER);
        visitor.enter_module("bias", LAYER);
        self.bias.visit(visitor);
        visitor.exit_module("bias", LAYER);
        for adapter in &self.lora {
            visitor.enter_module("lora", LAYER);
            adapter.part.iter().for_each(|part| visitor.enter_module(part, LAYER));
            adapter.visit(visitor);
            adapter.part.iter().for_each(|part| visitor.exit_module(part, LAYER));
            visitor.exit_module("lora", LAYER);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let Self {
            weight,
            bias,
            lora,
            parts,
            packed,
        } = walk::exchanged(self);
        mapper.enter_module("weight", LAYER);
        let weight = Module::map(weight, mapper);
        mapper.exit_module("weight", LAYER);
        mapper.enter_module("bias", LAYER);
        let bias = Module::map(bias, mapper);
        mapper.exit_module("bias", LAYER);
        let adapters = lora.into_iter().map(|adapter| {
            let part = adapter.part;
            mapper.enter_module("lora", LAYER);
            part.iter().for_each(|part| mapper.enter_module(part, LAYER));
            let adapter = adapter.map(mapper);
            part.iter().for_each(|part| mapper.exit_module(part, LAYER));
            mapper.exit_module("lora", LAYER);
            adapter
        });
        Self {
            weight,
            bias,
            lora: adapters.collect(),
            parts,
            packed,
        }
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        let devices = self.bias.collect_devices(self.weight.collect_devices(devices));
        self.lora
            .iter()
            .fold(devices, |devices, adapter| adapter.collect_devices(devices))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(
            |w| w.to_device(device),
            |b| b.to_device(device),
            |a| a.to_device(device),
        )
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|w| w.fork(device), |b| b.fork(device), |a| a.fork(device))
    }

    fn train(self) -> Self {
        self.each(Module::train, Module::train, Module::train)
    }

    fn valid(&self) -> Self {
        self.clone().each(|w| w.valid(), |b| b.valid(), |a| a.valid())
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize, Module::materialize, Module::materialize)
    }
}

impl ModuleDisplayDefault for Linear {
    fn content(&self, content: Content) -> Option<Content> {
        let content = content.add("weight", &self.weight);
        let content = match &self.bias {
            Some(bias) => content.add("bias", bias),
            None => content,
        };
        let adapter = |content: Content, adapter: &Adapter| content.add(adapter.part.unwrap_or("lora"), adapter);
        self.lora.iter().fold(content, adapter).optional()
    }
}

impl ModuleDisplay for Linear {}
