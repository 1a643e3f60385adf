//! Kernel ridge regression beside the trained branches, fitted in closed form before training.
//!
//! The paper's memory bank holds visual features and averages them into prototypes. Here the bank
//! itself answers: what is asked about is compared with every remembered example x_j, and what is
//! known about those is passed on. Per category c, with a kernel K and targets y in [0, 1]:
//!
//! ```text
//! k_c(x)  = sum_j alpha_jc K(x, x_j)
//! alpha_c = argmin  sum_i w_ic (y_ic - prior_c - k_c(x_i))^2 + ridge |k_c|^2
//! s_c     = a k_c + logit(prior_c) + b
//! ```
//!
//! Unknown entries have weight 0, or a soft target ([`aims`]).
//!
//! [`images`] remembers whole images (the head's tensors `memory.*`), [`regions`] remembers each
//! category's own regions (`regional.*`). `a` and `b` come from Platt scaling on predictions for
//! images that the fit had not seen (folds), because a kernel machine flatters the examples that it
//! remembers.

pub mod aims;
pub mod images;
pub mod regions;
pub mod targets;
pub mod words;
