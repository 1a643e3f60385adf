//! What is not read is named, whatever it is called and whatever stands before it.

use super::super::{DecodeError, DecodeFault, refusal_by_first_bytes};

fn said(bytes: &[u8]) -> String {
    match refusal_by_first_bytes(bytes) {
        Some(error) => {
            assert_eq!(error.fault(), DecodeFault::Unsupported, "{error}");
            error.to_string()
        }
        None => "read".into(),
    }
}

fn brands(major: &[u8; 4], others: &[&[u8; 4]]) -> Vec<u8> {
    let mut file = (16 + 4 * others.len() as u32).to_be_bytes().to_vec();
    file.extend(b"ftyp");
    file.extend(major);
    file.extend([0; 4]);
    others.iter().for_each(|brand| file.extend(*brand));
    file
}

#[test]
fn every_file_that_is_no_picture_here_has_a_name() {
    let mut dicom = vec![0; 128];
    dicom.extend(b"DICM");
    let mut targa = vec![0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 28, 0, 24, 0x20];
    targa.extend([7; 90]);
    let grey = [
        &[0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 28, 0, 8, 0][..],
        &[3; 60],
    ]
    .concat();
    let mut old = b"any bytes".to_vec();
    old.extend(b"TRUEVISION-XFILE.\0");
    let wide: Vec<u8> = "\u{feff}<?xml version='1.0'?><svg/>"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let files: Vec<(Vec<u8>, &str)> = vec![
        (b"\0\0\0\x0cjP  \r\n\x87\n".to_vec(), "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f".to_vec(), "JPEG 2000"),
        (b"8BPS\0\x01".to_vec(), "PSD"),
        (b"8BPS\0\x02".to_vec(), "PSD"),
        (b"\0\0\x01\0\x01\0".to_vec(), "ICO"),
        (b"II\xbc\x01".to_vec(), "JPEG XR"),
        (b"IIU\0\x18\0\0\0".to_vec(), "RW2"),
        (b"FUJIFILMCCD-RAW 0201".to_vec(), "RAF"),
        (brands(b"crx ", &[b"isom"]), "CR3"),
        (brands(b"avci", &[b"mif1"]), "HEIF with pictures in H.264"),
        (
            brands(b"mif1", &[b"mif1", b"j2ki"]),
            "HEIF with pictures in JPEG 2000",
        ),
        (brands(b"isom", &[b"mp42"]), "a video"),
        (brands(b"qt  ", &[]), "a video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat".to_vec(), "a video"),
        (b"\xff\xd8\xff\xf7\0\x0b".to_vec(), "JPEG-LS"),
        (b"II*\0\x10\0\0\0CR\x02\0".to_vec(), "CR2"),
        (b"P6\n40 28\n255\n".to_vec(), "PNM"),
        (b"\x0a\x05\x01\x08".to_vec(), "PCX"),
        (dicom, "DICOM"),
        (targa, "TGA"),
        (grey, "TGA"),
        (old, "TGA"),
        (b"%PDF-1.7".to_vec(), "PDF"),
        (b"  \n<svg xmlns='x'/>".to_vec(), "SVG"),
        (b"<!-- drawn -->\n<svg/>".to_vec(), "SVG"),
        (wide, "SVG"),
        (
            b"<?xml version='1.0'?><Error><Code>x".to_vec(),
            "an error of an object store",
        ),
        (b"<!DOCTYPE html>".to_vec(), "HTML"),
        (b"{\"error\":1}".to_vec(), "JSON"),
        (
            b"version https://git-lfs.github.com/spec/v1".to_vec(),
            "Git LFS",
        ),
        (b"/9j/4AAQSkZJRg".to_vec(), "Base64"),
        (b"any bytes".to_vec(), "no file known here"),
    ];
    for (file, name) in files {
        let said = said(&file);
        assert!(said.contains(name), "{name}: {said}");
    }
}

#[test]
fn heif_and_jpeg_xl_are_told_by_brands_and_named_by_the_feature_that_reads_them() {
    let heic = [
        brands(b"heic", &[b"mif1", b"heic"]),
        brands(b"mif1", &[b"mif1", b"heic"]),
        brands(b"mif1", &[b"mif1"]),
        brands(b"msf1", &[b"msf1", b"hevc"]),
        brands(b"hevc", &[b"msf1", b"mif1"]),
        brands(b"heix", &[b"mif1"]),
    ];
    let jxl = [
        b"\xff\x0a\xfa\x7f".to_vec(),
        b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftyp".to_vec(),
    ];
    let all = heic
        .iter()
        .map(|file| (file, cfg!(feature = "heic"), "HEIC", "heic"));
    let all = all.chain(
        jxl.iter()
            .map(|file| (file, cfg!(feature = "jpeg-xl"), "JXL", "jpeg-xl")),
    );
    for (file, is_read, name, feature) in all {
        let said = said(file);
        let expected = match is_read {
            true => said == "read",
            false => said.contains(name) && said.contains(&format!("`{feature}`")),
        };
        assert!(expected, "{name}: {said}");
    }
    // AVIF that says so by its items alone.
    let mut avif = brands(b"mif1", &[b"mif1", b"miaf"]);
    avif.extend(b"\0\0\0\x20meta av01");
    assert_eq!(said(&avif), "read");
}

#[test]
fn what_is_read_is_said_and_nothing_that_this_build_lacks() {
    let Some(error @ DecodeError::UnknownFormat { .. }) = refusal_by_first_bytes(b"any") else {
        panic!("it is no picture");
    };
    let said = error.to_string();
    assert!(said.contains("AVIF"), "{said}");
    assert_eq!(said.contains("HEIC"), cfg!(feature = "heic"), "{said}");
    assert_eq!(
        said.contains("JPEG XL"),
        cfg!(feature = "jpeg-xl"),
        "{said}"
    );
}
