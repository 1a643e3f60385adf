//! What demonstrations and timings need: synthetic scenes, pictures like photographs and an
//! embedded broker.

pub mod broker;
pub mod photograph;
pub mod scenes;
pub mod scoreboard;
pub mod story;
