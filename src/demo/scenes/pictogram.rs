//! Pictograms: categories as a few filled or stroked shapes in the square `[-1, 1]²` (y points
//! down).
//!
//! A part is one line of text: a role, then a path.
//!
//! ```text
//! m|~.1 M-.5 0 L.5 0 Q.6 .1 .5 .2 C0 0 .1 .1 .2 .2 Z O0 0 .5 E0 0 .5 .3 R-.5 -.5 1 1
//!     B-.5 -.5 1 1 .1
//! ```
//!
//! The role's letter says what the part is painted with (see [`Role::parse`]); `|` draws its mirror
//! image (x to -x) too; `~w` strokes with that width instead of filling. Paths know M, L, Q, C and
//! Z as SVG does (absolute coordinates), and O (circle: centre, radius), E (ellipse: centre,
//! radii), R (rectangle: corner, size), B (the same with round corners).

use super::colour::Rgb;
use tiny_skia::{
    FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, PixmapMut, Rect, Stroke, Transform,
};

/// Why a pictogram's text was not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("pictogram part `{part}`: {reason}")]
pub(super) struct PictogramError {
    /// The part's text.
    pub part: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a part is painted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The object's own colour.
    Main,
    /// The object's colour, darker.
    Shade,
    /// The object's colour, lighter.
    Light,
    /// A second colour that differs from the first.
    Accent,
    /// Nearly black.
    Ink,
    /// Nearly white.
    Paper,
    /// Brown.
    Wood,
    /// Green.
    Leaf,
    /// Yellow.
    Warm,
    /// Light grey.
    Steel,
}

impl Role {
    fn parse(letter: char) -> Option<Role> {
        Some(match letter {
            'm' => Role::Main,
            's' => Role::Shade,
            'l' => Role::Light,
            'a' => Role::Accent,
            'k' => Role::Ink,
            'p' => Role::Paper,
            'b' => Role::Wood,
            'g' => Role::Leaf,
            'y' => Role::Warm,
            'i' => Role::Steel,
            _ => return None,
        })
    }
}

/// One shape of a pictogram.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) role: Role,
    /// Filled if `None`, else stroked with this width.
    stroke: Option<f32>,
    path: Path,
}

/// A category's picture.
#[derive(Debug, Clone)]
pub(super) struct Pictogram {
    parts: Vec<Part>,
}

/// How a pictogram's parts become paint.
pub(super) struct Look<'a> {
    /// Colour of a role.
    pub(super) colour: &'a dyn Fn(Role) -> Rgb,
    /// A line around the parts: colour and width in pictogram units.
    pub(super) outline: Option<(Rgb, f32)>,
    /// Whether every part is outlined, or only the whole.
    pub(super) inner_lines: bool,
}

impl Pictogram {
    /// Reads the parts of a pictogram.
    ///
    /// # Errors
    ///
    /// If a part does not follow the module's language.
    pub(super) fn parse(parts: &[&str]) -> Result<Pictogram, PictogramError> {
        let mut parsed = Vec::new();
        for text in parts {
            parse_part(text, &mut parsed).map_err(|reason| PictogramError {
                part: (*text).to_owned(),
                reason,
            })?;
        }
        Ok(Pictogram { parts: parsed })
    }

    /// Draws the pictogram through `transform` (pictogram units to pixels).
    pub(super) fn draw(&self, canvas: &mut PixmapMut, transform: Transform, look: &Look) {
        if let Some((colour, width)) = look.outline.filter(|_| !look.inner_lines) {
            for part in &self.parts {
                part.outline(canvas, transform, colour, width);
            }
        }
        for part in &self.parts {
            if let Some((colour, width)) = look.outline.filter(|_| look.inner_lines) {
                part.outline(canvas, transform, colour, width);
            }
            let paint = solid((look.colour)(part.role));
            match part.stroke {
                None => canvas.fill_path(&part.path, &paint, FillRule::Winding, transform, None),
                Some(width) => {
                    canvas.stroke_path(&part.path, &paint, &round(width), transform, None)
                }
            }
        }
    }
}

impl Part {
    /// A line of `width` beyond the part's edge; what lies inside is painted over by the part
    /// itself.
    fn outline(&self, canvas: &mut PixmapMut, transform: Transform, colour: Rgb, width: f32) {
        let width = self.stroke.unwrap_or(0.0) + 2.0 * width;
        canvas.stroke_path(&self.path, &solid(colour), &round(width), transform, None);
    }
}

fn round(width: f32) -> Stroke {
    Stroke {
        width,
        line_cap: LineCap::Round,
        line_join: LineJoin::Round,
        ..Stroke::default()
    }
}

pub(super) fn solid(colour: Rgb) -> Paint<'static> {
    let mut paint = Paint::default();
    let [r, g, b] = colour.0;
    paint.set_color_rgba8(r, g, b, 255);
    paint.anti_alias = true;
    paint
}

fn parse_part(text: &str, parts: &mut Vec<Part>) -> Result<(), String> {
    let mut chars = text.chars();
    let role = chars
        .next()
        .and_then(Role::parse)
        .ok_or("starts with no known role letter")?;
    let mut rest = chars.as_str();
    let mirrored = rest.starts_with('|');
    rest = rest.trim_start_matches('|').trim_start();
    let mut stroke = None;
    if let Some(after) = rest.strip_prefix('~') {
        let (width, path) = after
            .split_once(' ')
            .ok_or("a stroke width needs a path after it")?;
        stroke = Some(
            width
                .parse::<f32>()
                .map_err(|_| format!("`{width}` is not a width"))?,
        );
        rest = path;
    }
    let path = parse_path(rest)?;
    if mirrored {
        let mirror = path
            .clone()
            .transform(Transform::from_scale(-1.0, 1.0))
            .ok_or("cannot be mirrored")?;
        parts.push(Part {
            role,
            stroke,
            path: mirror,
        });
    }
    parts.push(Part { role, stroke, path });
    Ok(())
}

fn parse_path(text: &str) -> Result<Path, String> {
    let mut builder = PathBuilder::new();
    let mut rest = text.trim();
    while let Some(command) = rest.chars().next() {
        let body = &rest[command.len_utf8()..];
        let end = body
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(body.len());
        let numbers = body[..end]
            .split_whitespace()
            .map(|number| {
                number
                    .parse::<f32>()
                    .map_err(|_| format!("`{number}` is not a number"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        add(&mut builder, command, &numbers)?;
        rest = body[end..].trim_start();
    }
    builder.finish().ok_or_else(|| "has no extent".to_owned())
}

fn add(builder: &mut PathBuilder, command: char, numbers: &[f32]) -> Result<(), String> {
    match (command, numbers) {
        ('M', &[x, y]) => builder.move_to(x, y),
        ('L', &[x, y]) => builder.line_to(x, y),
        ('Q', &[a, b, x, y]) => builder.quad_to(a, b, x, y),
        ('C', &[a, b, c, d, x, y]) => builder.cubic_to(a, b, c, d, x, y),
        ('Z', &[]) => builder.close(),
        ('O', &[x, y, r]) => builder.push_circle(x, y, r),
        ('E', &[x, y, rx, ry]) => builder.push_oval(rect(x - rx, y - ry, 2.0 * rx, 2.0 * ry)?),
        ('R', &[x, y, w, h]) => builder.push_rect(rect(x, y, w, h)?),
        ('B', &[x, y, w, h, r]) => round_rect(builder, rect(x, y, w, h)?, r),
        _ => {
            return Err(format!(
                "`{command}` with {} numbers is unknown",
                numbers.len()
            ));
        }
    }
    Ok(())
}

fn rect(x: f32, y: f32, w: f32, h: f32) -> Result<Rect, String> {
    Rect::from_xywh(x, y, w, h).ok_or_else(|| format!("{w} x {h} is no size"))
}

fn round_rect(builder: &mut PathBuilder, rect: Rect, radius: f32) {
    let (l, t, r, b) = (rect.left(), rect.top(), rect.right(), rect.bottom());
    builder.move_to(l + radius, t);
    builder.line_to(r - radius, t);
    builder.quad_to(r, t, r, t + radius);
    builder.line_to(r, b - radius);
    builder.quad_to(r, b, r - radius, b);
    builder.line_to(l + radius, b);
    builder.quad_to(l, b, l, b - radius);
    builder.line_to(l, t + radius);
    builder.quad_to(l, t, l + radius, t);
    builder.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_not_understood_are_named() {
        for (text, reason) in [
            ("x M0 0 L1 1", "starts with no known role letter"),
            ("m W0 0", "`W` with 2 numbers is unknown"),
            ("m M0", "`M` with 1 numbers is unknown"),
            ("m M0 1,5", "`1,5` is not a number"),
            ("m~wide M0 0 L1 1", "`wide` is not a width"),
            ("m", "has no extent"),
            ("m R0 0 -1 1", "-1 x 1 is no size"),
        ] {
            let error = Pictogram::parse(&[text]).expect_err(text);
            assert_eq!((error.part.as_str(), error.reason.as_str()), (text, reason));
        }
    }

    #[test]
    fn a_mirrored_part_is_drawn_on_both_sides() {
        let pictogram = Pictogram::parse(&["m| R.5 -.5 .4 1"]).unwrap();
        let mut pixmap = tiny_skia::Pixmap::new(20, 20).unwrap();
        let look = Look {
            colour: &|_| Rgb::BLACK,
            outline: None,
            inner_lines: false,
        };
        let to_pixels = Transform::from_scale(10.0, 10.0).post_translate(10.0, 10.0);
        pictogram.draw(&mut pixmap.as_mut(), to_pixels, &look);
        let alpha = |x| pixmap.pixel(x, 10).unwrap().alpha();
        assert_eq!((alpha(3), alpha(10), alpha(16)), (255, 0, 255));
    }
}
