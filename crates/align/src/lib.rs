//! Alignment: losses, methods and the training loop.
