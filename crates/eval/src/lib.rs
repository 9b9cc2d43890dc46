//! Evaluation: retrieval, zero-shot classification and their baselines.
