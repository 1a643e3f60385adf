//! What is asked of the operating system: heaps, priorities, the cost of threads, heartbeats of
//! loops.

pub mod heaps;
pub mod heartbeat;
pub mod priority;
pub mod thread_cost;
