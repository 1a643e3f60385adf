//! One training step of `trm-ml`: text tower forward and backward through the prompts, the three
//! branches, all losses, AdamW and averaging. `benches/training_step.py` does the same in PyTorch:
//!
//! ```text
//! RAYON_NUM_THREADS=4 cargo bench --bench training_step -- \
//!     [CATEGORIES POSITIONS DIM WIDTH LAYERS HEADS LENGTH STEPS]
//! ```
//!
//! prints one JSON line with the median and the fastest step in milliseconds. Features, labels and
//! targets of a batch are drawn outside the timing, feature dropout's mask inside.

mod support;

use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Instant;
use support::{TowerSize, random_tower};
use tagstream_train::trainer::optimizer::Optimizer;
use tagstream_train::trm::config::{Method, MethodConfig};
use tagstream_train::trm::model::{Batch, Model, Standard};
use tagstream_train::trm::objective::Teaching;
use tagstream_train::trm::prompts::{PromptTokens, Prompts};
use tagstream_train::trm::weights::Weights;

const BATCH: usize = 64;
/// Tokens of the template, which the contexts start from.
const CONTEXT: usize = 4;

fn main() {
    // As the command line does.
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("CANDLE_NUM_THREADS", "1");
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        }
    }
    let given: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let defaults = [36, 49, 256, 256, 4, 4, 8, 15];
    let at = |index: usize| given.get(index).copied().unwrap_or(defaults[index]);
    let (categories, positions, dim) = (at(0), at(1), at(2));
    let (size, length, steps) = (
        TowerSize {
            width: at(3),
            layers: at(4),
            heads: at(5),
            projection: dim,
        },
        at(6),
        at(7),
    );
    let mut times: Vec<f64> = Step::new(categories, dim, size, length)
        .time(positions, 3 + steps)
        .split_off(3);
    times.sort_by(f64::total_cmp);
    let threads = rayon::current_num_threads();
    println!(
        "{{\"framework\": \"tagstream\", \"threads\": {threads}, \"categories\": {categories}, \
         \"positions\": {positions}, \"dim\": {dim}, \"width\": {}, \"layers\": {}, \
         \"length\": {length}, \"median_ms\": {:.2}, \"fastest_ms\": {:.2}}}",
        size.width,
        size.layers,
        times[times.len() / 2],
        times[0],
    );
}

/// What a step needs.
struct Step {
    model: Model,
    tower: tagstream_model::clip::text::TextTower,
    weights: Weights,
    optimizer: Optimizer,
    standard: Standard,
    prototypes: Tensor,
    random: StdRng,
}

impl Step {
    fn new(categories: usize, dim: usize, size: TowerSize, length: usize) -> Self {
        let tower = random_tower(size);
        let end = support::VOCABULARY as u32 - 1;
        let name = |category: usize| {
            // Begin, template, name, end: `length` tokens.
            let tokens = length - 2 - CONTEXT;
            (0..tokens).map(move |at| ((category * 7 + at * 13) % 50) as u32 + 5)
        };
        let tokens = PromptTokens {
            begin: 0,
            end,
            template: vec![1, 2, 1, 3],
            names: (0..categories).map(|c| name(c).collect()).collect(),
        };
        let prompts = Prompts::new(&tokens, &tower).expect("prompts");
        let config = MethodConfig::preset(Method::TrmMl);
        let model = Model::new(config.clone(), prompts, &tower).expect("a model");
        let mut random = StdRng::seed_from_u64(0);
        let weights = model
            .start(&mut || random.random::<f64>() * 2.0 - 1.0)
            .expect("weights");
        let optimizer = Optimizer::new(&weights, &model.trained(&weights), &config.optimizer)
            .expect("an optimiser");
        Self {
            standard: Standard {
                mean: vec![0.0; dim],
                deviation: vec![1.0; dim],
            },
            prototypes: model.template().clone(),
            model,
            tower,
            weights,
            optimizer,
            random,
        }
    }

    /// Times of the steps in milliseconds.
    fn time(&mut self, positions: usize, steps: usize) -> Vec<f64> {
        let (c, d) = (self.model.categories(), self.model.dim());
        let random = &mut self.random;
        let mut times = Vec::with_capacity(steps);
        for _ in 0..steps {
            let mut draw = |count: usize| -> Vec<f32> {
                let value = || random.random::<f32>() * 2.0 - 1.0;
                std::iter::repeat_with(value).take(count).collect()
            };
            let (dense, global) = (draw(BATCH * positions * d), draw(BATCH * d));
            let labels: Vec<f32> = draw(BATCH * c).iter().map(|x| (x * 1.5).round()).collect();
            let targets: Vec<f32> = draw(BATCH * c).iter().map(|x| x * 0.5 + 0.5).collect();
            let began = Instant::now();
            let mask: Vec<f32> = (0..BATCH * d)
                .map(|_| {
                    if random.random::<f64>() < 0.5 {
                        0.0
                    } else {
                        2.0
                    }
                })
                .collect();
            let tensor = |values: Vec<f32>, columns| {
                Tensor::from_vec(values, (BATCH, columns), &Device::Cpu).expect("a tensor")
            };
            let unknown = labels.iter().map(|y| f32::from(*y == 0.0)).collect();
            let batch = Batch::new(dense, &global, &self.standard, Some(&tensor(mask, d)))
                .expect("a batch");
            let teaching = Teaching {
                labels: tensor(labels, c),
                targets: Some((tensor(targets, c), tensor(unknown, c))),
                target_weight: 0.25,
                assume_negative: 0.0,
                distillation_weight: 1.0,
                prototypes: Some(self.prototypes.clone()),
            };
            let live = self.optimizer.live(&self.weights);
            let text = self.model.text(&live, &self.tower).expect("text features");
            let forward = self.model.forward(&live, &text, &batch).expect("logits");
            let loss = self
                .model
                .loss(&live, &text, &forward, &teaching)
                .expect("a loss");
            let gradients = loss.total.backward().expect("gradients");
            self.optimizer.update(&gradients, 1.0).expect("an update");
            times.push(1e3 * began.elapsed().as_secs_f64());
        }
        times
    }
}
