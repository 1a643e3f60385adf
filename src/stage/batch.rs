//! The queue of images that wait for the model: pure state, owned by one thread, driven by commands
//! and a clock.
//!
//! A batch is one block of memory (page-locked for a GPU, see [`PixelBuffer`]), cut into pieces of
//! one image each. A piece is lent to whoever decodes an image, comes back filled or unused, and
//! when none is out any more the pieces are joined again without a copy: that is the batch the
//! model sees. A piece that comes back unused is lent again, or is closed up when the batch is
//! sealed, so no hole remains.
//!
//! A worker that has nothing to do does not wait for a batch to become full: the images that are
//! filled are copied into a buffer of their own, which costs some microseconds each.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tagstream_model::session::PixelBuffer;

/// Sizes of the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLayout {
    /// Of an image as the model takes it: 3 bytes a pixel.
    pub image_bytes: usize,
    /// Most images in a batch.
    pub capacity: usize,
    /// Batches that may exist at once: running, prepared and open.
    pub buffers: usize,
    /// Longest time that a filled image waits for others while workers are busy.
    pub max_delay: Duration,
}

impl BatchLayout {
    /// The most images that fit both bounds, at least one.
    pub fn capacity_for(max_batch: usize, max_bytes: u64, image_bytes: usize) -> usize {
        let by_bytes = usize::try_from(max_bytes / image_bytes.max(1) as u64).unwrap_or(usize::MAX);
        max_batch.min(by_bytes).max(1)
    }
}

/// Which piece of which batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceId {
    batch: u64,
    index: usize,
}

/// A piece that is lent out.
#[derive(Debug)]
pub struct Piece<M> {
    /// To be given back.
    pub id: PieceId,
    /// One image's bytes; their content is left over from an earlier image.
    pub pixels: PixelBuffer,
    /// The model that the batch will run on.
    pub model: M,
}

/// A batch that is complete.
#[derive(Debug)]
pub struct Ready<M, R> {
    /// The model to run.
    pub model: M,
    /// The whole buffer; the first `replies.len()` images count. Give it back with
    /// [`Queue::recycle`].
    pub pixels: PixelBuffer,
    /// Who waits for which image, in the batch's order.
    pub replies: Vec<R>,
    /// When its first image was filled.
    pub since: Instant,
}

/// A batch that is being filled.
struct Batch<M, R> {
    model: M,
    /// `None` where the piece is lent.
    pieces: Vec<Option<PixelBuffer>>,
    /// Pieces that were never lent or came back unused; the last is lent next.
    free: Vec<usize>,
    /// By index, who waits for the image in it.
    replies: BTreeMap<usize, R>,
    since: Option<Instant>,
}

impl<M, R> Batch<M, R> {
    fn lent(&self) -> usize {
        self.pieces.len() - self.free.len() - self.replies.len()
    }

    /// Closes up the holes and joins the pieces.
    fn into_ready(mut self, now: Instant) -> Ready<M, R> {
        let count = self.replies.len();
        let mut holes: Vec<usize> = self.free.iter().copied().filter(|i| *i < count).collect();
        let mut replies = Vec::with_capacity(count);
        let beyond = self.replies.split_off(&count);
        for (from, reply) in beyond {
            let to = holes
                .pop()
                .expect("as many holes below `count` as images beyond it");
            let source = self.pieces[from].take().expect("no piece is lent");
            self.pieces[to]
                .as_mut()
                .expect("no piece is lent")
                .copy_from_slice(&source);
            self.pieces[from] = Some(source);
            self.replies.insert(to, reply);
        }
        replies.extend(std::mem::take(&mut self.replies).into_values());
        let pixels = self
            .pieces
            .into_iter()
            .map(|piece| piece.expect("no piece is lent"))
            .reduce(|mut joined, piece| {
                joined.unsplit(piece);
                joined
            })
            .expect("a batch has at least one piece");
        Ready {
            model: self.model,
            pixels,
            replies,
            since: self.since.unwrap_or(now),
        }
    }
}

/// The queue. `M` is the model that batches are made for, `R` what waits for an image's result.
pub struct Queue<M, R> {
    model: M,
    layout: BatchLayout,
    batches: BTreeMap<u64, Batch<M, R>>,
    /// The batch that pieces are lent from.
    open: Option<u64>,
    next: u64,
    /// Makes a buffer of so many bytes for a model.
    buffer: fn(&M, usize) -> PixelBuffer,
    /// Buffers of the present layout that nobody uses.
    spare: Vec<PixelBuffer>,
    /// Batches that exist: filling, ready or running.
    in_use: usize,
    ready: VecDeque<Ready<M, R>>,
}

impl<M: Clone, R> Queue<M, R> {
    /// An empty queue for `model`, with `buffer` to make the buffers of its batches (they are used
    /// again and again).
    pub fn new(model: M, layout: BatchLayout, buffer: fn(&M, usize) -> PixelBuffer) -> Self {
        Queue {
            model,
            layout,
            buffer,
            batches: BTreeMap::new(),
            open: None,
            next: 0,
            spare: Vec::new(),
            in_use: 0,
            ready: VecDeque::new(),
        }
    }

    /// Lends a piece; `None` while every buffer is in use.
    pub fn claim(&mut self, now: Instant) -> Option<Piece<M>> {
        let id = match self.open {
            Some(id) => id,
            None => self.open_batch()?,
        };
        let batch = self.batches.get_mut(&id).expect("the open batch exists");
        let index = batch.free.pop().expect("an open batch has a free piece");
        let piece = Piece {
            id: PieceId { batch: id, index },
            pixels: batch.pieces[index].take().expect("a free piece is here"),
            model: batch.model.clone(),
        };
        if batch.free.is_empty() {
            self.seal(now);
        }
        Some(piece)
    }

    fn open_batch(&mut self) -> Option<u64> {
        if self.in_use >= self.layout.buffers {
            return None;
        }
        let BatchLayout {
            image_bytes,
            capacity,
            ..
        } = self.layout;
        let mut whole = self
            .spare
            .pop()
            .unwrap_or_else(|| (self.buffer)(&self.model, image_bytes * capacity));
        let pieces = (0..capacity)
            .map(|_| Some(whole.split_to(image_bytes)))
            .collect();
        let id = self.next;
        self.next += 1;
        self.in_use += 1;
        self.open = Some(id);
        self.batches.insert(
            id,
            Batch {
                model: self.model.clone(),
                pieces,
                // The first piece is lent first, so that a batch without accidents needs no copy.
                free: (0..capacity).rev().collect(),
                replies: BTreeMap::new(),
                since: None,
            },
        );
        Some(id)
    }

    /// Takes back a piece with an image in it.
    pub fn fill(&mut self, id: PieceId, pixels: PixelBuffer, reply: R, now: Instant) {
        let batch = self.batches.get_mut(&id.batch).expect("its piece was lent");
        batch.pieces[id.index] = Some(pixels);
        batch.replies.insert(id.index, reply);
        batch.since.get_or_insert(now);
        self.complete(id.batch, now);
    }

    /// Takes back a piece that was not used.
    pub fn release(&mut self, id: PieceId, pixels: PixelBuffer, now: Instant) {
        let batch = self.batches.get_mut(&id.batch).expect("its piece was lent");
        batch.pieces[id.index] = Some(pixels);
        batch.free.push(id.index);
        self.complete(id.batch, now);
    }

    /// When [`Queue::expire`] has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let since = self.batches[&self.open?].since?;
        Some(since + self.layout.max_delay)
    }

    /// Seals the open batch if its first image has waited long enough.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.seal(now);
        }
    }

    /// Ends the open batch: it runs as soon as no piece of it is lent any more.
    pub fn seal(&mut self, now: Instant) {
        if let Some(id) = self.open.take() {
            self.complete(id, now);
        }
    }

    /// Images that are being filled.
    pub fn lent(&self) -> usize {
        self.batches.values().map(Batch::lent).sum()
    }

    /// Takes the images that are filled out of the oldest batch that has some, for a worker that
    /// has nothing to do; those that are still being filled stay behind, and the batch goes on with
    /// the places that become free. `None` if nothing is filled, if more than `most` images are
    /// being filled, or without a buffer to spare.
    pub fn take_filled(&mut self, most: usize, now: Instant) -> Option<Ready<M, R>> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        let size = self.layout.image_bytes;
        let (&id, batch) = self.batches.iter().find(|(_, batch)| {
            // Those of an earlier layout wait: there are no buffers of their size.
            let same = batch.pieces.len() == self.layout.capacity
                && batch
                    .pieces
                    .iter()
                    .flatten()
                    .all(|piece| piece.len() == size);
            !batch.replies.is_empty() && same
        })?;
        let others = self.lent();
        if batch.lent() == 0 {
            self.seal(now);
            return self.pop();
        }
        if others > most || self.in_use >= self.layout.buffers {
            return None;
        }
        let batch = self.batches.get_mut(&id)?;
        let bytes = size * self.layout.capacity;
        let spare = self.spare.pop();
        let mut pixels = spare.unwrap_or_else(|| (self.buffer)(&batch.model, bytes));
        let mut replies = Vec::with_capacity(batch.replies.len());
        for (place, reply) in std::mem::take(&mut batch.replies) {
            let image = batch.pieces[place]
                .as_ref()
                .expect("a filled piece is here");
            pixels[replies.len() * size..][..size].copy_from_slice(image);
            batch.free.push(place);
            replies.push(reply);
        }
        self.in_use += 1;
        Some(Ready {
            model: batch.model.clone(),
            pixels,
            replies,
            since: batch.since.take().unwrap_or(now),
        })
    }

    fn complete(&mut self, id: u64, now: Instant) {
        if self.open == Some(id) || self.batches[&id].lent() > 0 {
            return;
        }
        let batch = self.batches.remove(&id).expect("just looked at");
        let ready = batch.into_ready(now);
        if ready.replies.is_empty() {
            self.recycle(ready.pixels);
        } else {
            self.ready.push_back(ready);
        }
    }

    /// The next complete batch.
    pub fn pop(&mut self) -> Option<Ready<M, R>> {
        self.ready.pop_front()
    }

    /// Takes back the buffer of a batch that has run.
    pub fn recycle(&mut self, pixels: PixelBuffer) {
        self.in_use -= 1;
        let size = self.layout.image_bytes * self.layout.capacity;
        // A buffer of an earlier layout is freed.
        if pixels.len() == size {
            self.spare.push(pixels);
        }
    }

    /// From now on batches are made for `model`. The open batch still runs on the old one.
    pub fn exchange(&mut self, model: M, layout: BatchLayout, now: Instant) {
        self.seal(now);
        if (layout.image_bytes, layout.capacity) != (self.layout.image_bytes, self.layout.capacity)
        {
            self.spare.clear();
        }
        self.model = model;
        self.layout = layout;
    }

    /// Images that are being filled or wait to run.
    pub fn images(&self) -> usize {
        let filling = self.batches.values().map(|b| b.lent() + b.replies.len());
        let waiting = self.ready.iter().map(|r| r.replies.len());
        filling.chain(waiting).sum()
    }
}

#[cfg(test)]
mod tests;
