//! The elementary functions in 32 bit against 64 bit.

use super::Real;

#[test]
fn the_exponential_agrees_with_64_bit() {
    for step in -8700..=8800 {
        let x = step as f32 * 0.01;
        let exact = f64::from(x).exp();
        let error = (f64::from(Real::exp(x)) / exact - 1.0).abs();
        assert!(error < 4e-7, "exp({x}): {error}");
    }
}

#[test]
fn the_normal_distribution_agrees_with_64_bit() {
    for step in -14_000..=14_000 {
        let x = step as f32 * 1e-3;
        let (cdf, density) = x.normal();
        let (exact, bell) = f64::from(x).normal();
        let (off, relative) = (f64::from(cdf) - exact, f64::from(cdf) / exact - 1.0);
        assert!(off.abs() < 4e-7, "Φ({x}): {off}");
        assert!(relative.abs() < 2e-5 || x < -13.0, "Φ({x}): {relative}");
        assert!((f64::from(density) - bell).abs() < 2e-7, "exp(-{x}²/2)");
    }
    for x in [-1e4f32, -1e30, 1e4, 1e30, 0.0] {
        let expected = if x == 0.0 { 0.5 } else { f32::from(x > 0.0) };
        assert!((x.normal().0 - expected).abs() < 1e-7, "Φ({x})");
    }
}
