//! Colours: sRGB triples, their distance as the eye sees it, and the palette objects are painted
//! from.

use rand::{Rng, RngExt};

/// An sRGB colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb(pub [u8; 3]);

impl Rgb {
    pub(super) const BLACK: Rgb = Rgb([18, 18, 22]);
    pub(super) const WHITE: Rgb = Rgb([250, 250, 248]);

    /// `self` moved towards `other` by `share` in `[0, 1]`.
    pub(super) fn mix(self, other: Rgb, share: f32) -> Rgb {
        Rgb(std::array::from_fn(|i| {
            let (a, b) = (f32::from(self.0[i]), f32::from(other.0[i]));
            (a + (b - a) * share).round().clamp(0.0, 255.0) as u8
        }))
    }

    /// Each channel moved by up to `amount` levels.
    pub(super) fn jitter(self, rng: &mut impl Rng, amount: i16) -> Rgb {
        Rgb(self.0.map(|channel| {
            (i16::from(channel) + rng.random_range(-amount..=amount)).clamp(0, 255) as u8
        }))
    }

    /// Rec. 601 luma as a grey.
    pub(super) fn grey(self) -> Rgb {
        let [r, g, b] = self.0.map(u32::from);
        Rgb([((299 * r + 587 * g + 114 * b) / 1000) as u8; 3])
    }

    /// The colour in OKLab (Ottosson 2020): lightness in `[0, 1]`, two opponent axes.
    pub(super) fn oklab(self) -> [f32; 3] {
        let [r, g, b] = self.0.map(|channel| LINEAR[usize::from(channel)]);
        let l = (0.412_221_47 * r + 0.536_332_54 * g + 0.051_445_993 * b).cbrt();
        let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
        let s = (0.088_302_46 * r + 0.281_718_84 * g + 0.629_978_7 * b).cbrt();
        [
            0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s,
            1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s,
            0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s,
        ]
    }

    /// Euclidean distance in OKLab: black to white is 1, neighbouring hues about 0.1.
    pub(super) fn distance(self, other: Rgb) -> f32 {
        lab_distance(self.oklab(), other.oklab())
    }
}

/// Euclidean distance of two OKLab colours.
pub(super) fn lab_distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y) * (x - y))
        .sum::<f32>()
        .sqrt()
}

static LINEAR: std::sync::LazyLock<[f32; 256]> = std::sync::LazyLock::new(|| {
    std::array::from_fn(|level| {
        let s = level as f32 / 255.0;
        if s <= 0.040_45 {
            s / 12.92
        } else {
            ((s + 0.055) / 1.055).powf(2.4)
        }
    })
});

/// A colour with the name that captions use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) rgb: Rgb,
}

const fn named(name: &'static str, rgb: [u8; 3]) -> Named {
    Named {
        name,
        rgb: Rgb(rgb),
    }
}

/// What objects are painted with.
pub(super) const PALETTE: [Named; 13] = [
    named("red", [206, 42, 40]),
    named("orange", [238, 134, 30]),
    named("yellow", [242, 205, 48]),
    named("green", [52, 146, 62]),
    named("lime", [150, 205, 60]),
    named("teal", [28, 150, 150]),
    named("blue", [42, 92, 200]),
    named("sky", [96, 176, 236]),
    named("purple", [122, 62, 170]),
    named("pink", [238, 130, 176]),
    named("brown", [128, 82, 46]),
    named("grey", [140, 142, 148]),
    named("white", [240, 240, 236]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oklab_of_the_corners() {
        // Reference values of the OKLab definition for black, white and sRGB red.
        for (rgb, lab) in [
            ([0, 0, 0], [0.0, 0.0, 0.0]),
            ([255, 255, 255], [1.0, 0.0, 0.0]),
            ([255, 0, 0], [0.627_955, 0.224_863, 0.125_846]),
        ] {
            let got = Rgb(rgb).oklab();
            assert!(lab_distance(got, lab) < 1e-3, "{rgb:?}: {got:?}");
        }
    }

    #[test]
    fn black_or_white_is_far_from_every_colour() {
        // What the contrast guarantee rests on: one of the two outlines always shows.
        for r in (0..=255u8).step_by(15) {
            for g in (0..=255u8).step_by(15) {
                for b in (0..=255u8).step_by(15) {
                    let colour = Rgb([r, g, b]);
                    let far = colour.distance(Rgb::BLACK).max(colour.distance(Rgb::WHITE));
                    assert!(far > 0.4, "{colour:?}: {far}");
                }
            }
        }
    }
}
