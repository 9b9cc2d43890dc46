//! Trainable layers on the tensor engine, with fused forward and backward.
