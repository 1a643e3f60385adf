//! One coded picture: what its headers say, and its planes.

use super::coded::{Codec, Coded};
use super::fault::Fault;
use super::{av1, hevc};
use std::borrow::Cow;

/// What decoding an AV1 picture takes beside its planes and for its time: tables of its blocks,
/// filters.
const AV1_WORKING_BYTES: u64 = 1;
/// And whatever its size: tables, and the decoder's own pages, which it touches then.
const AV1_FIXED_BYTES: u64 = 2 << 20;

/// A picture with its coded data, whose headers were read.
pub(super) struct Part<'a> {
    data: Cow<'a, [u8]>,
    pub coded: Coded,
    /// Of HEVC alone.
    config: Option<hevc::Config<'a>>,
}

impl<'a> Part<'a> {
    /// Reads its headers, which lie in its data, or in `config`, its property `hvcC`.
    ///
    /// # Errors
    /// If they contradict themselves.
    pub(super) fn of(
        codec: Codec,
        data: Cow<'a, [u8]>,
        config: Option<&'a [u8]>,
    ) -> Result<Self, Fault> {
        const NONE: Fault = Fault::Damaged("it does not say how its picture is coded (hvcC)");
        let config = match codec {
            Codec::Av1 => None,
            Codec::Hevc => Some(hevc::Config::of(config.ok_or(NONE)?)?),
        };
        let coded = match &config {
            Some(config) => config.coded,
            None => av1::coded_of(&data)?,
        };
        Ok(Part {
            data,
            coded,
            config,
        })
    }

    /// Its planes, and data that had to be joined.
    pub(super) fn bytes(&self) -> u64 {
        self.coded.bytes() + self.data.len() as u64
    }

    /// What decoding takes beside that and for its time.
    pub(super) fn working_bytes(&self) -> u64 {
        let size = self.coded.size;
        let pixels = u64::from(size.width) * u64::from(size.height);
        match &self.config {
            Some(config) => config.working_bytes(),
            None => AV1_FIXED_BYTES + AV1_WORKING_BYTES * self.coded.sample_bytes() * pixels,
        }
    }

    /// # Errors
    /// If the data are not what their header says.
    pub(super) fn decode(&self) -> Result<Planes, Fault> {
        match &self.config {
            Some(config) => hevc::Planes::decode(&self.data, config).map(Planes::Hevc),
            None => av1::Planes::decode(&self.data, self.coded).map(Planes::Av1),
        }
    }
}

/// A decoded picture.
pub(super) enum Planes {
    Av1(av1::Planes),
    Hevc(hevc::Planes),
}

impl Planes {
    /// What is known of it now.
    pub(super) fn coded(&self) -> Coded {
        match self {
            Planes::Av1(planes) => planes.coded,
            Planes::Hevc(planes) => planes.coded,
        }
    }

    /// Copies `row` of a plane, which has at least as many samples as `out`.
    pub(super) fn copy_row(&self, plane: usize, row: usize, out: &mut [u16]) {
        match self {
            Planes::Av1(planes) => planes.copy_row(plane, row, out),
            Planes::Hevc(planes) => planes.copy_row(plane, row, out),
        }
    }
}
