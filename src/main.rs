//! Arguments in, exit code out.

mod cli;

fn main() {
    tagstream_image::helper::run_if_asked();
    keep_candle_on_one_thread();
    keep_training_memory();
    tagstream_core::build::announce(env!("TAGSTREAM_BUILD"));
    cli::main().end_process()
}

/// candle hands parts of element-wise operations to threads that wait by spinning. What is worth
/// more than one thread here runs on rayon's, and those cores are not candle's to burn: without
/// this a training step takes half as long again (docs/performance.md). Its products of matrices
/// run on rayon's threads, but it reads /proc/cpuinfo before each of them unless it is told their
/// number.
fn keep_candle_on_one_thread() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (name, threads) in [("CANDLE_NUM_THREADS", 1), ("RAYON_NUM_THREADS", cores)] {
        if std::env::var_os(name).is_none() {
            // SAFETY: this is the first thing that the process does, so no other thread reads the
            // environment.
            unsafe { std::env::set_var(name, threads.to_string()) };
        }
    }
}

/// A training step asks for the same large buffers again and again. By default the C library gives
/// them back to the kernel in between, and the next step pays for clearing every page anew.
fn keep_training_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if matches!(
        std::env::args().nth(1).as_deref(),
        Some("train" | "retrain")
    ) {
        // SAFETY: plain numbers to the C library's allocator, before any other thread runs.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
        }
    }
}
