//! The plans of a picture's components, kept for the next picture of the same size: a source often has few sizes.

use super::Target;
use super::axis::Axis;
use super::frame::{Component, Frame};
use super::plan::Plan;

/// Kinds of pictures whose plans are kept. Those of a picture of 4 megapixels take a third of a megabyte.
const KEPT: usize = 4;

/// What plans depend on, but for what is taken over from every file anew.
#[derive(PartialEq)]
struct Kind {
    target: Target,
    /// By component: blocks a unit side by side and above each other.
    factors: Vec<(usize, usize)>,
}

/// Plans of the kinds of pictures that were read last.
#[derive(Default)]
pub(super) struct Plans {
    /// The latest first.
    kept: Vec<(Kind, Vec<Plan>)>,
}

impl Plans {
    /// How each component is read and resampled; in colour there is a fourth plan for what is missing of green.
    pub(super) fn of(&mut self, frame: &Frame, target: &Target) -> &[Plan] {
        let kind = Kind {
            target: *target,
            factors: frame.components().map(|c| (c.across, c.down)).collect(),
        };
        let mut plans = match self.kept.iter().position(|(kept, _)| *kept == kind) {
            Some(at) => self.kept.remove(at).1,
            None => made(frame, target),
        };
        for (plan, component) in plans.iter_mut().zip(frame.components()) {
            plan.adopt(frame, component);
        }
        self.kept.truncate(KEPT - 1);
        self.kept.insert(0, (kind, plans));
        &self.kept[0].1
    }
}

/// Plans without what is a file's own.
fn made(frame: &Frame, target: &Target) -> Vec<Plan> {
    let columns = Axis::both(&target.columns, target.kernel);
    let rows = Axis::both(&target.rows, target.kernel);
    let axes = |component: &Component| {
        (
            &rows[frame.tallest / component.down - 1],
            &columns[frame.widest / component.across - 1],
        )
    };
    let plan = |component| {
        let (rows, columns) = axes(component);
        Plan::new(component, rows, columns)
    };
    let mut plans: Vec<Plan> = frame.components().map(plan).collect();
    if let Some(blue) = frame.components().nth(1) {
        let (rows, columns) = axes(blue);
        plans.push(Plan::of_means(blue, rows, columns));
    }
    plans
}
