//! The trainer: the one owner of what changes while a model is trained.
//!
//! ```text
//! start    calibrated start -> closed form -> warm start -> optimizer, teacher
//! epoch    teacher prepares targets -> steps
//! step     batch -> forward -> teach -> loss -> update -> observe
//! finish   averaged weights -> head
//! ```
//!
//! Everything that it calls is given what it needs and calls nothing back: [`TrainingSet`] is only
//! read, the closed form is fitted once, the optimizer owns the weights that move, and the teacher
//! what is learned without a gradient.

use crate::trainer::Trained;
use crate::trainer::calibrated_start::calibrate;
use crate::trainer::checkpoint::Checkpoint;
use crate::trainer::closed_form::ClosedForm;
use crate::trainer::data::TrainingSet;
use crate::trainer::error::TrainError;
use crate::trainer::optimizer::{Optimizer, one_cycle};
use crate::trainer::random::{normal, shuffled};
use crate::trainer::teacher::Teacher;
use crate::trm::model::TextFeatures;
use crate::trm::weights::Weights;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What one step did.
#[derive(Debug)]
pub(super) struct Stepped {
    /// Names and values of the loss's parts, weighted as in the total.
    pub(super) losses: Vec<(&'static str, f64)>,
    /// Norm of the gradients before clipping.
    pub(super) gradient_norm: f64,
    /// Factor of the peak learning rates.
    pub(super) rate: f64,
    /// Steps made and in all.
    pub(super) count: (usize, usize),
    /// Training epochs finished and in all.
    pub(super) epoch: (usize, usize),
}

/// A training under way.
pub(super) struct Trainer<'a> {
    set: TrainingSet<'a>,
    seed: u64,
    /// The start: what is not trained stays as it is here.
    start: Weights,
    closed: ClosedForm,
    optimizer: Optimizer,
    teacher: Teacher<'a>,
    epochs: usize,
    /// Training epochs in all; none where the trained branches would count too little.
    asked: usize,
    curves: Vec<(usize, Vec<(&'static str, f64)>)>,
}

impl<'a> Trainer<'a> {
    /// Everything that comes before the first step. `warm` are weights of an earlier model, and for
    /// every category its index there.
    pub(super) fn start(
        set: TrainingSet<'a>,
        seed: u64,
        warm: Option<&(Weights, Vec<Option<usize>>)>,
    ) -> Result<Self, TrainError> {
        let config = set.model.config();
        let mut random = StdRng::seed_from_u64(seed);
        let mut start = set.model.start(&mut || normal(&mut random))?;
        if config.calibrated_start {
            calibrate(&set, &mut start)?;
        }
        // Before the warm start, whose weights may have seen these labels.
        let closed = ClosedForm::fit(&set, &start, seed)?;
        if let Some((stored, rows)) = warm {
            start.warm_start(stored, rows)?;
        }
        let optimizer = Optimizer::new(&start, &set.model.trained(&start), &config.optimizer)?;
        let counts = closed.ridges.blend.network >= config.optimizer.least_share;
        let labelled = set.labels.iter().any(|label| *label > 0);
        Ok(Self {
            teacher: Teacher::new(&set, &start)?,
            asked: if counts && labelled {
                config.optimizer.epochs
            } else {
                0
            },
            set,
            seed,
            start,
            closed,
            optimizer,
            epochs: 0,
            curves: Vec::new(),
        })
    }

    /// Takes up the training where a checkpoint left it.
    pub(super) fn restore(&mut self, state: Checkpoint) -> Result<(), TrainError> {
        let tensors = state.tensors.into_iter();
        let tensors = tensors.map(|(name, _, values)| (name, values)).collect();
        self.optimizer.restore(&tensors, state.steps)?;
        self.teacher.restore(&state.numbers)?;
        self.epochs = state.epochs;
        Ok(())
    }

    /// The state at the end of a training epoch.
    pub(super) fn checkpoint(&self, identity: &str) -> Result<Checkpoint, TrainError> {
        Ok(Checkpoint {
            identity: identity.to_owned(),
            epochs: self.epochs,
            steps: self.optimizer.steps(),
            tensors: self.optimizer.state()?,
            numbers: self.teacher.state(),
        })
    }

    /// Whether all training epochs are done.
    pub(super) fn is_done(&self) -> bool {
        self.epochs >= self.asked
    }

    /// Steps made so far, over all parts of a training that was interrupted.
    pub(super) fn steps(&self) -> usize {
        self.optimizer.steps()
    }

    fn steps_per_epoch(&self) -> usize {
        let batch = self.set.model.config().optimizer.batch;
        self.set.images().div_ceil(batch)
    }

    fn all_steps(&self) -> usize {
        self.asked * self.steps_per_epoch()
    }

    /// One pass over the training images; `report` is called after every step.
    pub(super) fn epoch(&mut self, report: &mut dyn FnMut(Stepped)) -> Result<(), TrainError> {
        let per_epoch = self.steps_per_epoch();
        let average = self.optimizer.averaged(&self.start)?;
        let share_done = (self.epochs * per_epoch) as f64 / self.all_steps() as f64;
        self.teacher
            .prepare(&self.set, &average, &self.closed, share_done)?;
        let fixed_text = if self.set.model.trains_text(&self.start) {
            None
        } else {
            Some(self.set.text(&self.start)?)
        };
        let mut means: Vec<(&'static str, f64)> = Vec::new();
        let order = shuffled(self.set.images(), self.seed, self.epochs as u64);
        for images in order.chunks(self.set.model.config().optimizer.batch) {
            let stepped = self.step(images, fixed_text.as_ref())?;
            for (name, value) in &stepped.losses {
                match means.iter_mut().find(|(n, _)| n == name) {
                    Some((_, mean)) => *mean += value / per_epoch as f64,
                    None => means.push((*name, value / per_epoch as f64)),
                }
            }
            report(stepped);
        }
        self.epochs += 1;
        self.curves.push((self.epochs, means));
        Ok(())
    }

    fn step(
        &mut self,
        images: &[usize],
        fixed_text: Option<&TextFeatures>,
    ) -> Result<Stepped, TrainError> {
        let (set, config) = (&self.set, self.set.model.config());
        let (step, steps) = (self.optimizer.steps(), self.all_steps());
        let share_done = step as f64 / steps as f64;
        let mask = set.mask(images.len(), self.seed, step as u64)?;
        let batch = set.batch(images, mask.as_ref())?;
        let labels = set.labels_of(images);
        let live = self.optimizer.live(&self.start);
        let text = match fixed_text {
            Some(text) => text.clone(),
            None => set.text(&live)?,
        };
        let forward = set.model.forward(&live, &text, &batch)?;
        let teaching = self.teacher.teach(images, labels.view(), share_done)?;
        let loss = set.model.loss(&live, &text, &forward, &teaching)?;
        if loss.parts.iter().any(|(_, value)| !value.is_finite()) {
            return Err(TrainError::Diverged {
                epoch: self.epochs + 1,
                step: step + 1,
            });
        }
        let rate = one_cycle(step, steps, config.optimizer.warm_up);
        let gradient_norm = self.optimizer.update(&loss.total.backward()?, rate)?;
        self.teacher
            .observe(labels.view(), &forward, &text, share_done)?;
        Ok(Stepped {
            losses: loss.parts,
            gradient_norm,
            rate,
            count: (step + 1, steps),
            epoch: (self.epochs, self.asked),
        })
    }

    /// The averaged weights and their head.
    pub(super) fn finish(self) -> Result<Trained, TrainError> {
        let set = self.set;
        let weights = self.optimizer.averaged(&self.start)?;
        let text = set.text(&weights)?;
        let left_out = self.closed.left_out();
        let ridges = self.closed.ridges;
        let head = set.model.export(&weights, &text, &set.standard, &ridges)?;
        Ok(Trained {
            weights,
            text,
            standard: set.standard,
            ridges,
            head,
            left_out: left_out.filter(|_| self.epochs == 0),
            epochs: self.epochs,
            steps: self.optimizer.steps(),
            curves: self.curves,
        })
    }
}
