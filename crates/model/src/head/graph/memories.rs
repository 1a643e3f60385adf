//! The memories in the graph.

use super::{AttentionValues, HeadGraph};
use crate::onnx::{Attribute, Element, Value};

impl HeadGraph<'_> {
    /// s_m: distances by `|a|^2 + |b|^2 - 2 a.b`, so that they cost one product with the bank.
    pub(super) fn memory_logits(&mut self, dense: &Value, global: &Value, words: bool) -> Value {
        let (scale, offset) = (
            self.w("memory.global_scale"),
            self.w("memory.global_offset"),
        );
        let scaled = self.g.mul(global, &scale);
        let whole = self.g.add(&scaled, &offset);
        let mean = self.g.mean(dense, 1, false);
        let (centre, spread) = (self.w("memory.mean_centre"), self.w("memory.mean_spread"));
        let centred = self.g.node("Sub", &[&mean, &centre], &[]);
        let direction = self.g.l2_normalise(&centred, Element::F32);
        let direction = self.g.mul(&direction, &spread);
        let join = [("axis", Attribute::Int(1))];
        let phi = if words {
            let words = self.word_histogram(dense);
            self.g.node("Concat", &[&whole, &direction, &words], &join)
        } else {
            self.g.node("Concat", &[&whole, &direction], &join)
        };
        let bank = self.w("memory.bank");
        let square = self.g.mul(&bank, &bank);
        let bank_square = self.g.sum(&square, -1);
        let square = self.g.mul(&phi, &phi);
        let last = self.g.integers(&[-1]);
        let square = self.g.node(
            "ReduceSum",
            &[&square, &last],
            &[("keepdims", Attribute::Int(1))],
        );
        let product = self.g.gemm_transposed(&phi, &bank, None);
        let two = self.g.scalar(Element::F32, 2.0);
        let product = self.g.mul(&product, &two);
        let sum = self.g.add(&square, &bank_square);
        // product - sum is minus the squared distance; above 0 it can only be rounding.
        let exponent = self.g.node("Sub", &[&product, &sum], &[]);
        let zero = self.g.scalar(Element::F32, 0.0);
        let exponent = self.g.node("Min", &[&exponent, &zero], &[]);
        let kernel = self.g.node("Exp", &[&exponent], &[]);
        let (weight, bias) = (self.w("memory.weight"), self.w("memory.bias"));
        self.g.node("Gemm", &[&kernel, &weight, &bias], &[])
    }

    /// The histogram of visual words as a part of phi, `[B, K]`.
    fn word_histogram(&mut self, dense: &Value) -> Value {
        let centre = self.w("memory.word_centre");
        let centred = self.g.node("Sub", &[dense, &centre], &[]);
        let local = self.g.l2_normalise(&centred, Element::F32);
        let codebook = self.w("memory.word_codebook");
        let codebook = self.g.transpose(&codebook, &[1, 0]);
        let scores = self.g.matmul(&local, &codebook);
        let shares = self.g.softmax(&scores, -1);
        let histogram = self.g.mean(&shares, 1, false);
        let roots = self.g.node("Sqrt", &[&histogram], &[]);
        let (centre, spread) = (
            self.w("memory.word_root_centre"),
            self.w("memory.word_spread"),
        );
        let centred = self.g.node("Sub", &[&roots, &centre], &[]);
        let direction = self.g.l2_normalise(&centred, Element::F32);
        self.g.mul(&direction, &spread)
    }

    /// s_l: a product of every category's region with its own bank.
    pub(super) fn regional_logits(&mut self, shared: &AttentionValues) -> Value {
        let attention = self.w("regional.attention");
        let scores = self.g.matmul(&attention, &shared.dense_t);
        let saliency = self.g.softmax(&scores, -1);
        let region = self.g.matmul(&saliency, &shared.dense);
        let region = self.g.l2_normalise(&region, Element::F32);
        let region = self.g.transpose(&region, &[1, 0, 2]);
        let bank = self.w("regional.bank");
        let cosine = self.g.matmul(&region, &bank);
        let one = self.g.scalar(Element::F32, 1.0);
        let below = self.g.node("Sub", &[&cosine, &one], &[]);
        let sharpness = self.w("regional.sharpness");
        let exponent = self.g.mul(&below, &sharpness);
        let kernel = self.g.node("Exp", &[&exponent], &[]);
        let weight = self.w("regional.weight");
        let middle = self.g.integers(&[1]);
        let weight = self.g.node("Unsqueeze", &[&weight, &middle], &[]);
        let said = self.g.mul(&kernel, &weight);
        let said = self.g.sum(&said, -1);
        let said = self.g.transpose(&said, &[1, 0]);
        let bias = self.w("regional.bias");
        self.g.add(&said, &bias)
    }
}
