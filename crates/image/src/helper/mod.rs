//! The process in which pictures are decoded that this program does not trust itself with.
//!
//! It is this program once more, started by [`crate::decoders::Decoders`]. Before it reads the
//! first byte it gives up what a decoder does not need: files, network, other processes, memory
//! beyond the cap (`limits`). Then it takes one picture after the other. Whatever a picture makes
//! of it, a loop, a flood of memory, a crash in a native library, or code of the attacker's, costs
//! that picture and this process.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the process that everybody else has decode"
)]

#[cfg(target_os = "linux")]
mod limits;
#[cfg(not(target_os = "linux"))]
mod no_limits;
mod settings;
#[cfg(target_os = "linux")]
mod system_calls;

pub(crate) use settings::{HelperSettings, SUBCOMMAND};

use crate::decode::{DecodeError, DecodeLimits};
use crate::wire::{self, Answer, Task};
#[cfg(target_os = "linux")]
use limits::{Cage, give_back_memory};
#[cfg(not(target_os = "linux"))]
use no_limits::{Cage, give_back_memory};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this program began with [`run_if_asked`], so that it can be started as a helper.
static SERVES: AtomicBool = AtomicBool::new(false);

/// Whether this process is a helper with its limits.
static HELPS: AtomicBool = AtomicBool::new(false);

/// Exit code of a helper that was called wrongly or could not set its limits.
const REFUSED: i32 = 2;

/// Serves as a decoding helper, and never returns, if this process was started to be one; else
/// returns at once. To be called first in `main` by every program that decodes pictures with
/// [`crate::decoders::Decoders`] and does not name another program to do so.
pub fn run_if_asked() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(SUBCOMMAND) {
        SERVES.store(true, Ordering::Relaxed);
        return;
    }
    let code = match HelperSettings::parse(arguments) {
        None => {
            eprintln!("`{SUBCOMMAND}` is started by the program itself, not by hand");
            REFUSED
        }
        Some(settings) => match serve(&settings) {
            Ok(()) => 0,
            Err(reason) => {
                eprintln!("{reason}");
                REFUSED
            }
        },
    };
    std::process::exit(code);
}

/// Whether this process's own program can be started as a helper.
pub(crate) fn own_program_serves() -> bool {
    SERVES.load(Ordering::Relaxed)
}

/// Gives back the free memory of a helper before a picture that may need all that it is allowed;
/// does nothing in other processes.
pub(crate) fn make_room() {
    if HELPS.load(Ordering::Relaxed) {
        give_back_memory();
    }
}

/// Answers until nobody asks any more, or until the memory that pictures left behind would be
/// missing to the next one.
fn serve(settings: &HelperSettings) -> Result<(), String> {
    // A panic is told by the answer.
    std::panic::set_hook(Box::new(|_| ()));
    // Where there is none, pictures that need it are refused by name.
    let heic = crate::decode::heic_library().is_ok();
    let mut cage = Cage::enter(settings)?;
    warm_up(heic)?;
    cage.close(settings)?;
    HELPS.store(true, Ordering::Relaxed);
    let mut door = cage.door();
    let lost = |error: io::Error| format!("the socket: {error}");
    door.write_all(&wire::GREETING).map_err(lost)?;
    while let Some((task, length)) = wire::read_request(&mut door).map_err(lost)? {
        cage.allow_time(settings)?;
        let (answer, pixels) = take_one(&mut door, &task, length, settings).map_err(lost)?;
        wire::write_answer(&mut door, &answer, &pixels).map_err(lost)?;
        drop(pixels);
        crate::decode::forget_scratch();
        if cage.is_worn() {
            break;
        }
    }
    Ok(())
}

/// Reads one picture and decodes it.
fn take_one(
    door: &mut impl io::Read,
    task: &Task,
    length: usize,
    settings: &HelperSettings,
) -> io::Result<(Answer, Vec<u8>)> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    io::Read::read_to_end(&mut io::Read::take(door, length as u64), &mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // The file lies in this process's memory, too.
    let limits = DecodeLimits {
        max_alloc_bytes: settings
            .limits
            .max_alloc_bytes
            .saturating_sub(length as u64),
        ..settings.limits
    };
    Ok(decode(&bytes, task, &limits))
}

fn decode(bytes: &[u8], task: &Task, limits: &DecodeLimits) -> (Answer, Vec<u8>) {
    let mut pixels = Vec::new();
    let answer = match task {
        Task::Probe => crate::decode::probe(bytes, limits),
        Task::Whole => crate::decode::decode_rgb_told(bytes, limits).map(|(picture, info)| {
            pixels = picture.into_raw();
            info
        }),
        Task::Fit(preprocessing) => {
            let side = |side: usize| side as u64;
            let wanted = 3 * side(preprocessing.height) * side(preprocessing.width);
            limits.check_alloc(wanted).and_then(|()| {
                pixels.resize(wanted as usize, 0);
                crate::decode::decode_told(bytes, preprocessing, limits, &mut pixels)
            })
        }
    };
    if answer.is_err() {
        pixels = Vec::new();
    }
    (answer, pixels)
}

/// A lossy WebP of 16 x 16 pixels; nothing here writes one.
const LOSSY_WEBP: &[u8] =
    b"RIFF>\0\0\0WEBPVP8 2\0\0\0\xf0\x01\0\x9d\x01*\x10\0\x10\0\x07@\x96%\xb0\
    \x02t\x01\x1fb\x911\x08\0\0\xfe\xe4\x0e\xb8\xab9m\xc0\xdb\x81\xda\xb3Ev\x1a+y\xb7\x8b\
    \xc6\xf6\x94\xf1\x14\0";

/// An AVIF of 40 x 28 pixels; nothing here writes one.
const AVIF: &[u8] = include_bytes!("small.avif");

/// The same as HEIC and as JPEG XL.
const HEIC: &[u8] = include_bytes!("small.heic");
const JPEG_XL: &[u8] = include_bytes!("small.jxl");

/// Decodes a small picture of every format: what decoders need once (pages of the program, tables)
/// is there before memory is measured and capped, and a system call that one of them needs and does
/// not get shows now.
fn warm_up(heic: bool) -> Result<(), String> {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let preprocessing = crate::preprocessing::Preprocessing {
        height: 8,
        width: 8,
        fit: crate::preprocessing::Fit::CenterCrop,
        filter: crate::preprocessing::Filter::Bicubic,
    };
    let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, y as u8, 9]));
    let task = Task::Fit(preprocessing);
    let try_one = |name: &str, file: &[u8]| {
        let (answer, _) = decode(file, &task, &DecodeLimits::default());
        answer.map_err(|e: DecodeError| format!("{name} cannot be decoded here: {e}"))
    };
    for format in [Jpeg, Png, WebP, Gif, Bmp, Tiff] {
        let mut file = io::Cursor::new(Vec::new());
        picture
            .write_to(&mut file, format)
            .map_err(|e| format!("{format:?} cannot be written here: {e}"))?;
        try_one(&format!("{format:?}"), file.get_ref())?;
    }
    try_one("WebP", LOSSY_WEBP)?;
    try_one("AVIF", AVIF)?;
    if heic {
        try_one("HEIC", HEIC)?;
    }
    if cfg!(feature = "jpeg-xl") {
        try_one("JPEG XL", JPEG_XL)?;
    }
    crate::decode::forget_scratch();
    Ok(())
}
