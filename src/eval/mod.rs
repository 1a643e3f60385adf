//! Metrics, the partial-label protocol, data set adapters and baselines.
