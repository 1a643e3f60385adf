//! The stage's decoders as a subject of `benches/mix/run.py`: reads lines from standard input,
//! decodes the pictures of a folder through [`Decoders`], helpers and all, and answers what that
//! cost.
//!
//! `cargo bench -p tagstream-image --bench mix -- SIDE THREADS [libjpeg-turbo]`; a line is `time`,
//! passes and folder, or `pixels`, a file to write them to and folder, with tabs between.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tagstream_image::decode::DecodeLimits;
use tagstream_image::decoders::{DecoderSettings, Decoders};
use tagstream_image::helper;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

fn main() {
    helper::run_if_asked();
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [side, threads, rest @ ..] = &arguments[..] else {
        // What `cargo bench` calls without a case.
        eprintln!("mix: SIDE THREADS [libjpeg-turbo]; benches/mix/run.py calls it");
        return;
    };
    let (side, threads) = (side.parse().unwrap(), threads.parse().unwrap());
    let decoders = Decoders::new(DecoderSettings {
        limits: DecodeLimits {
            own_jpeg_reader: rest.first().is_none_or(|reader| reader != "libjpeg-turbo"),
            ..DecodeLimits::default()
        },
        helpers: threads,
        ..DecoderSettings::default()
    });
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let [what, argument, folder] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else {
            panic!("not three fields: {line}");
        };
        let files = files(folder);
        if what == "pixels" {
            write_pixels(&decoders, &files, side, Path::new(argument));
            println!("{{}}");
            continue;
        }
        let images = argument.parse::<usize>().unwrap() * files.len();
        let (before, started) = (processor_seconds(&decoders), Instant::now());
        decode_all(&decoders, &files, images, side, threads);
        let (used, elapsed) = (
            processor_seconds(&decoders) - before,
            started.elapsed().as_secs_f64(),
        );
        let each = |seconds: f64| seconds * 1e3 / images as f64;
        let (cpu_ms, wall_ms) = (each(used), each(elapsed));
        println!("{{\"cpu_ms\": {cpu_ms}, \"wall_ms\": {wall_ms}}}");
    }
}

fn preprocessing(side: usize) -> Preprocessing {
    Preprocessing {
        height: side,
        width: side,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    }
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect(folder);
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// So many images, the files again and again, on all threads.
fn decode_all(decoders: &Decoders, files: &[Vec<u8>], images: usize, side: usize, threads: usize) {
    let preprocessing = preprocessing(side);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut pixels = vec![0; side * side * 3];
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= images {
                        break;
                    }
                    let file = &files[at % files.len()];
                    decoders
                        .decode_into(file, &preprocessing, &mut pixels)
                        .unwrap();
                }
            });
        }
    });
}

fn write_pixels(decoders: &Decoders, files: &[Vec<u8>], side: usize, path: &Path) {
    let mut all = Vec::new();
    let mut pixels = vec![0; side * side * 3];
    for file in files {
        decoders
            .decode_into(file, &preprocessing(side), &mut pixels)
            .unwrap();
        all.extend_from_slice(&pixels);
    }
    std::fs::write(path, all).unwrap();
}

/// By this process, by helpers that have ended and by those that are there, in user mode and in the
/// kernel.
fn processor_seconds(decoders: &Decoders) -> f64 {
    let helpers: f64 = decoders.helpers().into_iter().map(of_process).sum();
    rusage(libc::RUSAGE_SELF) + rusage(libc::RUSAGE_CHILDREN) + helpers
}

fn rusage(who: i32) -> f64 {
    // SAFETY: all zeros is a value of this structure of numbers, and the call writes to it alone.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(who, &mut usage), 0);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Of the threads of another process: `schedstat` counts nanoseconds, `stat` hundredths of seconds.
fn of_process(id: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{id}/task"));
    let mut nanoseconds = 0.0;
    for thread in threads.into_iter().flatten().flatten() {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let on_processor = times.split_whitespace().next();
        nanoseconds += on_processor.map_or(0.0, |time| time.parse::<f64>().unwrap());
    }
    nanoseconds / 1e9
}
