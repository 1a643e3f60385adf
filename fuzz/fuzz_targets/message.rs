//! Kafka values: any bytes give a message or an error, and what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tagstream::events::{ImageReference, LabelEvent};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(reference) = ImageReference::from_json(bytes) {
        assert!(!reference.image_id.is_empty() && !reference.uri.is_empty());
        let written = serde_json::to_vec(&reference).unwrap();
        assert_eq!(ImageReference::from_json(&written).unwrap(), reference);
    }
    let _ = LabelEvent::from_json(bytes);
});
