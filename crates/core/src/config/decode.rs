//! How images are decoded, and what becomes of those that are not whole.

use super::{Flaw, choice, settings};

settings! {
    /// How images are decoded.
    DecodeConfig {
        /// Decoding threads; 0: chosen from the cores and the model workers.
        threads: usize = 0,
        /// Largest image in pixels, megapixels, checked before decoding.
        max_megapixels: u64 = 64,
        /// Largest memory of one image while it is decoded, MiB; whatever a decoder asks for, it
        /// gets no more than this and 16 MiB.
        max_alloc_mib: u64 = 512,
        /// How long one image may take; whatever is decoded in a helper process is ended then.
        timeout_ms: u64 = 20_000,
        /// The program that decodes what is no plain JPEG, in processes of its own: `tagstream` of
        /// the same version; empty: the program that runs.
        helper: String = String::new(),
        /// What becomes of a JPEG of which something is missing or wrong. What does not touch its
        /// pixels (a profile, padding, an end marker that is not there) is no damage.
        damaged: DamagedPictures = DamagedPictures::Refuse,
        /// Largest share of a picture that may be missing, percent, where damaged ones are
        /// accepted; of progressive files nobody can say it, so they are always refused.
        max_damaged_percent: u64 = 10,
        /// What reads JPEGs: where a plain one is much larger than the model's input, code of our
        /// own takes less than half of libjpeg-turbo's time.
        jpeg: JpegReader = JpegReader::Auto,
    }
}

choice! {
    /// What becomes of pictures that are not whole.
    DamagedPictures {
        /// They become dead letters.
        Refuse = "refuse",
        /// What is there is used, the rest is grey; counted in a metric.
        Accept = "accept",
    }
}

choice! {
    /// What reads JPEGs.
    JpegReader {
        /// Own code where it is the faster one, else libjpeg-turbo; a metric says how often.
        Auto = "auto",
        /// libjpeg-turbo reads all of them.
        LibjpegTurbo = "libjpeg-turbo",
    }
}

impl DecodeConfig {
    /// What cannot be although every type is right.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let mut refuse = |wrong: bool, key: &str, reason: &str| {
            if wrong {
                flaws.push(Flaw::new(key, reason));
            }
        };
        refuse(
            self.max_megapixels == 0,
            "decode.max_megapixels",
            "must be at least 1",
        );
        refuse(
            self.max_alloc_mib == 0,
            "decode.max_alloc_mib",
            "must be at least 1",
        );
        refuse(
            self.timeout_ms < 1_000,
            "decode.timeout_ms",
            "must be at least 1000: the largest pictures take about a second",
        );
        refuse(
            !(1..=100).contains(&self.max_damaged_percent),
            "decode.max_damaged_percent",
            "must be from 1 to 100; with `decode.damaged = \"refuse\"` it does not matter",
        );
        flaws
    }
}
