//! The helper processes that pictures are decoded in: what they may do, what is lost when one dies,
//! and what is said where there is none.

use crate::common::hostile::tiff_of_wide_tiles;
use crate::common::pictures::{encoded, progressive_jpeg};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tagstream_image::decode::{DecodeError, DecodeFault, ImageSize, Orientation};
use tagstream_image::decoders::{DecoderSettings, Decoders, JpegsDecoded};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

const SIDE: usize = 32;

fn settings() -> DecoderSettings {
    DecoderSettings {
        helpers: 1,
        program: Some(env!("CARGO_BIN_EXE_tagstream").into()),
        ..DecoderSettings::default()
    }
}

fn decoded(decoders: &Decoders, bytes: &[u8]) -> Result<ImageSize, DecodeError> {
    let preprocessing = Preprocessing {
        height: SIDE,
        width: SIDE,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    };
    let mut pixels = vec![0; SIDE * SIDE * 3];
    decoders.decode_into(bytes, &preprocessing, &mut pixels)
}

fn png() -> Vec<u8> {
    encoded(64, image::ImageFormat::Png)
}

/// Takes minutes: each of its tiles has four million pixels.
fn slow() -> Vec<u8> {
    tiff_of_wide_tiles(60_000)
}

const WHOLE: ImageSize = ImageSize {
    width: 64,
    height: 64,
};

fn status(process: u32, line: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

fn signal(process: u32, signal: i32) {
    // SAFETY: takes numbers only; the process is one that this test has started.
    unsafe { libc::kill(process as i32, signal) };
}

/// Waits until `happened`, for as long as a busy machine may need.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Decodes `bytes` and, once the helper is at it, sends it a signal.
fn decoded_under(decoders: &Decoders, bytes: &[u8], number: i32) -> Result<ImageSize, DecodeError> {
    decoders.prove().unwrap();
    let helper = decoders.helpers()[0];
    let before = processor_time(helper);
    std::thread::scope(|scope| {
        let decoding = scope.spawn(|| decoded(decoders, bytes));
        until("the helper's work", || processor_time(helper) > before);
        // The standard library takes the first SIGSEGV for itself.
        until("the helper's end", || {
            signal(helper, number);
            !PathBuf::from(format!("/proc/{helper}")).exists()
        });
        decoding.join().unwrap()
    })
}

/// In ticks of the system's clock.
fn processor_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let field = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field(11) + field(12)
}

#[test]
fn every_format_comes_back_from_the_helper_as_it_is_decoded_here() {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let decoders = Decoders::new(settings());
    let limits = decoders.settings().limits;
    let mut files: Vec<Vec<u8>> = [Bmp, Gif, Jpeg, Png, Tiff, WebP]
        .into_iter()
        .map(|format| encoded(50, format))
        .collect();
    files.push(progressive_jpeg(48));
    let photographs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/photographs");
    for name in ["avif-10-420", "heic", "heic-grid", "jxl-container"] {
        files.push(std::fs::read(format!("{photographs}/{name}")).unwrap());
    }
    for file in files {
        let whole = decoders.decode_rgb(&file).unwrap();
        #[allow(
            clippy::disallowed_methods,
            reason = "what the helper is compared with"
        )]
        let here = tagstream_image::decode::decode_rgb(&file, &limits).unwrap();
        assert_eq!(whole, here);
        let info = decoders.probe(&file).unwrap();
        assert_eq!(
            (info.size.width, info.orientation),
            (whole.width(), Orientation::Upright)
        );
        assert_eq!(decoded(&decoders, &file).unwrap(), info.size);
    }
    assert_eq!(decoders.deaths(), 0);
    assert_eq!(decoders.helpers().len(), 1);
}

#[test]
fn plain_jpegs_need_no_helper_and_everything_else_is_refused_without_one() {
    // This test's own program is none.
    let decoders = Decoders::default();
    let error = decoders.prove().unwrap_err();
    assert_eq!(error.fault(), DecodeFault::NoDecoder);
    assert!(error.to_string().contains("decode.helper"), "{error}");
    for side in [40, 700] {
        let plain = encoded(side, image::ImageFormat::Jpeg);
        assert_eq!(decoded(&decoders, &plain).unwrap().width, side);
    }
    let since = decoders.stuck_for();
    for other in [png(), progressive_jpeg(64)] {
        assert_eq!(
            decoded(&decoders, &other).unwrap_err().fault(),
            DecodeFault::NoDecoder
        );
    }
    until("a longer time without a decoder", || {
        decoders.stuck_for() > since
    });
}

#[test]
fn a_program_that_is_no_helper_is_named_with_what_it_said() {
    let started = |program: PathBuf| {
        let decoders = Decoders::new(DecoderSettings {
            program: Some(program),
            ..settings()
        });
        decoders.prove().unwrap_err().to_string()
    };
    let error = started("/no/such/program".into());
    assert!(
        error.contains("/no/such/program") && error.contains("No such file"),
        "{error}"
    );
    let error = started("/bin/false".into());
    assert!(
        error.contains("/bin/false") && error.contains("exit code 1"),
        "{error}"
    );
    let error = started("/bin/echo".into());
    assert!(error.contains("/bin/echo"), "{error}");
}

#[test]
fn a_helper_has_no_network_no_files_and_no_secrets() {
    let decoders = Decoders::new(settings());
    assert_eq!(decoded(&decoders, &png()), Ok(WHOLE));
    let helper = decoders.helpers()[0];
    // 2: a filter of system calls.
    assert_eq!(status(helper, "Seccomp"), "2");
    assert_eq!(status(helper, "NoNewPrivs"), "1");
    assert_eq!(status(helper, "Threads"), "1");
    let limits = std::fs::read_to_string(format!("/proc/{helper}/limits")).unwrap();
    let hard = |name: &str| -> String {
        let line = limits.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(hard("Max file size"), "0");
    assert_eq!(hard("Max core file size"), "0");
    assert_eq!(hard("Max open files"), "4");
    let most: u64 = hard("Max address space").parse().unwrap();
    let taken: u64 = status(helper, "VmSize")
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let cap = decoders.settings().limits.max_alloc_bytes + (16 << 20);
    assert!(
        most <= (taken << 10) + cap,
        "{most} bytes of addresses, {taken} kB taken"
    );
    let open = std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap();
    let open: BTreeSet<String> = open
        .map(|file| {
            std::fs::read_link(file.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .map(|name| name.split(':').next().unwrap_or_default().to_owned())
        .collect();
    let memory = format!("/proc/{helper}/statm");
    assert_eq!(
        open,
        BTreeSet::from(["/dev/null", "pipe", "socket", memory.as_str()].map(String::from))
    );
    let environment = std::fs::read(format!("/proc/{helper}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    let variables = environment.split('\0').filter(|v| !v.is_empty());
    assert!(
        variables.clone().all(|v| v.starts_with("LD_LIBRARY_PATH=")),
        "{environment}"
    );
}

/// Pages that a process was given so far because it touched them for the first time.
fn pages_cleared(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let behind_name = stat.rsplit_once(") ").unwrap().1;
    behind_name.split(' ').nth(7).unwrap().parse().unwrap()
}

#[test]
fn a_helper_keeps_the_memory_of_a_web_picture_for_the_next_one() {
    let decoders = Decoders::new(settings());
    let pictures = [
        encoded(900, image::ImageFormat::Png),
        encoded(900, image::ImageFormat::WebP),
        progressive_jpeg(900),
    ];
    let decode_all = || {
        for picture in &pictures {
            decoded(&decoders, picture).unwrap();
        }
    };
    decode_all();
    let helpers = decoders.helpers();
    let before = pages_cleared(helpers[0]);
    for _ in 0..4 {
        decode_all();
    }
    assert_eq!(decoders.helpers(), helpers);
    let each = (pages_cleared(helpers[0]) - before) / 12;
    // The pixels of one take 593 pages.
    assert!(each < 400, "{each} pages a picture");
}

#[test]
fn what_small_pictures_leave_is_not_missing_to_one_that_needs_all() {
    let mut settings = settings();
    settings.limits.max_alloc_bytes = 32 << 20;
    let largest = (1_200..2_400)
        .step_by(100)
        .map(|side| encoded(side, image::ImageFormat::Png))
        .take_while(|picture| decoded(&Decoders::new(settings.clone()), picture).is_ok())
        .last()
        .unwrap();
    let decoders = Decoders::new(settings);
    for _ in 0..4 {
        decoded(&decoders, &progressive_jpeg(700)).unwrap();
        decoded(&decoders, &encoded(800, image::ImageFormat::Png)).unwrap();
        decoded(&decoders, &largest).unwrap();
    }
    assert_eq!(decoders.deaths(), 0);
}

#[test]
fn a_crash_loses_one_picture_and_says_how() {
    let decoders = Decoders::new(settings());
    for (number, name) in [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
    ] {
        let error = decoded_under(&decoders, &slow(), number).unwrap_err();
        assert!(matches!(error, DecodeError::Died { .. }), "{error}");
        assert_eq!(error.fault(), DecodeFault::Damaged);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(decoded(&decoders, &png()), Ok(WHOLE));
    }
    assert_eq!(decoders.deaths(), 3);
    assert_eq!(decoders.stuck_for(), Duration::ZERO);
}

#[test]
fn a_picture_that_takes_too_long_ends_by_its_limit() {
    let decoders = Decoders::new(DecoderSettings {
        timeout: Duration::from_secs(1),
        ..settings()
    });
    decoders.prove().unwrap();
    let helper = decoders.helpers()[0];
    // On a machine so busy that the helper gets less than half of a core, that is the reason.
    let error = decoded(&decoders, &slow()).unwrap_err();
    match &error {
        DecodeError::TooMuchTime { timeout_ms: 1_000 } => {
            assert_eq!(error.fault(), DecodeFault::TooLarge);
            assert!(error.to_string().contains("decode.timeout_ms"), "{error}");
        }
        DecodeError::Unavailable { reason } => assert!(reason.contains("ran for"), "{reason}"),
        other => panic!("{other}"),
    }
    until("the helper's end", || {
        !PathBuf::from(format!("/proc/{helper}")).exists()
    });
    until("a picture in time", || {
        decoded(&decoders, &png()) == Ok(WHOLE)
    });
}

#[test]
fn a_helper_that_somebody_kills_or_stops_costs_no_picture() {
    let decoders = Decoders::new(DecoderSettings {
        timeout: Duration::from_secs(3),
        ..settings()
    });
    for number in [libc::SIGKILL, libc::SIGTERM, libc::SIGSTOP] {
        decoders.prove().unwrap();
        signal(decoders.helpers()[0], number);
        assert_eq!(decoded(&decoders, &png()), Ok(WHOLE), "signal {number}");
    }
}

#[test]
fn helpers_end_with_their_decoders() {
    let decoders = Decoders::new(settings());
    assert_eq!(decoded(&decoders, &png()), Ok(WHOLE));
    let helper = PathBuf::from(format!("/proc/{}", decoders.helpers()[0]));
    let clone = decoders.clone();
    drop(decoders);
    assert!(helper.exists());
    drop(clone);
    until("the helper's end", || !helper.exists());
}

#[test]
fn as_many_callers_as_there_are_share_the_helpers() {
    let decoders = Decoders::new(DecoderSettings {
        helpers: 2,
        ..settings()
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(decoded(&decoders, &png()), Ok(WHOLE));
                }
            });
        }
    });
    assert!(decoders.helpers().len() <= 2, "{:?}", decoders.helpers());
    assert_eq!(decoders.deaths(), 0);
}

/// Which reader took a JPEG is counted, and the own one can be switched off.
#[test]
fn jpegs_are_counted_by_what_read_them() {
    let (large, small) = (
        encoded(700, image::ImageFormat::Jpeg),
        encoded(40, image::ImageFormat::Jpeg),
    );
    let counted = |own_jpeg_reader| {
        let mut settings = settings();
        settings.limits.own_jpeg_reader = own_jpeg_reader;
        let decoders = Decoders::new(settings);
        for file in [&large, &small, &large, &progressive_jpeg(48), &png()] {
            assert!(decoded(&decoders, file).is_ok());
        }
        let counted = decoders.take_jpegs();
        assert_eq!(decoders.take_jpegs(), JpegsDecoded::default());
        counted
    };
    let all = JpegsDecoded {
        own: 2,
        libjpeg_turbo: 1,
        helper: 1,
    };
    assert_eq!(counted(true), all);
    let without = JpegsDecoded {
        own: 0,
        libjpeg_turbo: 3,
        helper: 1,
    };
    assert_eq!(counted(false), without);
}

/// A JPEG that is cut, as tests/fixtures/photographs has it.
fn cut() -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(root.join("tests/fixtures/photographs/jpeg-cut")).unwrap()
}

#[test]
fn damaged_pictures_are_refused_or_accepted_and_counted() {
    let strict = Decoders::new(settings());
    let error = decoded(&strict, &cut()).unwrap_err();
    assert_eq!(error.fault(), DecodeFault::Damaged, "{error}");
    assert!(error.to_string().contains("decode.damaged"), "{error}");
    assert_eq!(strict.take_damaged(), 0);

    let mut tolerant = settings();
    tolerant.limits.max_damaged_percent = 90;
    let tolerant = Decoders::new(tolerant);
    for _ in 0..2 {
        assert!(decoded(&tolerant, &cut()).is_ok());
    }
    assert_eq!(decoded(&tolerant, &png()), Ok(WHOLE));
    assert_eq!(tolerant.take_damaged(), 2);
    assert_eq!(tolerant.take_damaged(), 0);
    assert_eq!(tolerant.deaths(), 0);
}
