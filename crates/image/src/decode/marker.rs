//! Marker codes: the byte after X'FF' (T.81, table B.1).

/// For temporary use in arithmetic coding; stands alone, without a segment.
pub(super) const TEM: u8 = 0x01;
/// Start of a baseline frame.
pub(super) const SOF0: u8 = 0xc0;
/// Start of an extended sequential frame, Huffman-coded.
pub(super) const SOF1: u8 = 0xc1;
/// Start of a progressive frame, Huffman-coded.
pub(super) const SOF2: u8 = 0xc2;
/// Start of a frame, lossless.
pub(super) const SOF3: u8 = 0xc3;
/// Huffman tables.
pub(super) const DHT: u8 = 0xc4;
/// Start of a differential sequential frame, Huffman-coded: the first of those that need another
/// frame.
pub(super) const SOF5: u8 = 0xc5;
/// Start of a differential progressive frame, Huffman-coded.
pub(super) const SOF6: u8 = 0xc6;
/// Start of a differential lossless frame, Huffman-coded.
pub(super) const SOF7: u8 = 0xc7;
/// Reserved for extensions, among the codes of frames.
pub(super) const JPG: u8 = 0xc8;
/// Start of an extended sequential frame, arithmetic-coded.
pub(super) const SOF9: u8 = 0xc9;
/// Start of a progressive frame, arithmetic-coded.
pub(super) const SOF10: u8 = 0xca;
/// Arithmetic coding conditions.
pub(super) const DAC: u8 = 0xcc;
/// Start of a lossless frame, arithmetic-coded.
pub(super) const SOF11: u8 = 0xcb;
/// Start of a differential sequential frame, arithmetic-coded.
pub(super) const SOF13: u8 = 0xcd;
/// Start of a differential progressive frame, arithmetic-coded.
pub(super) const SOF14: u8 = 0xce;
/// The last code of a frame.
pub(super) const SOF15: u8 = 0xcf;
/// The first of the eight restart markers, which stand alone.
pub(super) const RST0: u8 = 0xd0;
/// The last of the restart markers.
pub(super) const RST7: u8 = 0xd7;
/// Start of image; stands alone.
pub(super) const SOI: u8 = 0xd8;
/// End of image; stands alone.
pub(super) const EOI: u8 = 0xd9;
/// Start of a scan.
pub(super) const SOS: u8 = 0xda;
/// Quantization tables.
pub(super) const DQT: u8 = 0xdb;
/// Restart interval.
pub(super) const DRI: u8 = 0xdd;
/// The first of the sixteen application segments.
pub(super) const APP0: u8 = 0xe0;
/// The application segment that EXIF is in.
pub(super) const APP1: u8 = 0xe1;
/// The application segment that says which colours Adobe's programs wrote.
pub(super) const APP14: u8 = 0xee;
/// The last of the application segments.
pub(super) const APP15: u8 = 0xef;
/// Start of a frame of JPEG-LS (T.87).
pub(super) const SOF55: u8 = 0xf7;
/// Comment.
pub(super) const COM: u8 = 0xfe;
