//! Headers of HEVC that contradict themselves.

use super::*;

fn fixture() -> Vec<u8> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    std::fs::read(format!("{root}/tests/fixtures/photographs/heic")).unwrap()
}

/// The property `hvcC` of a file.
fn record(file: &[u8]) -> Vec<u8> {
    let at = file.windows(4).position(|four| four == b"hvcC").unwrap();
    let length = u32::from_be_bytes(*file[at - 4..].first_chunk().unwrap()) as usize;
    file[at + 4..at - 4 + length].to_vec()
}

#[test]
fn the_header_says_size_bits_and_colours_before_anything_is_decoded() {
    let record = record(&fixture());
    let config = Config::of(&record).unwrap();
    let coded = config.coded;
    assert_eq!((coded.size.width, coded.size.height), (64, 64));
    assert_eq!((coded.bits, coded.chroma), (8, Chroma::Quarter));
    // Planes twice, of sides that are rounded up, and tables.
    assert_eq!(config.working_bytes(), 2 * 128 * 128 * 3 / 2 + 4 * 64 * 64);
}

#[test]
fn headers_that_are_cut_or_changed_are_faults() {
    let whole = record(&fixture());
    for length in 0..whole.len() {
        assert!(Config::of(&whole[..length]).is_err(), "{length}");
    }
    for offset in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[offset] ^= 1 << bit;
            if let Ok(config) = Config::of(&changed) {
                assert!(config.coded.size.width > 0 && config.coded.bits <= 12);
            }
        }
    }
}

#[test]
fn data_is_cut_into_units_of_the_picture_itself() {
    let record = record(&fixture());
    let config = Config::of(&record).unwrap();
    let unit = |kind: u8, layer: u8| [0, 0, 0, 3, kind << 1, layer << 3, 7];
    // A picture, a header that the property does not have, another layer.
    let data = [unit(19, 0), unit(33, 0), unit(19, 1)].concat();
    assert_eq!(config.units(&data).unwrap(), [&[38, 0, 7][..]]);
    assert!(config.units(&data[..data.len() - 1]).is_err());
}
