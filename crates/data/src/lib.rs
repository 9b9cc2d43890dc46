//! From files to batches: sources, decoding, transforms, the feature cache.
