//! Styles: how the same kind of scene looks when it comes from another source.

use super::colour::{PALETTE, Rgb};
use super::pictogram::Role;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How scenes look. The demo model is trained on [`Style::Plain`] only; the others are shifts away
/// from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Full colours, two objects in five with a line around them, a little sensor noise.
    Plain,
    /// Tinted fills between ink lines on light paper, noise, blur.
    Pale,
    /// Line drawings: hard ink lines around paper.
    Outline,
    /// No colour, strong noise.
    Grey,
}

impl Style {
    /// Every style.
    pub const ALL: [Style; 4] = [Style::Plain, Style::Pale, Style::Outline, Style::Grey];

    /// The name that files and the command line use.
    pub fn name(self) -> &'static str {
        match self {
            Style::Plain => "plain",
            Style::Pale => "pale",
            Style::Outline => "outline",
            Style::Grey => "grey",
        }
    }

    /// Whether captions may name colours.
    pub(super) fn has_colour(self) -> bool {
        matches!(self, Style::Plain | Style::Pale)
    }

    /// A line's colour as this style has it.
    fn tone(self, line: Rgb) -> Rgb {
        match self {
            Style::Grey => line.grey(),
            Style::Plain | Style::Pale | Style::Outline => line,
        }
    }

    /// A background colour as this style has it.
    pub(super) fn ground(self, colour: Rgb) -> Rgb {
        match self {
            Style::Plain => colour,
            Style::Pale => colour.mix(Rgb([246, 242, 234]), 0.62),
            Style::Outline => colour.mix(Rgb([236, 236, 236]), 0.5),
            Style::Grey => colour.grey(),
        }
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A style that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("no style is called `{0}`; there are plain, pale, outline and grey")]
pub struct UnknownStyle(String);

impl FromStr for Style {
    type Err = UnknownStyle;

    fn from_str(name: &str) -> Result<Style, UnknownStyle> {
        Style::ALL
            .into_iter()
            .find(|style| style.name() == name)
            .ok_or_else(|| UnknownStyle(name.to_owned()))
    }
}

/// The colours of one object and the line around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    style: Style,
    main: Rgb,
    accent: Rgb,
    ink: Rgb,
    paper: Rgb,
    /// Width of the outline in pixels, if the object has one, and whether inner parts have it too.
    pub(super) outline: Option<(Rgb, f32)>,
    pub(super) inner_lines: bool,
}

impl Palette {
    /// Colours for an object whose main colour is `main`; `ground` is the mean colour below it.
    pub(super) fn new(
        style: Style,
        main: Rgb,
        ground: Rgb,
        size: u32,
        rng: &mut impl Rng,
    ) -> Palette {
        let offset = rng.random_range(0..PALETTE.len());
        let accent = (0..PALETTE.len())
            .map(|i| PALETTE[(offset + i) % PALETTE.len()].rgb)
            .find(|accent| accent.distance(main) > 0.25)
            .unwrap_or(Rgb::WHITE)
            .jitter(rng, 12);
        // Lines are as wide as a pen would draw them, whatever the size of the object.
        let pixel = size as f32 / 128.0;
        let ink = Rgb([30, 28, 34]).jitter(rng, 16);
        let (outline, inner_lines) = match style {
            Style::Plain | Style::Grey => {
                let line = if rng.random_bool(0.25) {
                    ground.opposite()
                } else {
                    ink
                };
                let width = rng.random_range(1.0..2.2) * pixel;
                (
                    rng.random_bool(0.4).then_some((line, width)),
                    rng.random_bool(0.5),
                )
            }
            Style::Pale => (Some((ink, rng.random_range(0.9..1.5) * pixel)), true),
            Style::Outline => (Some((ink, rng.random_range(1.0..1.8) * pixel)), true),
        };
        let outline = outline.map(|(line, width)| (style.tone(line), width));
        Palette {
            style,
            main,
            accent,
            ink,
            paper: Rgb([244, 243, 236]).jitter(rng, 8),
            outline,
            inner_lines,
        }
    }

    /// The same with a line of `width` pixels around the whole.
    pub(super) fn outlined(self, line: Rgb, width: f32) -> Palette {
        Palette {
            outline: Some((self.style.tone(line), width)),
            inner_lines: false,
            ..self
        }
    }

    /// The colour of a part.
    pub(super) fn colour(&self, role: Role) -> Rgb {
        let natural = match role {
            Role::Main => self.main,
            Role::Shade => self.main.mix(Rgb::BLACK, 0.38),
            Role::Light => self.main.mix(Rgb::WHITE, 0.45),
            Role::Accent => self.accent,
            Role::Ink => self.ink,
            Role::Paper => self.paper,
            Role::Wood => Rgb([122, 78, 44]),
            Role::Leaf => Rgb([62, 140, 58]),
            Role::Warm => Rgb([250, 204, 60]),
            Role::Steel => Rgb([188, 194, 202]),
        };
        match self.style {
            Style::Plain => natural,
            Style::Pale if role == Role::Ink => natural.mix(self.paper, 0.3),
            Style::Pale => natural.mix(self.paper, 0.5),
            Style::Outline if role == Role::Ink => self.ink,
            Style::Outline => self.paper,
            Style::Grey => natural.grey(),
        }
    }
}

impl Rgb {
    /// Black or white, whichever is farther.
    pub(super) fn opposite(self) -> Rgb {
        if self.distance(Rgb::BLACK) > self.distance(Rgb::WHITE) {
            Rgb::BLACK
        } else {
            Rgb::WHITE
        }
    }
}

/// What the camera adds to the finished picture (`rgb` is `size * size * 3`): blur, then noise.
pub(super) fn finish(rgb: &mut Vec<u8>, size: usize, style: Style, rng: &mut impl Rng) {
    let (blurs, noise) = match style {
        Style::Plain => (0, [0, 0, 3, 6][rng.random_range(0..4)]),
        Style::Pale => (1, rng.random_range(7..=16)),
        Style::Outline => (0, 2),
        Style::Grey => (0, rng.random_range(30..=50)),
    };
    for _ in 0..blurs {
        *rgb = blur(rgb, size);
    }
    if noise > 0 {
        add_noise(rgb, noise, rng);
    }
}

/// A 3 x 3 binomial blur; the border pixels are repeated outwards.
fn blur(rgb: &[u8], size: usize) -> Vec<u8> {
    let weights = [1u16, 2, 1];
    let near = |at: usize| [at.saturating_sub(1), at, (at + 1).min(size - 1)];
    let mut rows = vec![0u16; rgb.len()];
    for y in 0..size {
        for x in 0..size {
            for channel in 0..3 {
                let sum = near(x).into_iter().zip(weights);
                rows[(y * size + x) * 3 + channel] = sum
                    .map(|(x, w)| w * u16::from(rgb[(y * size + x) * 3 + channel]))
                    .sum();
            }
        }
    }
    let mut blurred = vec![0u8; rgb.len()];
    let stride = size * 3;
    for y in 0..size {
        let near = near(y);
        for i in 0..stride {
            let sum: u16 = near
                .iter()
                .zip(weights)
                .map(|(&y, w)| w * rows[y * stride + i])
                .sum();
            blurred[y * stride + i] = ((sum + 8) / 16) as u8;
        }
    }
    blurred
}

/// Triangular noise of the same value on the three channels of a pixel, up to `amplitude` levels.
fn add_noise(rgb: &mut [u8], amplitude: i32, rng: &mut impl Rng) {
    let mut random = vec![0u8; rgb.len() / 3 * 2];
    rng.fill_bytes(&mut random);
    for (pixel, random) in rgb.chunks_exact_mut(3).zip(random.chunks_exact(2)) {
        let noise = (i32::from(random[0]) + i32::from(random[1]) - 255) * amplitude / 255;
        for channel in pixel {
            *channel = (i32::from(*channel) + noise).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for style in Style::ALL {
            assert_eq!(style.name().parse::<Style>().unwrap(), style);
        }
        assert!(
            "Plain"
                .parse::<Style>()
                .unwrap_err()
                .to_string()
                .contains("`Plain`")
        );
    }

    #[test]
    fn blur_keeps_a_flat_picture_and_spreads_a_dot() {
        assert_eq!(blur(&[77; 5 * 5 * 3], 5), [77; 5 * 5 * 3]);
        let mut dot = vec![0; 5 * 5 * 3];
        dot[(2 * 5 + 2) * 3] = 160;
        let blurred = blur(&dot, 5);
        let red = |x: usize, y: usize| blurred[(y * 5 + x) * 3];
        assert_eq!(
            (red(2, 2), red(1, 2), red(1, 1), red(0, 2)),
            (40, 20, 10, 0)
        );
    }
}
