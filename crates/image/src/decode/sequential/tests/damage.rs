//! Files that are cut short, damaged, or written in an unusual way.

use super::*;

/// The file is Pillow's: libjpeg-turbo's interface for compression cannot write restart markers.
#[test]
fn a_wrong_or_missing_restart_marker_is_noticed() {
    let size = (181, 131);
    let whole = include_bytes!("../../../../../../tests/fixtures/decode/jpeg-reduced-restarts.jpg");
    let mut reader = Reader::default();
    let first = read(&mut reader, whole, &full_size(size)).unwrap();
    let (mean, largest) = difference(&first, &by_turbo(whole));
    assert!(mean < 0.55 && largest <= 4, "{mean}, {largest}");
    let markers: Vec<usize> = (0..whole.len() - 1)
        .filter(|&at| whole[at] == 0xff && (0xd0..0xd8).contains(&whole[at + 1]))
        .collect();
    assert!(markers.len() > 8);
    for at in markers {
        let mut wrong = whole.to_vec();
        wrong[at + 1] ^= 1;
        assert_eq!(
            read(&mut reader, &wrong, &full_size(size)),
            Err(Unfit),
            "the wrong one at {at}"
        );
        let mut missing = whole.to_vec();
        missing.drain(at..at + 2);
        assert_eq!(
            read(&mut reader, &missing, &full_size(size)),
            Err(Unfit),
            "none at {at}"
        );
    }
}

#[test]
fn files_cut_short_or_with_more_data_than_pixels_are_unfit() {
    let size = (130, 90);
    let bytes = compressed(&Setting {
        size,
        subsampling: Subsamp::Sub2x2,
        quality: 90,
        optimised: false,
    });
    let mut reader = Reader::default();
    for cut in 0..bytes.len() {
        assert_eq!(
            read(&mut reader, &bytes[..cut], &full_size(size)),
            Err(Unfit),
            "cut to {cut}"
        );
    }
    let mut longer = bytes.clone();
    longer.splice(bytes.len() - 2..bytes.len() - 2, [0x12, 0x34]);
    assert_eq!(read(&mut reader, &longer, &full_size(size)), Err(Unfit));
    let mut followed = bytes.clone();
    followed.extend_from_slice(b"something after the end");
    assert_eq!(
        read(&mut reader, &followed, &full_size(size)),
        read(&mut reader, &bytes, &full_size(size))
    );
}

/// What is read from a damaged file without an error must be what libjpeg-turbo reads without a
/// warning.
#[test]
fn damage_that_libjpeg_turbo_notices_is_noticed() {
    let size = (130, 90);
    let mut reader = Reader::default();
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let (mut refused, mut accepted) = (0, 0);
    for subsampling in SUBSAMPLINGS {
        let whole = compressed(&Setting {
            size,
            subsampling,
            quality: 85,
            optimised: subsampling == Subsamp::None,
        });
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..1 + noise.next() % 3 {
                let at = noise.next() as usize % bytes.len();
                bytes[at] = match noise.next() % 3 {
                    0 => bytes[at] ^ 1 << (noise.next() % 8),
                    1 => 0xff,
                    _ => noise.next() as u8,
                };
            }
            let mut decompressor = Decompressor::new().unwrap();
            // As in production, libjpeg-turbo reads the header first, and only what it calls YCbCr
            // or grey is read here.
            let Ok(header) = decompressor.read_header(&bytes) else {
                continue;
            };
            if !matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray)
                || read(&mut reader, &bytes, &full_size(size)).is_err()
            {
                refused += 1;
                continue;
            }
            accepted += 1;
            let mut pixels = vec![0; header.width * header.height * 3];
            let image = Image {
                pixels: &mut pixels[..],
                width: header.width,
                pitch: header.width * 3,
                height: header.height,
                format: PixelFormat::RGB,
            };
            if let Err(error) = decompressor.decompress(&bytes, image) {
                panic!("libjpeg-turbo notices what was not noticed: {error}");
            }
        }
    }
    assert!(
        refused > 100 && accepted > 100,
        "{refused} refused, {accepted} accepted"
    );
}

#[test]
fn tables_of_the_file_before_are_not_used() {
    let size = (60, 50);
    let files: Vec<Vec<u8>> = [(30, true), (95, true), (95, false), (60, true)]
        .map(|(quality, optimised)| {
            compressed(&Setting {
                size,
                subsampling: Subsamp::Sub2x2,
                quality,
                optimised,
            })
        })
        .into();
    let fresh: Vec<_> = files
        .iter()
        .map(|file| read(&mut Reader::default(), file, &full_size(size)).unwrap())
        .collect();
    let mut reader = Reader::default();
    for _ in 0..2 {
        for (file, expected) in files.iter().zip(&fresh) {
            assert_eq!(
                &read(&mut reader, file, &full_size(size)).unwrap(),
                expected
            );
        }
    }
}

/// A file with Huffman tables in which the last coefficient of a block follows a zero run of 15.
#[test]
fn a_block_ends_with_coefficient_63_wherever_the_one_before_it_was() {
    let segment = |code: u8, body: &[u8]| {
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&[0xff, code, length[0], length[1]][..], body].concat()
    };
    let table = |class: u8, codes: &[(usize, u8)]| {
        let mut body = vec![class << 4];
        body.extend((1..=16).map(|n| codes.iter().filter(|c| c.0 == n).count() as u8));
        body.extend(codes.iter().map(|c| c.1));
        segment(0xc4, &body)
    };
    // DC: 00 is of size 1, 01 of size 0. AC: 00 is a run of 15, 01 the end of the block, 1000000 a
    // run of 14.
    let header = [
        b"\xff\xd8".to_vec(),
        segment(0xdb, &[&[0][..], &[80; 64]].concat()),
        segment(0xc0, &[8, 0, 8, 0, 16, 1, 1, 0x11, 0]),
        table(0, &[(2, 1), (2, 0)]),
        table(1, &[(2, 0xf1), (2, 0x00), (7, 0xe1)]),
        segment(0xda, &[1, 1, 0, 0, 63, 0]),
    ]
    .concat();
    // Coefficients 15, 31, 47 and 63 of the first block, coefficient 16 of the second one.
    let bits = "01 10000001 001 001 001  01 001 01".replace(' ', "");
    let bits = format!("{bits:1<32}");
    let coded: Vec<u8> = (0..32)
        .step_by(8)
        .map(|at| u8::from_str_radix(&bits[at..at + 8], 2).unwrap())
        .collect();
    let file = [&header[..], &coded, b"\xff\xd9"].concat();
    let size = (16, 8);
    let ours = read(&mut Reader::default(), &file, &full_size(size)).unwrap();
    let (mean, largest) = difference(&ours, &by_turbo(&file));
    assert!(mean < 0.45 && largest <= 3, "{mean}, {largest}");
}
