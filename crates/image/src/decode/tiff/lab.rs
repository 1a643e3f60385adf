//! CIE L*a*b* to sRGB, as a colour management module converts it: from the white of printed matter
//! to that of screens.

/// From XYZ under D50 to linear sRGB: sRGB's own matrix behind the Bradford transform from D50 to
/// D65.
const TO_LINEAR: [[f32; 3]; 3] = [
    [3.133_856, -1.616_866_7, -0.490_614_6],
    [-0.978_768_4, 1.916_141_5, 0.033_454],
    [0.071_945_3, -0.228_991_4, 1.405_242_7],
];
/// D50.
const WHITE: [f32; 3] = [0.964_22, 1.0, 0.825_21];

/// Lightness from 0 to 255, and both opponents, as TIFF stores them.
pub(super) fn to_rgb(lightness: u8, a: i8, b: i8) -> [u8; 3] {
    let y = (f32::from(lightness) * (100.0 / 255.0) + 16.0) / 116.0;
    let roots = [y + f32::from(a) / 500.0, y, y - f32::from(b) / 200.0];
    let mut xyz = [0.0; 3];
    for ((out, root), white) in xyz.iter_mut().zip(roots).zip(WHITE) {
        *out = white * unrooted(root);
    }
    TO_LINEAR.map(|[x, y, z]| {
        let linear = x * xyz[0] + y * xyz[1] + z * xyz[2];
        (encoded(linear.clamp(0.0, 1.0)) * 255.0 + 0.5) as u8
    })
}

/// The cube, and a straight line near black.
fn unrooted(root: f32) -> f32 {
    const KNEE: f32 = 6.0 / 29.0;
    if root > KNEE {
        root * root * root
    } else {
        3.0 * KNEE * KNEE * (root - 4.0 / 29.0)
    }
}

/// IEC 61966-2-1.
fn encoded(linear: f32) -> f32 {
    if linear <= 0.003_130_8 {
        12.92 * linear
    } else {
        1.055 * linear.powf(1.0 / 2.4) - 0.055
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Pillow makes of the same values.
    #[test]
    fn colours_are_those_of_pillow() {
        for (lab, rgb) in [
            ((200, 2, -8), [192, 193, 209]),
            ((150, 20, 30), [185, 127, 90]),
            ((90, -30, 25), [31, 95, 40]),
            ((255, 0, 0), [254, 255, 254]),
        ] {
            let got = to_rgb(lab.0, lab.1, lab.2);
            let near = got.iter().zip(rgb).all(|(a, b)| a.abs_diff(b) <= 3);
            assert!(near, "{lab:?}: {got:?}, not {rgb:?}");
        }
    }
}
