//! Numbers of parameters and gradients, without their history, wherever they are.

use std::borrow::Cow;

use bifocal_kernels::blend;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Device, Tensor, TensorData};

use crate::engine::values;
use crate::fused::on_cpu;

/// The numbers of one parameter, row-major.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// On the CPU, where kernels write in place.
    Host(FlexTensor),
    /// On another device, as a vector.
    Device(Tensor<1>, Vec<usize>),
}

impl Storage {
    /// A tensor's numbers. On the CPU they are shared with the tensor until one of both is written.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let tensor = tensor.without_autodiff();
        let shape = tensor.dims().to_vec();
        if on_cpu(&tensor) {
            match tensor.try_into_primitive::<Flex>() {
                // a view of a larger tensor has the storage of all of it
                Ok(storage) => Self::Host(storage.to_contiguous()),
                Err(error) => unreachable!("it is on the CPU: {error:?}"),
            }
        } else {
            let size: usize = shape.iter().product();
            Self::Device(tensor.reshape([size]), shape)
        }
    }

    /// Zeros on the CPU.
    pub fn zeros(shape: &[usize]) -> Self {
        let zeros = vec![0.0f32; shape.iter().product()];
        Self::Host(FlexTensor::from_data(TensorData::new(zeros, shape.to_vec())))
    }

    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Host(tensor) => tensor.layout().shape().to_vec(),
            Self::Device(_, shape) => shape.clone(),
        }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(tensor) => slice(tensor).len(),
            Self::Device(tensor, _) => tensor.dims()[0],
        }
    }

    /// The numbers; from another device they are read.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Host(tensor) => Cow::Borrowed(slice(tensor)),
            Self::Device(tensor, _) => Cow::Owned(values(tensor.clone())),
        }
    }

    /// The numbers as a vector on a device.
    pub fn on(&self, device: &Device) -> Tensor<1> {
        match self {
            Self::Host(tensor) => {
                let numbers = slice(tensor).to_vec();
                let size = numbers.len();
                Tensor::from_data(TensorData::new(numbers, [size]), device)
            }
            Self::Device(tensor, _) if tensor.device() == *device => tensor.clone(),
            Self::Device(tensor, _) => tensor.clone().to_device(device),
        }
    }

    /// Adds another parameter's numbers, of the same shape.
    pub fn add(&mut self, other: &Self) {
        match self {
            Self::Host(sum) => blend::add(sum.storage_mut::<f32>(), &other.values()),
            Self::Device(sum, _) => *sum = sum.clone() + other.on(&sum.device()),
        }
    }

    pub fn scale(&mut self, factor: f32) {
        match self {
            Self::Host(tensor) => blend::scale(tensor.storage_mut::<f32>(), factor),
            Self::Device(tensor, _) => *tensor = tensor.clone() * factor,
        }
    }

    /// Replaces all numbers.
    pub fn set(&mut self, numbers: &[f32]) {
        match self {
            Self::Host(tensor) => tensor.storage_mut::<f32>().copy_from_slice(numbers),
            Self::Device(tensor, _) => {
                let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
                *tensor = Tensor::from_data(data, &tensor.device());
            }
        }
    }

    /// The sum of squares: in f64 on the CPU, elsewhere a tensor that is still to be read.
    pub fn squares(&self) -> Result<f64, Box<Tensor<1>>> {
        match self {
            Self::Host(tensor) => Ok(slice(tensor).iter().map(|&g| f64::from(g) * f64::from(g)).sum()),
            Self::Device(tensor, _) => Err(Box::new(tensor.clone().powi_scalar(2).sum())),
        }
    }
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or(&[])
}
