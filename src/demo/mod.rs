//! What a demonstration needs: synthetic scenes and an embedded broker.

pub mod broker;
pub mod scenes;
pub mod scoreboard;
pub mod story;
