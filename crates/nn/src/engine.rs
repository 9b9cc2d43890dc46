//! Between plain vectors and tensors.

use burn::tensor::{Device, Tensor, TensorData};

/// The CPU. Parameters that learn are lifted to autodiff one by one (see [`crate::params::set_trainable`]); an operation
/// is recorded as soon as one of its inputs is.
pub fn cpu() -> Device {
    Device::flex()
}

/// A tensor on the CPU from row-major values.
///
/// # Panics
/// When the number of values is not the product of the shape.
pub fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), &cpu())
}

/// The tensor's values in row-major order, without its history.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.into_data().try_into_vec::<f32>() {
        Ok(values) => values,
        Err(error) => unreachable!("all of Bifocal's float tensors are f32: {error:?}"),
    }
}

/// The value of a tensor with one element.
pub fn scalar(tensor: Tensor<1>) -> f32 {
    values(tensor).first().copied().unwrap_or(f32::NAN)
}
