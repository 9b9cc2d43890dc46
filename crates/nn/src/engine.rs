//! Between plain vectors and tensors, and where tensors are.
//!
//! Where new tensors go is a switch of the thread, as [`crate::precision`] is: weights that are loaded, batches, masks and the constants of losses all come from [`tensor`]
//! and follow it, and what is computed of them stays where they are. So the towers, the data and the losses of a run have to be made inside of one [`scope`];
//! nothing moves from one device to another by itself, and operations on tensors of different devices panic.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor, TensorData};

thread_local! {
    static CURRENT: RefCell<Option<Device>> = const { RefCell::new(None) };
}

/// The CPU. Parameters that learn are lifted to autodiff one by one (see [`crate::params::set_trainable`]); an operation
/// is recorded as soon as one of its inputs is.
pub fn cpu() -> Device {
    Device::flex()
}

/// Where new tensors of this thread go: the CPU outside of any [`scope`].
pub fn device() -> Device {
    CURRENT.with_borrow(|device| device.clone()).unwrap_or_else(cpu)
}

/// Runs `f` with new tensors of this thread on a device. Scopes nest; the former device returns with the end, even by a panic.
pub fn scope<R>(device: Device, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Device>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(Some(device)));
    f()
}

/// The graphics card that this build can compute on: the first that CUDA, ROCm or wgpu (Vulkan, DirectX, Metal) finds, in this order, as far as they were built
/// in (features `cuda`, `rocm`, `gpu`). Without a card, a driver that computes on the processor counts as one.
///
/// # Errors
/// [`GpuError`] when none was built in, or none was found.
pub fn gpu() -> Result<Device, GpuError> {
    #[cfg(feature = "cuda")]
    if let Some(device) = first(burn::tensor::DeviceType::Cuda) {
        return Ok(device);
    }
    #[cfg(feature = "rocm")]
    if let Some(device) = first(burn::tensor::DeviceType::Rocm) {
        return Ok(device);
    }
    // of several adapters, wgpu knows which is fast
    #[cfg(feature = "gpu")]
    if first(burn::tensor::DeviceType::Wgpu).is_some() {
        return Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice));
    }
    match cfg!(any(feature = "cuda", feature = "rocm", feature = "gpu")) {
        true => Err(GpuError::NoAdapter),
        false => Err(GpuError::NotBuilt),
    }
}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "gpu"))]
fn first(kind: burn::tensor::DeviceType) -> Option<Device> {
    Device::enumerate(kind).into_vec().into_iter().next()
}

/// What a device calls itself; opens it.
pub fn name(device: &Device) -> String {
    #[cfg(any(feature = "cuda", feature = "rocm", feature = "gpu"))]
    if let Some(identity) = device.identity() {
        return identity.name;
    }
    match *device == cpu() {
        true => "cpu".to_owned(),
        false => format!("{device:?}"),
    }
}

/// Why there is no graphics card to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No engine for graphics cards was built in.
    #[error(
        "this build computes on the CPU only; build it with `cargo build --release --features gpu` (docs/gpu.md), or compute on the CPU"
    )]
    NotBuilt,
    /// There is none, or its driver is not installed.
    #[error(
        "no graphics adapter was found; install its driver (Vulkan on Linux, `vulkaninfo --summary` lists what there is), or compute on \
         the CPU"
    )]
    NoAdapter,
}

/// A tensor from row-major values, where new tensors go.
///
/// # Panics
/// When the number of values is not the product of the shape.
pub fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), &device())
}

/// The tensor's values in row-major order, without its history. The one way from a device to the host.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        let other = || cpu().autodiff();
        let there = || device().is_autodiff();
        assert!(!there());
        scope(other(), || {
            assert!(there() && tensor(vec![1.0], [1]).device().is_autodiff());
            scope(cpu(), || assert!(!there()));
            assert!(there());
        });
        let _ = std::panic::catch_unwind(|| scope(other(), || panic!("inside")));
        assert!(!there());
        assert_eq!(name(&device()), "cpu");
    }

    #[cfg(not(any(feature = "cuda", feature = "rocm", feature = "gpu")))]
    #[test]
    fn without_an_engine_there_is_no_card() {
        assert_eq!(gpu(), Err(GpuError::NotBuilt));
    }
}
