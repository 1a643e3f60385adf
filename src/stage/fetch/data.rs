//! `data:` URIs (RFC 2397): the image is in the message.

use super::Fetched;
use super::collect::Collector;
use super::error::Failure;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::borrow::Cow;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decodes what follows `data:`.
pub(super) fn fetch(body: &str, mut collector: Collector<'_>) -> Result<Fetched, Failure> {
    let (media, content) = body
        .split_once(',')
        .ok_or_else(|| Failure::BadUri("a data URI needs a comma before its data".into()))?;
    let is_base64 = media
        .rsplit(';')
        .next()
        .is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    // Neither coding makes bytes out of fewer characters than this.
    let least = if is_base64 {
        content.len() / 4 * 3
    } else {
        content.len() / 3
    };
    collector.announce(least as u64)?;
    let bytes: Cow<[u8]> = percent_encoding::percent_decode_str(content).into();
    if !is_base64 {
        return collector.take(bytes.into_owned());
    }
    let decoded = BASE64
        .decode(&bytes)
        .map_err(|e| Failure::BadUri(format!("its base64 is broken: {e}")))?;
    collector.take(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::budget::Budget;

    fn fetched(body: &str) -> Result<Vec<u8>, Failure> {
        let budget = Budget::new(1 << 20);
        let reservation = budget.try_reserve(1024).unwrap();
        fetch(body, Collector::new(reservation, &budget, 64))
            .map(|f| f.body.load().unwrap().to_vec())
    }

    #[test]
    fn both_codings_are_read() {
        assert_eq!(fetched("image/png;base64,aGk=").unwrap(), b"hi");
        assert_eq!(fetched("image/png;BASE64,aGk").unwrap(), b"hi");
        assert_eq!(fetched(";base64,aGk%3D").unwrap(), b"hi");
        assert_eq!(fetched(",h%69").unwrap(), b"hi");
        assert_eq!(fetched(",").unwrap(), b"");
    }

    #[test]
    fn flaws_are_named() {
        assert!(matches!(
            fetched("image/png;base64"),
            Err(Failure::BadUri(_))
        ));
        assert!(matches!(fetched(";base64,%%%"), Err(Failure::BadUri(_))));
        assert!(matches!(fetched(";base64,aG k="), Err(Failure::BadUri(_))));
        assert_eq!(
            fetched(&format!(",{}", "x".repeat(65))),
            Err(Failure::TooLarge)
        );
        assert_eq!(
            fetched(&format!(";base64,{}", "A".repeat(1000))),
            Err(Failure::TooLarge)
        );
    }
}
