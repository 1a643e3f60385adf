//! Arguments in, exit code out.

mod cli;

fn main() {
    keep_candle_on_one_thread();
    cli::main().end_process()
}

/// candle hands parts of element-wise operations to threads that wait by spinning. What is worth more than one thread
/// here runs on rayon's, and those cores are not candle's to burn: without this a training step takes half as long again
/// (docs/performance.md). Products of matrices are not concerned.
fn keep_candle_on_one_thread() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: this is the first thing that the process does, so no other thread reads the environment.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}
