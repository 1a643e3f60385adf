//! What a helper is told when it is started, as its arguments.

use crate::decode::DecodeLimits;
use std::time::Duration;

/// The hidden command by which a program becomes a helper.
pub(crate) const SUBCOMMAND: &str = "decode-helper";

/// What a helper is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelperSettings {
    /// Caps on what is decoded.
    pub limits: DecodeLimits,
    /// How long one picture may take.
    pub timeout: Duration,
    /// The process that starts it, and without which it has no reason to live.
    pub parent: u32,
}

impl HelperSettings {
    /// As arguments, the hidden command first.
    pub(crate) fn arguments(&self) -> [String; 7] {
        [
            SUBCOMMAND.into(),
            self.limits.max_pixels.to_string(),
            self.limits.max_alloc_bytes.to_string(),
            self.limits.max_damaged_percent.to_string(),
            u8::from(self.limits.own_jpeg_reader).to_string(),
            self.timeout.as_millis().to_string(),
            self.parent.to_string(),
        ]
    }

    /// From the arguments behind the hidden command.
    pub(super) fn parse(arguments: impl Iterator<Item = String>) -> Option<Self> {
        let numbers: Vec<u64> = arguments.map(|a| a.parse().ok()).collect::<Option<_>>()?;
        let [
            max_pixels,
            max_alloc_bytes,
            max_damaged_percent,
            own_jpeg_reader @ 0..=1,
            timeout_ms,
            parent,
        ] = numbers[..]
        else {
            return None;
        };
        Some(HelperSettings {
            limits: DecodeLimits {
                max_pixels,
                max_alloc_bytes,
                max_damaged_percent: max_damaged_percent.try_into().ok()?,
                own_jpeg_reader: own_jpeg_reader == 1,
            },
            timeout: Duration::from_millis(timeout_ms),
            parent: parent.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_back_as_they_were() {
        let settings = HelperSettings {
            limits: DecodeLimits {
                max_pixels: 1_000_000,
                max_alloc_bytes: 32 << 20,
                max_damaged_percent: 25,
                own_jpeg_reader: false,
            },
            timeout: Duration::from_millis(1500),
            parent: 77,
        };
        let arguments = settings.arguments();
        assert_eq!(arguments[0], SUBCOMMAND);
        let read = HelperSettings::parse(arguments.into_iter().skip(1));
        assert_eq!(read, Some(settings));
        let words = |text: &str| HelperSettings::parse(text.split(' ').map(str::to_owned));
        for wrong in [
            "",
            "1 2 3 1 5",
            "1 2 3 1 5 x",
            "1 2 3 1 5 6 7",
            "1 2 256 1 5 6",
            "1 2 3 2 5 6",
            "1 2 3 1 5 99999999999",
        ] {
            assert_eq!(words(wrong), None, "{wrong}");
        }
    }
}
