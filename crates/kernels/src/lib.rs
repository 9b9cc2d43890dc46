//! CPU kernels on plain slices: no tensors, no models.
