//! The last block, written once for the whole picture's feature and for those of locations.
//!
//! CLIP was trained on whole pictures, so its last attention spreads what the picture shows over
//! all locations. Each dense mode puts something else in that attention's place, for the locations
//! only; the tokens that the whole picture's feature is made of attend as ever.

use super::base::Transformer;
use super::block::{Block, attend};
use super::{DenseMode, TowerGraph};
use crate::onnx::{Attribute, Value};

/// The standard deviation of [`DenseMode::Neighbour`]'s bonus for what is near, in locations.
const NEIGHBOURHOOD: f64 = 5.0;

/// The tokens that the whole picture's feature is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    ClassToken,
    All,
}

impl Transformer<'_> {
    /// The last block after `x`, `[B, T, W]`: first the tokens of the whole picture, then the
    /// locations as `mode` has them, `[B, t + N, W]`.
    ///
    /// # Panics
    /// On [`DenseMode::Plain`], for which locations are no case of their own.
    pub(super) fn last_block(
        &self,
        graph: &mut TowerGraph,
        layer: usize,
        block: &Block,
        x: &Value,
        (mode, whole): (DenseMode, Whole),
    ) -> Value {
        let name = |part: &str| format!("block{layer}.{part}");
        let (w, first) = (self.width as i64, self.first() as i64);
        let h = self.norm_before(graph, &name("norm1"), &block.norm1, x);
        let by_value = matches!(mode, DenseMode::Value | DenseMode::ValueBare);
        // Often one token has a query only, and the block costs less than a whole one.
        let alone = whole == Whole::ClassToken && by_value;
        let asking = match alone {
            true => graph.g.slice(&h, 1, 0, 1),
            false => h.clone(),
        };
        let q = graph.linear(&asking, &name("q"), &block.qkv.rows(0, self.width));
        let q = self.split(graph, &q);
        let key_value = block.qkv.rows(self.width, 2 * self.width);
        let kv = graph.linear(&h, &name("kv"), &key_value);
        let k = graph.g.slice(&kv, 2, 0, w);
        let k = self.split(graph, &k);
        let values = graph.g.slice(&kv, 2, w, 2 * w);
        let v = self.split(graph, &values);
        // A class token has no place to be turned by.
        let q = if alone { q } else { self.turned(graph, q) };
        let k = self.turned(graph, k);
        let asked = match (whole, alone) {
            (Whole::ClassToken, false) => graph.g.slice(&q, 2, 0, 1),
            _ => q.clone(),
        };
        let keys = graph.g.transpose(&k, &[0, 1, 3, 2]);
        let picture = attend(graph, &asked, &keys, &v);
        let picture = self.merge(graph, &picture);
        let places = match mode {
            DenseMode::Value | DenseMode::ValueBare => graph.g.slice(&values, 1, first, i64::MAX),
            DenseMode::SelfCorrelating => self.self_correlating(graph, &q, &k, &v),
            DenseMode::Neighbour => self.neighbour(graph, &k, &v),
            DenseMode::Plain | DenseMode::ValuePositional => {
                unreachable!("no mode of a last block")
            }
        };
        let mixed = concatenated(graph, &[&picture, &places]);
        let attended = self.attention_out(graph, layer, block, &mixed);
        let within = format!("block{layer}");
        if mode == DenseMode::Value {
            let residual = match (whole, first) {
                (Whole::ClassToken, _) => x.clone(),
                (Whole::All, first) => {
                    let places = graph.g.slice(x, 1, first, i64::MAX);
                    concatenated(graph, &[x, &places])
                }
            };
            let sum = graph.g.add(&residual, &attended);
            return self.mlp(graph, &within, &block.mlp, &sum);
        }
        let count = match whole {
            Whole::ClassToken => 1,
            Whole::All => (self.first() + self.grid * self.grid) as i64,
        };
        let before = graph.g.slice(x, 1, 0, count);
        let picture = graph.g.slice(&attended, 1, 0, count);
        let picture = graph.g.add(&before, &picture);
        let picture = self.mlp(graph, &within, &block.mlp, &picture);
        let places = graph.g.slice(&attended, 1, count, i64::MAX);
        concatenated(graph, &[&picture, &places])
    }

    /// `(softmax(q q) + softmax(k k)) v` of the locations (SCLIP's attention).
    fn self_correlating(&self, graph: &mut TowerGraph, q: &Value, k: &Value, v: &Value) -> Value {
        let root = ((self.width / self.heads) as f32).sqrt();
        // Queries carry the scale twice then, keys not at all.
        let of_queries = self.likeness(graph, q, root, None);
        let of_keys = self.likeness(graph, k, 1.0 / root, None);
        let attention = graph.g.add(&of_queries, &of_keys);
        let mixed = graph.g.matmul(&attention, v);
        self.merge(graph, &mixed)
    }

    /// `softmax(k k + near) v` of the locations (NACLIP's attention).
    fn neighbour(&self, graph: &mut TowerGraph, k: &Value, v: &Value) -> Value {
        let root = ((self.width / self.heads) as f32).sqrt();
        let (grid, first) = (self.grid, self.first());
        let (count, tokens) = (grid * grid, first + grid * grid);
        let mut near = Vec::with_capacity(count * tokens);
        for from in 0..count {
            near.extend(std::iter::repeat_n(0.0, first));
            near.extend((0..count).map(|to| {
                let rows = (from / grid).abs_diff(to / grid) as f64;
                let columns = (from % grid).abs_diff(to % grid) as f64;
                let square = rows * rows + columns * columns;
                (-square / (2.0 * NEIGHBOURHOOD * NEIGHBOURHOOD)).exp() as f32
            }));
        }
        let near = graph.weight("neighbourhood", &[count, tokens], &near);
        let attention = self.likeness(graph, k, 1.0 / root, Some(&near));
        let mixed = graph.g.matmul(&attention, v);
        self.merge(graph, &mixed)
    }

    /// How much the locations' rows of `x` (`[B, heads, T, W / heads]`) are like all rows of it.
    fn likeness(
        &self,
        graph: &mut TowerGraph,
        x: &Value,
        scale: f32,
        bonus: Option<&Value>,
    ) -> Value {
        let places = graph.g.slice(x, 2, self.first() as i64, i64::MAX);
        let scale = graph.g.scalar(graph.element, scale);
        let places = graph.g.mul(&places, &scale);
        let all = graph.g.transpose(x, &[0, 1, 3, 2]);
        let mut scores = graph.g.matmul(&places, &all);
        if let Some(bonus) = bonus {
            scores = graph.g.add(&scores, bonus);
        }
        graph.g.softmax(&scores, -1)
    }
}

/// Along the tokens.
pub(super) fn concatenated(graph: &mut TowerGraph, parts: &[&Value]) -> Value {
    graph
        .g
        .node("Concat", parts, &[("axis", Attribute::Int(1))])
}
