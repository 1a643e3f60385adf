//! The registry: content-addressed blobs, immutable versions, one pointer moved by compare-and-set, append-only history.
