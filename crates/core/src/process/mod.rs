//! What is asked of the operating system: the allocator's arenas, priorities, the cost of threads,
//! heartbeats of loops, threads for work that blocks.

pub mod arenas;
pub mod blocking;
pub mod heartbeat;
pub mod priority;
pub mod thread_cost;
