//! Small pictures, whole and broken.

use std::io::Cursor;

/// A picture of `side` x `side` pixels without any symmetry.
pub(crate) fn encoded(side: u32, format: image::ImageFormat) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(side, side, |x, y| {
        image::Rgb([(x * 5) as u8, (y * 3) as u8, (x * y) as u8])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A progressive JPEG.
pub(crate) fn progressive_jpeg(side: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..side * side * 3).map(|i| (i * 7 % 251) as u8).collect();
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(true).unwrap();
    compressor
        .compress_to_vec(turbojpeg::Image {
            pixels: &pixels[..],
            width: side,
            pitch: side * 3,
            height: side,
            format: turbojpeg::PixelFormat::RGB,
        })
        .unwrap()
}

/// A progressive JPEG whose last scan is repeated `times` times: much work for few bytes.
pub(crate) fn scan_bomb(times: usize) -> Vec<u8> {
    let whole = progressive_jpeg(64);
    let last = whole.windows(2).rposition(|w| w == [0xff, 0xda]).unwrap();
    let end = whole.len() - 2;
    let mut bomb = whole[..end].to_vec();
    for _ in 0..times {
        bomb.extend_from_slice(&whole[last..end]);
    }
    bomb.extend_from_slice(&[0xff, 0xd9]);
    bomb
}

/// `jpeg` with another size in its frame header.
pub(crate) fn jpeg_declaring(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = encoded(16, image::ImageFormat::Jpeg);
    let frame = bytes
        .windows(2)
        .position(|w| w == [0xff, 0xc0])
        .expect("a baseline frame");
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// A PNG whose header declares another size, with a correct checksum.
pub(crate) fn png_declaring(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(16, image::ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

/// A GIF whose screen and frame declare another size.
pub(crate) fn gif_declaring(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = encoded(16, image::ImageFormat::Gif);
    bytes[6..8].copy_from_slice(&width.to_le_bytes());
    bytes[8..10].copy_from_slice(&height.to_le_bytes());
    let frame = bytes
        .windows(9)
        .position(|w| w == [0x2c, 0, 0, 0, 0, 16, 0, 16, 0])
        .expect("a frame");
    bytes[frame + 5..frame + 7].copy_from_slice(&width.to_le_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&height.to_le_bytes());
    bytes
}

/// A BMP whose header declares another size.
pub(crate) fn bmp_declaring(width: i32, height: i32) -> Vec<u8> {
    let mut bytes = encoded(16, image::ImageFormat::Bmp);
    bytes[18..22].copy_from_slice(&width.to_le_bytes());
    bytes[22..26].copy_from_slice(&height.to_le_bytes());
    bytes
}
