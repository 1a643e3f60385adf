//! Several views of a picture in one encoder: the whole, its mirror image and its middle, their
//! features as one. The graph draws the views from the pixels it is given, so whatever runs an
//! encoder (stage, training, search) sees the same contract, grid and sizes as before.
//!
//! Locations stay where they are: the mirror image's are turned back, those of the middle are
//! interpolated at the places that they show. Each location is the mean of the normalised features
//! of the views that see it; the global feature is the normalised mean over views. Averaging over
//! augmented inputs is as old as convolutional networks (Krizhevsky et al., 2012); views cost the
//! encoder their number.

use crate::bundle::Dims;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto};
use crate::onnx::{Attribute, Element, GraphBuilder, GraphError, Value, parse};
use bytes::Bytes;
use prost::Message;

/// Side of the middle that the third view shows, of the whole.
const MIDDLE: f64 = 0.76;

/// What names of values that are added begin with.
const PREFIX: &str = "views/";

/// Operator sets in which the nodes that are added mean what is meant here.
const OPSETS: std::ops::RangeInclusive<i64> = 13..=23;

/// Which views an encoder takes of a picture. The whole is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Views {
    /// The mirror image, left and right exchanged.
    pub mirror: bool,
    /// The middle, enlarged: 0.76 of each side.
    pub middle: bool,
}

/// Why an encoder cannot take several views.
#[derive(Debug, thiserror::Error)]
pub enum ViewsError {
    /// The file is no ONNX model.
    #[error("the encoder is no ONNX model: {0}")]
    NoModel(#[from] prost::DecodeError),
    /// The model has no graph.
    #[error("the encoder has no graph")]
    NoGraph,
    /// It has views.
    #[error("the encoder takes several views already; begin with the one it was made from")]
    Already,
    /// Its operators mean something else.
    #[error("the encoder is written in operator set {0}; views can be added to 13 to 23")]
    OperatorSet(i64),
    /// It is too large.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl Views {
    /// How many.
    pub fn count(self) -> usize {
        1 + usize::from(self.mirror) + usize::from(self.middle)
    }

    /// For people: `whole, mirror, middle`.
    pub fn names(self) -> String {
        let mut names = vec!["whole"];
        names.extend(self.mirror.then_some("mirror"));
        names.extend(self.middle.then_some("middle"));
        names.join(", ")
    }

    /// An encoder of these views out of one of the whole picture. `dims` are its sizes, `height`
    /// and `width` those of its pixels.
    ///
    /// # Errors
    /// [`ViewsError`].
    pub fn add_to(
        self,
        onnx: Bytes,
        dims: Dims,
        (height, width): (usize, usize),
    ) -> Result<Vec<u8>, ViewsError> {
        let mut model = parse(onnx)?;
        let opsets = model.opset_import.iter();
        let own = opsets.filter(|set| set.domain.as_deref().unwrap_or_default().is_empty());
        let opset = own.filter_map(|set| set.version).max().unwrap_or(0);
        if !OPSETS.contains(&opset) {
            return Err(ViewsError::OperatorSet(opset));
        }
        let graph = model.graph.as_mut().ok_or(ViewsError::NoGraph)?;
        let mut names = graph.node.iter().flat_map(|node| &node.output);
        if names.any(|name| name.starts_with(PREFIX)) {
            return Err(ViewsError::Already);
        }
        let before = self.draw((height, width)).into_model();
        let after = self.join(dims, (height, width)).into_model();
        wrap(graph, before, after);
        let bytes = model.encoded_len();
        if bytes >= i32::MAX as usize {
            let graph = "encoder".to_owned();
            return Err(GraphError::TooLarge { graph, bytes }.into());
        }
        Ok(model.encode_to_vec())
    }

    /// pixels `[B, H, W, 3]` to those of all views, view by view: `[V B, H, W, 3]`.
    fn draw(self, (height, width): (usize, usize)) -> GraphBuilder {
        let mut g = GraphBuilder::new("views");
        let shape = ["batch".into(), height.into(), width.into(), 3.into()];
        let pixels = g.input("pixels", Element::U8, &shape);
        let mut views = vec![pixels.clone()];
        if self.mirror {
            let (start, end) = (g.integers(&[-1]), g.integers(&[i64::MIN + 1]));
            let (axis, step) = (g.integers(&[2]), g.integers(&[-1]));
            views.push(g.node("Slice", &[&pixels, &start, &end, &axis, &step], &[]));
        }
        if self.middle {
            let (rows, columns) = (middle(height), middle(width));
            let part = g.slice(&pixels, 1, rows.0 as i64, (rows.0 + rows.1) as i64);
            let part = g.slice(&part, 2, columns.0 as i64, (columns.0 + columns.1) as i64);
            let part = g.cast(&part, Element::F32);
            let part = g.transpose(&part, &[0, 3, 1, 2]);
            let large = g.enlarge(&part, (rows.1, columns.1), (height, width));
            let large = g.node("Round", &[&large], &[]);
            let large = g.transpose(&large, &[0, 2, 3, 1]);
            views.push(g.cast(&large, Element::U8));
        }
        let (height, width) = (height as i64, width as i64);
        let stacked: Vec<Value> = views
            .iter()
            .map(|view| g.reshape(view, &[1, -1, height, width, 3]))
            .collect();
        let stacked: Vec<&Value> = stacked.iter().collect();
        let all = g.node("Concat", &stacked, &[("axis", Attribute::Int(0))]);
        let all = g.reshape(&all, &[-1, height, width, 3]);
        g.output(&all, "views/pixels", Element::U8, &[]);
        g
    }

    /// Features of all views to those of the pictures.
    fn join(self, dims: Dims, pixels: (usize, usize)) -> GraphBuilder {
        let views = self.count() as i64;
        let (n, d) = (dims.grid_height * dims.grid_width, dims.embedding);
        let (positions, width) = (n as i64, d as i64);
        let mut g = GraphBuilder::new("views");
        let dense = g.input("views/dense", Element::F32, &[]);
        let global = g.input("views/global", Element::F32, &[]);

        let dense = normalised(&mut g, &dense);
        let dense = g.reshape(&dense, &[views, -1, positions, width]);
        let dense = g.transpose(&dense, &[1, 0, 2, 3]);
        let dense = g.reshape(&dense, &[-1, views * positions, width]);
        let shares = self.shares(dims, pixels);
        let shares = g.weight("shares", &[n, self.count() * n], Element::F32, &shares);
        let dense = g.matmul(&shares, &dense);
        let shape = ["batch".into(), n.into(), d.into()];
        g.output(&dense, "dense", Element::F32, &shape);

        let global = normalised(&mut g, &global);
        let global = g.reshape(&global, &[views, -1, width]);
        let global = g.sum(&global, 0);
        let global = normalised(&mut g, &global);
        g.output(&global, "global", Element::F32, &["batch".into(), d.into()]);
        g
    }

    /// How much of each view's locations there is in each location of the picture, row by row:
    /// `[N, V N]`.
    fn shares(self, dims: Dims, (height, width): (usize, usize)) -> Vec<f32> {
        let (rows, columns) = (dims.grid_height, dims.grid_width);
        let n = rows * columns;
        let line = self.count() * n;
        let mut shares = vec![0.0; n * line];
        for (at, shares) in shares.chunks_mut(line).enumerate() {
            let (row, column) = (at / columns, at % columns);
            let mut seen = vec![(at, 1.0f32)];
            let mut views = 1.0f32;
            if self.mirror {
                seen.push((n + row * columns + (columns - 1 - column), 1.0));
                views += 1.0;
            }
            if self.middle
                && let Some(down) = shown(row, rows, middle(height), height)
                && let Some(across) = shown(column, columns, middle(width), width)
            {
                views += 1.0;
                let first = (self.count() - 1) * n;
                for (row, a) in down {
                    seen.extend(across.map(|(column, b)| (first + row * columns + column, a * b)));
                }
            }
            for (place, share) in seen {
                shares[place] += share / views;
            }
        }
        shares
    }
}

/// (first, length) of the middle of a side.
fn middle(side: usize) -> (usize, usize) {
    let length = ((side as f64 * MIDDLE).round() as usize).clamp(1, side);
    ((side - length) / 2, length)
}

/// The two locations of the middle's grid that lie around the centre of location `at` of the whole,
/// with their shares; `None` if the middle does not show it.
fn shown(
    at: usize,
    grid: usize,
    (first, length): (usize, usize),
    side: usize,
) -> Option<[(usize, f32); 2]> {
    let centre = (at as f64 + 0.5) / grid as f64 * side as f64;
    let within = (centre - first as f64) / length as f64;
    if !(0.0..1.0).contains(&within) {
        return None;
    }
    let place = (within * grid as f64 - 0.5).clamp(0.0, (grid - 1) as f64);
    let low = place.floor();
    let share = (place - low) as f32;
    let (low, high) = (low as usize, (low as usize + 1).min(grid - 1));
    Some([(low, 1.0 - share), (high, share)])
}

/// Rows (last axis) divided by their norm, with operators that all the sets in [`OPSETS`] have.
fn normalised(g: &mut GraphBuilder, x: &Value) -> Value {
    let squares = g.mul(x, x);
    let axes = g.integers(&[-1]);
    let keep = [("keepdims", Attribute::Int(1))];
    let sum = g.node("ReduceSum", &[&squares, &axes], &keep);
    let norm = g.node("Sqrt", &[&sum], &[]);
    let floor = g.scalar(Element::F32, 1e-12);
    let norm = g.node("Max", &[&norm, &floor], &[]);
    g.div(x, &norm)
}

/// Puts `before` and `after` around `graph`: the inputs and outputs keep their names outside, and
/// have the prefix inside.
fn wrap(graph: &mut GraphProto, before: ModelProto, after: ModelProto) {
    let inside = |name: &str| {
        ["pixels", "dense", "global"]
            .contains(&name)
            .then(|| format!("{PREFIX}{name}"))
    };
    rename_all(graph, &inside);
    // Shapes that were inferred for another batch.
    graph.value_info.clear();
    let mut nodes = Vec::new();
    for (part, model) in [("before", before), ("after", after)] {
        let Some(mut added) = model.graph else {
            continue;
        };
        let prefixed = |name: &str| {
            let outer = ["pixels", "dense", "global"].contains(&name);
            (!outer && !name.starts_with(PREFIX)).then(|| format!("{PREFIX}{part}/{name}"))
        };
        rename_all(&mut added, &prefixed);
        graph.initializer.append(&mut added.initializer);
        if part == "before" {
            nodes.append(&mut added.node);
            nodes.append(&mut graph.node);
            graph.input = added.input;
        } else {
            nodes.append(&mut added.node);
            graph.output = added.output;
        }
    }
    graph.node = nodes;
}

/// Gives every value of a graph and of the graphs in it the name that `new` has for it, if any.
fn rename_all(graph: &mut GraphProto, new: &impl Fn(&str) -> Option<String>) {
    let change = |name: &mut String| {
        if let Some(other) = new(name) {
            *name = other;
        }
    };
    for node in &mut graph.node {
        rename_node(node, new);
    }
    for tensor in &mut graph.initializer {
        tensor.name.iter_mut().for_each(change);
    }
}

fn rename_node(node: &mut NodeProto, new: &impl Fn(&str) -> Option<String>) {
    for name in node.input.iter_mut().chain(&mut node.output) {
        // An empty name is an input that is left out.
        if let Some(other) = new(name).filter(|_| !name.is_empty()) {
            *name = other;
        }
    }
    if let Some(other) = node.name.as_deref().and_then(new) {
        node.name = Some(other);
    }
    let within = |attribute: &mut AttributeProto| {
        let graphs = attribute.g.iter_mut().chain(&mut attribute.graphs);
        graphs.for_each(|graph| rename_all(graph, new));
    };
    node.attribute.iter_mut().for_each(within);
}

#[cfg(test)]
mod tests;
