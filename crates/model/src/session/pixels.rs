//! Memory that images are decoded into and that a session reads them from.
//!
//! A batch is one block, lent in pieces of one image each and joined again, never copied. For a GPU
//! the block is page-locked memory, from which the device copies by itself; anywhere else it is
//! ordinary memory.

use crate::runtime::Device;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{Shape, Tensor, TensorRef, TensorRefMut};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Once};
use std::{fmt, ptr, slice};

/// A block of memory, or the part of one that is lent: whoever has it is the only one who reads or
/// writes these bytes.
pub struct PixelBuffer {
    block: Arc<Block>,
    /// Which bytes of the block. Those of all buffers of a block are disjoint.
    range: Range<usize>,
}

struct Block {
    start: NonNull<u8>,
    bytes: usize,
    owner: Owner,
}

enum Owner {
    /// A boxed slice.
    Heap,
    /// A tensor from one of ONNX Runtime's allocators.
    Tensor(Tensor<u8>),
}

// SAFETY: a block is plain bytes that are reached only through `PixelBuffer`s, whose ranges are
// disjoint; its owner is not touched before the last of them is gone, and may then be dropped on
// any thread (ONNX Runtime's tensors are `Send`).
unsafe impl Send for Block {}
// SAFETY: as above; nothing can be done with a `&Block` alone.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        if let Owner::Heap = self.owner {
            let slice = ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.bytes);
            // SAFETY: this is the boxed slice that `PixelBuffer::zeroed` let go of, and nobody has
            // a part of it any more.
            drop(unsafe { Box::from_raw(slice) });
        }
    }
}

impl PixelBuffer {
    /// Ordinary memory, zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let slice = Box::into_raw(vec![0u8; bytes].into_boxed_slice());
        let start = NonNull::new(slice.cast::<u8>()).expect("a box is never null");
        Self::whole(start, bytes, Owner::Heap)
    }

    /// Zeros in memory of `allocator`, which must be one of memory that the host can reach.
    pub(super) fn allocated(allocator: &Allocator, bytes: usize) -> ort::Result<Self> {
        let mut tensor = Tensor::<u8>::new(allocator, [bytes])?;
        // Checks that the host can reach it, and that there are so many bytes.
        let (_, content) = tensor.try_extract_tensor_mut::<u8>()?;
        content.fill(0);
        let start = NonNull::from(content).cast::<u8>();
        Ok(Self::whole(start, bytes, Owner::Tensor(tensor)))
    }

    fn whole(start: NonNull<u8>, bytes: usize, owner: Owner) -> Self {
        PixelBuffer {
            block: Arc::new(Block {
                start,
                bytes,
                owner,
            }),
            range: 0..bytes,
        }
    }

    /// Takes the first `bytes` away, as a buffer of their own.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, bytes: usize) -> PixelBuffer {
        assert!(bytes <= self.range.len(), "{bytes} of {:?}", self.range);
        let middle = self.range.start + bytes;
        let first = self.range.start..middle;
        self.range.start = middle;
        PixelBuffer {
            block: Arc::clone(&self.block),
            range: first,
        }
    }

    /// Adds the part of the same block that follows this one.
    ///
    /// # Panics
    /// If `next` is another.
    pub fn unsplit(&mut self, next: PixelBuffer) {
        assert!(
            Arc::ptr_eq(&self.block, &next.block) && self.range.end == next.range.start,
            "pieces are joined in the order in which they were cut"
        );
        self.range.end = next.range.end;
    }

    /// Some of its images, for a session to read.
    pub fn part(&self, range: Range<usize>) -> Pixels<'_> {
        Pixels {
            bytes: &self[range],
            memory: match &self.block.owner {
                Owner::Heap => None,
                Owner::Tensor(tensor) => Some(tensor.memory_info()),
            },
        }
    }
}

impl Deref for PixelBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies inside the block, all of whose bytes were written when it was
        // made; nobody else has these bytes, and `self` is borrowed for as long as the slice is.
        unsafe {
            slice::from_raw_parts(
                self.block.start.add(self.range.start).as_ptr(),
                self.range.len(),
            )
        }
    }
}

impl DerefMut for PixelBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe {
            slice::from_raw_parts_mut(
                self.block.start.add(self.range.start).as_ptr(),
                self.range.len(),
            )
        }
    }
}

impl fmt::Debug for PixelBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.block.owner {
            Owner::Heap => "heap",
            Owner::Tensor(_) => "allocator",
        };
        write!(f, "PixelBuffer({kind}, {:?})", self.range)
    }
}

/// Images in host memory, with what ONNX Runtime must know of that memory.
#[derive(Clone, Copy)]
pub struct Pixels<'a> {
    bytes: &'a [u8],
    /// `None`: ordinary memory.
    memory: Option<&'a MemoryInfo<'a>>,
}

impl Pixels<'_> {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether they lie in page-locked memory.
    pub fn are_pinned(&self) -> bool {
        let pinned =
            |memory: &MemoryInfo<'_>| memory.allocation_device() == AllocationDevice::CUDA_PINNED;
        self.memory.is_some_and(pinned)
    }

    /// A copy of them as a tensor of its own.
    pub(super) fn copied(&self, shape: [usize; 4]) -> ort::Result<Tensor<u8>> {
        Tensor::from_array((shape, self.bytes.to_vec()))
    }

    /// As a tensor for a session to read. `shape` must have as many elements as there are bytes.
    pub(super) fn tensor(&self, shape: [usize; 4]) -> ort::Result<TensorRef<'_, u8>> {
        let Some(memory) = self.memory else {
            return TensorRef::from_array_view((shape, self.bytes));
        };
        assert_eq!(shape.iter().product::<usize>(), self.bytes.len());
        let shape = Shape::new(shape.map(|d| d as i64));
        let data = self.bytes.as_ptr().cast_mut().cast();
        // SAFETY: the bytes lie in a tensor of this very memory, there are as many as the shape
        // says, and they stay borrowed as long as the result. Inputs are only read, which is what a
        // `TensorRef` allows.
        let tensor = unsafe { TensorRefMut::from_raw(memory.clone(), data, shape)? };
        Ok(tensor.into())
    }
}

impl<'a> From<&'a [u8]> for Pixels<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Pixels {
            bytes,
            memory: None,
        }
    }
}

impl<'a> From<&'a Vec<u8>> for Pixels<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        bytes.as_slice().into()
    }
}

impl<'a> From<&'a PixelBuffer> for Pixels<'a> {
    fn from(buffer: &'a PixelBuffer) -> Self {
        buffer.part(0..buffer.len())
    }
}

/// Where the host keeps what goes to a device.
pub struct HostMemory {
    /// Of page-locked memory.
    allocator: Option<Mutex<Allocator>>,
    refused: Once,
}

impl HostMemory {
    /// Ordinary memory.
    pub fn ordinary() -> Self {
        HostMemory {
            allocator: None,
            refused: Once::new(),
        }
    }

    /// What suits `device`, on which `session` runs: for a GPU page-locked memory. Where ONNX
    /// Runtime has none, ordinary memory, with a warning that says why.
    pub(super) fn of(session: &Session, device: Device) -> Self {
        let Some(pinned) = pinned(device) else {
            return Self::ordinary();
        };
        match pinned.and_then(|memory| Allocator::new(session, memory)) {
            Ok(allocator) => HostMemory {
                allocator: Some(Mutex::new(allocator)),
                refused: Once::new(),
            },
            Err(error) => {
                warn(device, &error);
                Self::ordinary()
            }
        }
    }

    /// Whether it is page-locked.
    pub fn is_pinned(&self) -> bool {
        self.allocator.is_some()
    }

    /// A buffer of zeros. Where no page-locked memory is left it is an ordinary one; a warning says
    /// so once.
    pub fn zeroed(&self, bytes: usize) -> PixelBuffer {
        let Some(allocator) = &self.allocator else {
            return PixelBuffer::zeroed(bytes);
        };
        let allocator = allocator.lock().unwrap_or_else(|e| e.into_inner());
        PixelBuffer::allocated(&allocator, bytes).unwrap_or_else(|error| {
            let memory = allocator.memory_info();
            self.refused.call_once(|| {
                tracing::warn!(
                    bytes, memory = memory.allocation_device().as_str(), %error,
                    "no page-locked memory for a batch: it is copied to the device by way of \
                     another buffer"
                );
            });
            PixelBuffer::zeroed(bytes)
        })
    }
}

/// Page-locked host memory for `device`, if that is a GPU.
pub(super) fn pinned(device: Device) -> Option<ort::Result<MemoryInfo<'static>>> {
    device.is_gpu().then(|| {
        MemoryInfo::new(
            AllocationDevice::CUDA_PINNED,
            device.index() as i32,
            AllocatorType::Device,
            MemoryType::CPUOutput,
        )
    })
}

fn warn(device: Device, error: &ort::Error) {
    tracing::warn!(
        %device, %error,
        "page-locked memory is not available: batches are copied to the device by way of another \
         buffer"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_allocator() -> HostMemory {
        crate::runtime::Runtime::load().unwrap();
        HostMemory {
            allocator: Some(Mutex::new(Allocator::default())),
            refused: Once::new(),
        }
    }

    /// Both kinds of memory, which must behave alike.
    fn both() -> [HostMemory; 2] {
        [HostMemory::ordinary(), from_allocator()]
    }

    #[test]
    fn pieces_are_cut_filled_and_joined_without_a_copy() {
        for memory in both() {
            let mut whole = memory.zeroed(12);
            assert!(whole.iter().all(|b| *b == 0));
            let address = whole.as_ptr();
            let mut pieces: Vec<_> = (0..3).map(|_| whole.split_to(4)).collect();
            assert!(whole.is_empty());
            for (i, piece) in pieces.iter_mut().enumerate().rev() {
                piece.fill(i as u8);
            }
            let mut joined = pieces.remove(0);
            pieces.into_iter().for_each(|piece| joined.unsplit(piece));
            assert_eq!(joined[..], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
            assert_eq!(joined.as_ptr(), address);
            assert_eq!(joined.part(4..8).bytes, [1; 4]);
        }
    }

    #[test]
    fn a_piece_outlives_the_rest_and_goes_to_another_thread() {
        for memory in both() {
            let mut whole = memory.zeroed(1 << 20);
            let mut piece = whole.split_to(1 << 10);
            drop((whole, memory));
            let sum = std::thread::spawn(move || {
                piece.fill(3);
                piece.iter().map(|b| u32::from(*b)).sum::<u32>()
            });
            assert_eq!(sum.join().unwrap(), 3 << 10);
        }
    }

    #[test]
    fn pieces_of_other_blocks_and_out_of_order_are_refused() {
        let refused = |join: fn()| std::panic::catch_unwind(join).is_err();
        assert!(refused(|| {
            let mut a = PixelBuffer::zeroed(4);
            a.unsplit(PixelBuffer::zeroed(4));
        }));
        assert!(refused(|| {
            let mut c = PixelBuffer::zeroed(6);
            let (a, mut b) = (c.split_to(2), c.split_to(2));
            b.unsplit(a);
        }));
        assert!(refused(|| drop(PixelBuffer::zeroed(4).split_to(5))));
    }

    #[test]
    fn ordinary_memory_takes_over_where_an_allocator_has_no_more() {
        let memory = from_allocator();
        assert!(memory.is_pinned());
        // More than any machine has.
        let allocator = memory.allocator.as_ref().unwrap().lock().unwrap();
        assert!(PixelBuffer::allocated(&allocator, 1 << 60).is_err());
        drop(allocator);
        assert_eq!(
            format!("{:?}", memory.zeroed(8)),
            "PixelBuffer(allocator, 0..8)"
        );
    }
}
