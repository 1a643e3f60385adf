//! libde265: the only calls of it. It is looked for when the program runs, so that a program that
//! reads HEIC runs where it is not, and so that it is the system's, which keeps it up to date. It
//! gets the units of one picture, whose size own code has read, and one thread, which is the
//! caller's.

use super::super::coded::{Chroma, Coded};
use super::super::fault::Fault;
use super::Config;
use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// The library of the interface that is called here.
#[cfg(not(target_os = "macos"))]
const NAME: &str = "libde265.so.0";
#[cfg(target_os = "macos")]
const NAME: &str = "libde265.0.dylib";
/// Version 1.0.0, in the library's own way to write it.
const OLDEST: u32 = 0x0100_0000;

/// Its decoder, and its picture.
type Decoder = c_void;
type Image = c_void;

/// Its functions.
struct Library {
    new_decoder: unsafe extern "C" fn() -> *mut Decoder,
    free_decoder: unsafe extern "C" fn(*mut Decoder) -> c_int,
    set_parameter: unsafe extern "C" fn(*mut Decoder, c_int, c_int),
    push: unsafe extern "C" fn(*mut Decoder, *const c_void, c_int, i64, *mut c_void) -> c_int,
    flush: unsafe extern "C" fn(*mut Decoder) -> c_int,
    decode: unsafe extern "C" fn(*mut Decoder, *mut c_int) -> c_int,
    warning: unsafe extern "C" fn(*mut Decoder) -> c_int,
    picture: unsafe extern "C" fn(*mut Decoder) -> *const Image,
    width: unsafe extern "C" fn(*const Image, c_int) -> c_int,
    height: unsafe extern "C" fn(*const Image, c_int) -> c_int,
    bits: unsafe extern "C" fn(*const Image, c_int) -> c_int,
    chroma: unsafe extern "C" fn(*const Image) -> c_int,
    plane: unsafe extern "C" fn(*const Image, c_int, *mut c_int) -> *const u8,
    full_range: unsafe extern "C" fn(*const Image) -> c_int,
    matrix: unsafe extern "C" fn(*const Image) -> c_int,
    version: u32,
}

static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();

/// Loads it, once in a process: a helper does so before it gives up the right to open files.
fn library() -> Result<&'static Library, &'static String> {
    LIBRARY.get_or_init(load).as_ref()
}

/// The version of libde265 that decodes HEIC here.
///
/// # Errors
/// Why there is none, and what to do.
pub fn heic_library() -> Result<String, String> {
    let version = library()?.version.to_be_bytes();
    // Two digits of it in each byte.
    let [_, minor, patch, _] = version.map(|byte| (byte >> 4) * 10 + (byte & 15));
    Ok(format!("{}.{minor}.{patch}", version[0]))
}

fn load() -> Result<Library, String> {
    let beside = std::env::current_exe().ok();
    let bin = beside.as_deref().and_then(|program| program.parent());
    // As ONNX Runtime's: beside the program, where `make install` puts libraries, the system's.
    let places = bin.into_iter().flat_map(|bin| {
        let installed = bin.parent().map(|prefix| prefix.join("lib/tagstream"));
        std::iter::once(bin.to_owned()).chain(installed)
    });
    let found = places
        .map(|folder| folder.join(NAME))
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(NAME));
    let missing = |e: libloading::Error| {
        format!(
            "HEIC is decoded by libde265 (Debian's package libde265-0), which cannot be loaded \
             here: {e}"
        )
    };
    // SAFETY: a library that this system holds as libde265 does what its functions' names say.
    unsafe { libloading::Library::new(&found) }
        .and_then(|library| {
            // SAFETY: these are the types of de265.h, which have not changed since 1.0.
            let functions = unsafe { functions(&library) };
            // Its functions are kept for as long as the process runs.
            std::mem::forget(library);
            functions
        })
        .map_err(missing)
        .and_then(|library| match library.version {
            OLDEST.. => Ok(library),
            old => Err(format!("libde265 is of a version before 1.0 ({old:#010x})")),
        })
}

/// # Safety
/// The library's functions have these types.
unsafe fn functions(library: &libloading::Library) -> Result<Library, libloading::Error> {
    // SAFETY: as the caller says; the functions outlive the symbols, because it is kept.
    unsafe {
        let version: unsafe extern "C" fn() -> u32 = *library.get("de265_get_version_number")?;
        Ok(Library {
            new_decoder: *library.get("de265_new_decoder")?,
            free_decoder: *library.get("de265_free_decoder")?,
            set_parameter: *library.get("de265_set_parameter_bool")?,
            push: *library.get("de265_push_NAL")?,
            flush: *library.get("de265_flush_data")?,
            decode: *library.get("de265_decode")?,
            warning: *library.get("de265_get_warning")?,
            picture: *library.get("de265_peek_next_picture")?,
            width: *library.get("de265_get_image_width")?,
            height: *library.get("de265_get_image_height")?,
            bits: *library.get("de265_get_bits_per_pixel")?,
            chroma: *library.get("de265_get_chroma_format")?,
            plane: *library.get("de265_get_image_plane")?,
            full_range: *library.get("de265_get_image_full_range_flag")?,
            matrix: *library.get("de265_get_image_matrix_coefficients")?,
            version: version(),
        })
    }
}

/// The library's numbers for what may be wrong.
const OUT_OF_MEMORY: c_int = 7;
const NOT_DONE: c_int = 502;
/// Said of pictures that are sound: fewer threads than there could be, metadata.
const HARMLESS: [c_int; 3] = [1000, 1022, 1025];

const CONTRADICTS: Fault = Fault::Damaged("its coded data contradict themselves");

fn check(result: c_int) -> Result<(), Fault> {
    match result {
        0 => Ok(()),
        OUT_OF_MEMORY => Err(Fault::Memory),
        NOT_DONE => Err(Fault::Unsupported(
            "what its coded data use is not decoded".into(),
        )),
        harmless if HARMLESS.contains(&harmless) => Ok(()),
        _ => Err(CONTRADICTS),
    }
}

/// An open decoder.
struct Open {
    library: &'static Library,
    decoder: NonNull<Decoder>,
}

impl Open {
    fn new(library: &'static Library) -> Result<Self, Fault> {
        /// Whether checksums of pictures are looked at, and pictures with faults kept back.
        const STRICT: [c_int; 2] = [0, 6];
        // SAFETY: takes nothing.
        let decoder = NonNull::new(unsafe { (library.new_decoder)() }).ok_or(Fault::Memory)?;
        for parameter in STRICT {
            // SAFETY: the decoder is open.
            unsafe { (library.set_parameter)(decoder.as_ptr(), parameter, 1) };
        }
        Ok(Open { library, decoder })
    }

    /// Gives it a unit, of which it makes a copy.
    fn push(&mut self, unit: &[u8]) -> Result<(), Fault> {
        let length = c_int::try_from(unit.len()).map_err(|_| Fault::Memory)?;
        // SAFETY: the decoder is open, the unit a slice that is only read.
        check(unsafe {
            (self.library.push)(
                self.decoder.as_ptr(),
                unit.as_ptr().cast(),
                length,
                0,
                std::ptr::null_mut(),
            )
        })
    }

    /// Decodes until there is a picture.
    fn picture(&mut self) -> Result<NonNull<Image>, Fault> {
        let decoder = self.decoder.as_ptr();
        // SAFETY: the decoder is open.
        check(unsafe { (self.library.flush)(decoder) })?;
        loop {
            let mut more = 0;
            // SAFETY: the decoder is open; the number lives until the call returns.
            check(unsafe { (self.library.decode)(decoder, &mut more) })?;
            loop {
                // SAFETY: the decoder is open.
                match unsafe { (self.library.warning)(decoder) } {
                    0 => break,
                    warning => check(warning)?,
                }
            }
            // SAFETY: the decoder is open.
            let picture = NonNull::new(unsafe { (self.library.picture)(decoder) }.cast_mut());
            match picture {
                Some(picture) => return Ok(picture),
                None if more == 0 => {
                    return Err(Fault::Damaged("its coded data end before the picture does"));
                }
                None => {}
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: it was opened and is closed once.
        unsafe { (self.library.free_decoder)(self.decoder.as_ptr()) };
    }
}

/// The planes of a decoded picture, row after row; of one byte a sample, or of two.
pub(in super::super) struct Planes {
    planes: Vec<Vec<u8>>,
    pub coded: Coded,
}

impl Planes {
    /// Decodes the picture.
    ///
    /// # Errors
    /// If the data are not what their header says, or there is no library.
    pub(in super::super) fn decode(data: &[u8], config: &Config<'_>) -> Result<Self, Fault> {
        let library = library().map_err(|reason| Fault::Unsupported(reason.clone()))?;
        let mut open = Open::new(library)?;
        for unit in config.headers.iter().copied().chain(config.units(data)?) {
            open.push(unit)?;
        }
        let picture = open.picture()?.as_ptr().cast_const();
        let mut coded = config.coded;
        let count = if coded.chroma == Chroma::None { 1 } else { 3 };
        // SAFETY: the picture is the decoder's, which is open.
        let chroma = unsafe { (library.chroma)(picture) };
        if chroma != number_of(coded.chroma) {
            return Err(CONTRADICTS);
        }
        let mut planes = Vec::with_capacity(count as usize);
        for plane in 0..count {
            planes.push(copy(library, picture, plane, &coded)?);
        }
        // SAFETY: as above.
        unsafe {
            coded.full_range = (library.full_range)(picture) != 0;
            coded.matrix = (library.matrix)(picture) as u16;
        }
        Ok(Planes { planes, coded })
    }

    /// Copies `row` of a plane, which has at least as many samples as `out`.
    pub(in super::super) fn copy_row(&self, plane: usize, row: usize, out: &mut [u16]) {
        let (columns, _) = sides(&self.coded, plane);
        let samples = self.coded.sample_bytes() as usize;
        let bytes = &self.planes[plane][row * columns * samples..][..out.len() * samples];
        match self.coded.bits {
            8 => (out.iter_mut().zip(bytes)).for_each(|(out, byte)| *out = u16::from(*byte)),
            _ => {
                for (out, both) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = u16::from_ne_bytes(*both);
                }
            }
        }
    }
}

/// Columns and rows of a plane.
fn sides(coded: &Coded, plane: usize) -> (usize, usize) {
    let (x, y) = match plane {
        0 => (0, 0),
        _ => coded.chroma.shifts(),
    };
    let side = |side: u32, shift: u32| side.div_ceil(1 << shift) as usize;
    (side(coded.size.width, x), side(coded.size.height, y))
}

/// Copies a plane that is as large as its header says.
fn copy(
    library: &Library,
    picture: *const Image,
    plane: c_int,
    coded: &Coded,
) -> Result<Vec<u8>, Fault> {
    let (columns, rows) = sides(coded, plane as usize);
    let mut stride = 0;
    // SAFETY: the picture is that of an open decoder.
    let (width, height, bits, start) = unsafe {
        (
            (library.width)(picture, plane),
            (library.height)(picture, plane),
            (library.bits)(picture, plane),
            (library.plane)(picture, plane, &mut stride),
        )
    };
    let length = columns * coded.sample_bytes() as usize;
    let is = |said: c_int, side: usize| usize::try_from(said) == Ok(side);
    if !is(width, columns)
        || !is(height, rows)
        || bits != c_int::from(coded.bits)
        || start.is_null()
        || usize::try_from(stride).is_ok_and(|stride| stride < length)
    {
        return Err(Fault::Damaged(
            "its coded picture is not what its header says",
        ));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length * rows)
        .map_err(|_| Fault::Memory)?;
    for row in 0..rows {
        // SAFETY: the plane has this many rows, `stride` bytes apart, and as many samples in each,
        // of one byte up to 8 bits and of two above; nobody writes to them any more.
        let row = unsafe {
            let start = start.offset(stride as isize * row as isize);
            std::slice::from_raw_parts(start, length)
        };
        bytes.extend_from_slice(row);
    }
    Ok(bytes)
}

fn number_of(chroma: Chroma) -> c_int {
    match chroma {
        Chroma::None => 0,
        Chroma::Quarter => 1,
        Chroma::Half => 2,
        Chroma::Full => 3,
    }
}
