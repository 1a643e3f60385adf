//! rav1d, as Rerun keeps it: the only calls of it. It gets the data of one picture, whose size own
//! code has read, and one thread, which is the caller's.

use super::super::size::ImageSize;
use super::coded::{Chroma, Coded};
use super::fault::Fault;
use re_rav1d::include::dav1d::data::Dav1dData;
use re_rav1d::include::dav1d::dav1d::{Dav1dContext, Dav1dLogger, Dav1dSettings};
use re_rav1d::include::dav1d::headers::{
    DAV1D_PIXEL_LAYOUT_I400, DAV1D_PIXEL_LAYOUT_I420, DAV1D_PIXEL_LAYOUT_I422, Dav1dSequenceHeader,
};
use re_rav1d::include::dav1d::picture::Dav1dPicture;
use re_rav1d::src::lib as sys;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Reads the first header of coded data.
///
/// # Errors
/// If there is none.
pub(super) fn coded_of(data: &[u8]) -> Result<Coded, Fault> {
    const NONE: Fault = Fault::Damaged("its coded data have no header");
    let first = data.first().ok_or(NONE)?;
    let mut header = MaybeUninit::<Dav1dSequenceHeader>::uninit();
    // SAFETY: the data are a slice that is only read; the header is written as a whole if the
    // result says so.
    let result = unsafe {
        sys::dav1d_parse_sequence_header(
            NonNull::new(header.as_mut_ptr()),
            Some(NonNull::from(first)),
            data.len(),
        )
    };
    if result.0 != 0 {
        return Err(NONE);
    }
    // SAFETY: it was written.
    let header = unsafe { header.assume_init() };
    let side = |side: c_int| u32::try_from(side).map_err(|_| NONE);
    Ok(Coded {
        size: ImageSize {
            width: side(header.max_width)?,
            height: side(header.max_height)?,
        },
        bits: 8 + 2 * header.hbd,
        chroma: match header.layout {
            DAV1D_PIXEL_LAYOUT_I400 => Chroma::None,
            DAV1D_PIXEL_LAYOUT_I420 => Chroma::Quarter,
            DAV1D_PIXEL_LAYOUT_I422 => Chroma::Half,
            _ => Chroma::Full,
        },
        matrix: header.mtrx as u16,
        full_range: header.color_range != 0,
    })
}

/// The planes of a decoded picture.
pub(super) struct Planes {
    picture: Dav1dPicture,
    pub coded: Coded,
}

impl Planes {
    /// Decodes the first picture.
    ///
    /// # Errors
    /// If the data are not what their header says.
    pub(super) fn decode(data: &[u8], coded: Coded) -> Result<Self, Fault> {
        let decoder = Decoder::open(coded.size)?;
        let mut left = Data::copy(data)?;
        let picture = loop {
            if !left.is_empty() {
                check(left.send(&decoder))?;
            }
            let mut picture = Dav1dPicture::default();
            // SAFETY: the decoder is open, and the picture a value of its own.
            let out = Some(NonNull::from(&mut picture));
            let result = unsafe { sys::dav1d_get_picture(decoder.context, out) };
            match result.0 {
                0 => break picture,
                AGAIN if !left.is_empty() => {}
                AGAIN => return Err(Fault::Damaged("its coded data end before the picture does")),
                _ => check(result.0)?,
            }
        };
        let planes = Planes { picture, coded };
        let same = |side: c_int, declared: u32| u32::try_from(side) == Ok(declared);
        let p = &planes.picture.p;
        if !same(p.w, coded.size.width)
            || !same(p.h, coded.size.height)
            || p.bpc != c_int::from(coded.bits)
        {
            return Err(Fault::Damaged(
                "its coded picture is not what its header says",
            ));
        }
        Ok(planes)
    }

    /// Copies `row` of a plane, which has at least as many samples as `out`.
    pub(super) fn copy_row(&self, plane: usize, row: usize, out: &mut [u16]) {
        let (shift_x, shift_y) = match plane {
            0 => (0, 0),
            _ => self.coded.chroma.shifts(),
        };
        let side = |side: u32, shift: u32| side.div_ceil(1 << shift) as usize;
        let columns = side(self.coded.size.width, shift_x);
        let rows = side(self.coded.size.height, shift_y);
        assert!(
            row < rows && out.len() <= columns,
            "the sample lies outside of the plane"
        );
        let start = self.picture.data[plane].expect("a picture of this layout has this plane");
        let stride = self.picture.stride[usize::from(plane > 0)];
        if self.coded.bits > 8 {
            // SAFETY: the row is inside of the plane, as asserted, which is of two bytes a sample,
            // lives as long as the picture, and is written by nobody any more.
            let samples = unsafe {
                let first = start.as_ptr().cast::<u8>().offset(stride * row as isize);
                std::slice::from_raw_parts(first.cast::<u16>(), out.len())
            };
            out.copy_from_slice(samples);
        } else {
            // SAFETY: as above, with one byte a sample.
            let samples = unsafe {
                let first = start.as_ptr().cast::<u8>().offset(stride * row as isize);
                std::slice::from_raw_parts(first, out.len())
            };
            for (out, sample) in out.iter_mut().zip(samples) {
                *out = u16::from(*sample);
            }
        }
    }
}

impl Drop for Planes {
    fn drop(&mut self) {
        // SAFETY: the picture came from the library and is given back once.
        unsafe { sys::dav1d_picture_unref(Some(NonNull::from(&mut self.picture))) };
    }
}

/// An open decoder.
struct Decoder {
    context: Option<Dav1dContext>,
}

impl Decoder {
    fn open(size: ImageSize) -> Result<Self, Fault> {
        let mut settings = MaybeUninit::<Dav1dSettings>::uninit();
        // SAFETY: the defaults are written to memory that is there.
        let mut settings = unsafe {
            sys::dav1d_default_settings(NonNull::from(&mut settings).cast());
            settings.assume_init()
        };
        settings.n_threads = 1;
        settings.max_frame_delay = 1;
        settings.all_layers = 0;
        settings.frame_size_limit = size.width.saturating_mul(size.height);
        // SAFETY: nothing is called.
        settings.logger = unsafe { Dav1dLogger::new(None, None) };
        let mut context = None;
        // SAFETY: both are values that live until the call returns.
        let result = unsafe {
            sys::dav1d_open(
                Some(NonNull::from(&mut context)),
                Some(NonNull::from(&mut settings)),
            )
        };
        check(result.0)?;
        Ok(Decoder { context })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: it was opened and is closed once.
        unsafe { sys::dav1d_close(Some(NonNull::from(&mut self.context))) };
    }
}

/// Coded data that belong to the library.
struct Data(Dav1dData);

impl Data {
    fn copy(data: &[u8]) -> Result<Self, Fault> {
        let mut own = Data(Dav1dData::default());
        // SAFETY: the value is written to, and lives until it is given back.
        let room = unsafe { sys::dav1d_data_create(Some(NonNull::from(&mut own.0)), data.len()) };
        if room.is_null() {
            return Err(Fault::Memory);
        }
        // SAFETY: there is room for this many bytes, which nobody else knows of yet.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), room, data.len()) };
        Ok(own)
    }

    fn is_empty(&self) -> bool {
        self.0.sz == 0
    }

    /// Gives it to the decoder, which takes what it can.
    fn send(&mut self, decoder: &Decoder) -> c_int {
        // SAFETY: the decoder is open, and the data are a value of its own.
        let result =
            unsafe { sys::dav1d_send_data(decoder.context, Some(NonNull::from(&mut self.0))) };
        match result.0 {
            AGAIN => 0,
            other => other,
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // SAFETY: it came from the library and is given back once; of what was taken nothing is
        // left in it.
        unsafe { sys::dav1d_data_unref(Some(NonNull::from(&mut self.0))) };
    }
}

const AGAIN: c_int = -libc::EAGAIN;
const NO_MEMORY: c_int = -libc::ENOMEM;
const NOT_DONE: c_int = -libc::ENOPROTOOPT;

fn check(result: c_int) -> Result<(), Fault> {
    match result {
        0 => Ok(()),
        NO_MEMORY => Err(Fault::Memory),
        NOT_DONE => Err(Fault::Unsupported(
            "what its coded data use is not decoded".into(),
        )),
        _ => Err(Fault::Damaged("its coded data contradict themselves")),
    }
}
