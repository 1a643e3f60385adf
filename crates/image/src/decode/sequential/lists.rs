//! Lists of different lengths in one allocation.

/// Many short lists, one after the other: a picture needs thousands, and an allocation for each
/// would cost more than what is in it.
pub(super) struct Lists<T> {
    items: Vec<T>,
    /// Where each list ends.
    ends: Vec<usize>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Lists {
            items: Vec::new(),
            ends: Vec::new(),
        }
    }
}

impl<T> Lists<T> {
    /// Adds a list.
    pub(super) fn push(&mut self, list: impl IntoIterator<Item = T>) {
        self.items.extend(list);
        self.ends.push(self.items.len());
    }

    /// The list at `index`; empty beyond the last one.
    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> &[T] {
        let begin = match index {
            0 => 0,
            _ => self.ends.get(index - 1).copied().unwrap_or(usize::MAX),
        };
        let end = self.ends.get(index).copied().unwrap_or(0);
        self.items.get(begin..end).unwrap_or(&[])
    }
}
