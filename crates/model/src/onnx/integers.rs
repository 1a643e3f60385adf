//! Products in 8-bit integers.

use super::graph::GraphBuilder;
use super::{Element, Value};

/// Which integers weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntegerRange {
    /// -127 to 127: for processors whose instructions add such products in 32 bit.
    Full,
    /// -64 to 64: where two products are added in 16 bit, which larger ones would overflow.
    Reduced,
}

impl IntegerRange {
    /// The one that is right on this processor.
    pub fn of_this_processor() -> Self {
        if adds_products_in_32_bit() {
            IntegerRange::Full
        } else {
            IntegerRange::Reduced
        }
    }

    /// The largest weight.
    pub fn largest(self) -> i8 {
        match self {
            IntegerRange::Full => 127,
            IntegerRange::Reduced => 64,
        }
    }
}

/// Whether products of 8-bit integers are exact: on x86 only the instructions called VNNI are.
fn adds_products_in_32_bit() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true
    }
}

impl GraphBuilder {
    /// `x @ weight` for float `x` and `weight` of `[inputs, outputs]`, computed in 8-bit integers:
    /// every column of the weights has a scale of its own, and `x`, all of it, one that is found
    /// when the graph runs. ONNX Runtime makes one kernel of these nodes.
    ///
    /// # Panics
    /// If `weight` has not the number of elements that `shape` asks for.
    pub fn integer_matmul(
        &mut self,
        x: &Value,
        name: &str,
        shape: [usize; 2],
        weight: &[f32],
        range: IntegerRange,
    ) -> Value {
        let [inputs, outputs] = shape;
        assert_eq!(
            weight.len(),
            inputs * outputs,
            "weight `{name}` of {shape:?}"
        );
        let (integers, scales) = columns_as_integers(weight, outputs, range);
        let weight = self.signed_bytes(&format!("{name}.integers"), &shape, &integers);
        let scales = self.weight(&format!("{name}.scales"), &[outputs], Element::F32, &scales);
        let quantized = self.node_with_outputs("DynamicQuantizeLinear", &[x], &[], 3);
        let [bytes, scale, zero] = &quantized[..] else {
            unreachable!("as many outputs as were asked for");
        };
        let none = self.signed_bytes("no_shift", &[], &[0]);
        let sums = self.node("MatMulInteger", &[bytes, &weight, zero, &none], &[]);
        let sums = self.cast(&sums, Element::F32);
        let scales = self.mul(scale, &scales);
        self.mul(&sums, &scales)
    }
}

/// A matrix as integers, and the scale of each of its columns: `integer * scale` is about the
/// weight.
fn columns_as_integers(weight: &[f32], columns: usize, range: IntegerRange) -> (Vec<i8>, Vec<f32>) {
    let mut scales = vec![0.0f32; columns];
    for row in weight.chunks_exact(columns) {
        for (scale, weight) in scales.iter_mut().zip(row) {
            *scale = scale.max(weight.abs());
        }
    }
    let largest = f32::from(range.largest());
    for scale in &mut scales {
        // Of a column of zeros any scale is right.
        *scale = if *scale > 0.0 { *scale / largest } else { 1.0 };
    }
    let rows = weight.chunks_exact(columns);
    let integers = rows.flat_map(|row| {
        let pairs = row.iter().zip(&scales);
        pairs.map(|(weight, scale)| (weight / scale).round().clamp(-largest, largest) as i8)
    });
    (integers.collect(), scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_its_own_scale() {
        let weight = [0.5, 100.0, 0.0, -1.0, 50.0, 0.0];
        let (integers, scales) = columns_as_integers(&weight, 3, IntegerRange::Full);
        assert_eq!(integers, [64, 127, 0, -127, 64, 0]);
        assert_eq!(scales[1], 100.0 / 127.0);
        let (integers, scales) = columns_as_integers(&weight, 3, IntegerRange::Reduced);
        assert_eq!(integers, [32, 64, 0, -64, 32, 0]);
        assert_eq!(scales[2], 1.0);
    }

    /// The reduced range is one in which two products cannot overflow 16 bit.
    #[test]
    fn two_products_of_the_reduced_range_fit_in_16_bit() {
        let largest = i32::from(IntegerRange::Reduced.largest());
        assert!(2 * 255 * largest <= i32::from(i16::MAX));
        assert!(2 * 255 * (largest + 1) > i32::from(i16::MAX));
    }
}
