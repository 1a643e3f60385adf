//! The plans of a picture's components, cached: a source often has pictures of few sizes.

use super::axis::Axis;
use super::frame::{Component, Frame};
use super::plan::Plan;
use super::target::Target;

/// Sets of plans in the cache. Those of a picture of 4 megapixels take a third of a megabyte.
const CACHED: usize = 4;

/// What plans depend on, beside the tables, which come from every file anew.
#[derive(PartialEq)]
struct Key {
    target: Target,
    /// By component: horizontal and vertical sampling factor.
    sampling: Vec<(usize, usize)>,
}

/// The plans of the pictures read last.
#[derive(Default)]
pub(super) struct Plans {
    /// The latest first.
    cached: Vec<(Key, Vec<Plan>)>,
}

impl Plans {
    /// A plan for each component. A picture in colour has a fourth one, for what is added to green.
    pub(super) fn of(&mut self, frame: &Frame, target: &Target) -> &[Plan] {
        let key = Key {
            target: *target,
            sampling: frame
                .components()
                .map(|c| (c.horizontal_sampling, c.vertical_sampling))
                .collect(),
        };
        let mut plans = match self.cached.iter().position(|(cached, _)| *cached == key) {
            Some(at) => self.cached.remove(at).1,
            None => without_tables(frame, target),
        };
        for (plan, component) in plans.iter_mut().zip(frame.components()) {
            plan.use_tables_of(frame, component);
        }
        self.cached.truncate(CACHED - 1);
        self.cached.insert(0, (key, plans));
        &self.cached[0].1
    }
}

/// New plans, without the tables of a file.
fn without_tables(frame: &Frame, target: &Target) -> Vec<Plan> {
    let columns = Axis::both(&target.columns, target.kernel);
    let rows = Axis::both(&target.rows, target.kernel);
    let axes = |component: &Component| {
        (
            &rows[frame.max_vertical_sampling / component.vertical_sampling - 1],
            &columns[frame.max_horizontal_sampling / component.horizontal_sampling - 1],
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
