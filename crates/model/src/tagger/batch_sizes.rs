//! How many images a model is given at a time, and what bounds that on a processor.

use std::time::Duration;

/// Images that a run holds even of a large model: weights that fit no cache are read from memory
/// once for both, which is 4 % of a ViT-B/16's time.
const LEAST_RUN: usize = 2;

/// How many images a model is given at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSizes {
    /// The most images of one run of the graphs.
    pub run: usize,
    /// The most images that are collected and handed to a worker at once, who takes them through
    /// one run after another: `run` or a multiple of it.
    pub batch: usize,
}

/// What bounds [`BatchSizes`] on a processor. Images that run together share what a run costs
/// beside the arithmetic: calls and the reading of weights. More of them than that takes make each
/// other wait and hold memory for nothing. Runs that follow each other share what the first finds:
/// caches that other threads have filled meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBounds {
    /// The longest that a run may take.
    pub run_time: Duration,
    /// The most images of a run.
    pub run_images: usize,
    /// The longest that the runs of a batch may take together, if it has several.
    pub batch_time: Duration,
    /// The most runs of a batch.
    pub batch_runs: usize,
}

impl BatchBounds {
    /// The sizes for a model to which one image is so much processor time, with at most `max_batch`
    /// images.
    pub(super) fn sizes(&self, image: Duration, max_batch: usize) -> BatchSizes {
        let image = image.as_secs_f64().max(1e-6);
        let fits = |time: Duration| time.as_secs_f64() / image;
        let run = (fits(self.run_time).ceil() as usize).max(LEAST_RUN);
        let run = run.min(self.run_images).min(max_batch).max(1);
        let most = (fits(self.batch_time) as usize).min(max_batch);
        let runs = (most / run).min(self.batch_runs).max(1);
        BatchSizes {
            run,
            batch: run * runs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: BatchBounds = BatchBounds {
        run_time: Duration::from_millis(20),
        run_images: 4,
        batch_time: Duration::from_millis(8),
        batch_runs: 4,
    };

    /// Of a model to which an image is so many milliseconds: images of a run and of a batch.
    fn sizes(bounds: BatchBounds, milliseconds: f64, max_batch: usize) -> [usize; 2] {
        let sizes = bounds.sizes(Duration::from_secs_f64(milliseconds / 1e3), max_batch);
        [sizes.run, sizes.batch]
    }

    #[test]
    fn runs_are_bounded_by_time_and_images() {
        let run = |milliseconds| sizes(BOUNDS, milliseconds, 64)[0];
        // However long an image takes, the weights are read for two at once.
        assert_eq!([400.0, 15.0].map(run), [2, 2]);
        assert_eq!([8.0, 5.0, 3.0, 0.6, 0.0].map(run), [3, 4, 4, 4, 4]);
        let one = BatchBounds {
            run_images: 1,
            ..BOUNDS
        };
        assert_eq!(sizes(one, 1000.0, 64), [1, 1]);
    }

    #[test]
    fn batches_hold_as_many_whole_runs_as_are_short_together() {
        let batch = |milliseconds| sizes(BOUNDS, milliseconds, 64)[1];
        assert_eq!([400.0, 8.0, 3.0, 1.1].map(batch), [2, 3, 4, 4]);
        assert_eq!([0.9, 0.6, 0.4, 0.0].map(batch), [8, 12, 16, 16]);
    }

    #[test]
    fn neither_is_above_what_is_allowed() {
        let allowed = |max_batch| sizes(BOUNDS, 0.1, max_batch);
        assert_eq!(
            [1, 3, 4, 7, 15, 16].map(allowed),
            [[1, 1], [3, 3], [4, 4], [4, 4], [4, 12], [4, 16]]
        );
    }
}
