//! Strings of which there are millions: one after the other in one piece of memory, and a numbering
//! of different ones.

use std::hash::{BuildHasher, RandomState};

/// Strings by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The string of that number; an empty one if there is none.
    pub(super) fn get(&self, number: usize) -> &str {
        let begin = match number {
            0 => 0,
            _ => self.ends.get(number - 1).copied().unwrap_or_default(),
        };
        let end = self.ends.get(number).copied().unwrap_or(begin);
        self.text.get(begin..end).unwrap_or_default()
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|number| self.get(number))
    }

    /// The number of `text` where the strings are in order.
    pub(super) fn search(&self, text: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(text) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The same strings in another order.
    pub(super) fn ordered(&self, order: &[u32]) -> Self {
        let mut ordered = Strings {
            text: String::with_capacity(self.text.len()),
            ends: Vec::with_capacity(order.len()),
        };
        for number in order {
            ordered.push(self.get(*number as usize));
        }
        ordered
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// As it is kept: text and where each ends.
    pub(super) fn parts(&self) -> (&str, &[usize]) {
        (&self.text, &self.ends)
    }

    /// What [`Strings::parts`] gave, if it is that.
    pub(super) fn from_parts(text: String, ends: Vec<usize>) -> Option<Self> {
        let mut begin = 0;
        for &end in &ends {
            if end < begin || !text.is_char_boundary(end) {
                return None;
            }
            begin = end;
        }
        (begin == text.len()).then_some(Strings { text, ends })
    }
}

const FREE: u32 = u32::MAX;

/// Different strings, numbered in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Interner {
    strings: Strings,
    /// Open addressing: a part of the hash, which spares most comparisons, and the number.
    places: Vec<(u32, u32)>,
    hashing: RandomState,
}

impl Interner {
    pub(super) fn strings(&self) -> &Strings {
        &self.strings
    }

    /// The number of `text`, which it gets if it has none.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if self.strings.len() * 4 >= self.places.len() * 3 {
            self.grow();
        }
        let hash = self.hashing.hash_one(text);
        let (place, found) = self.place(text, hash);
        if let Some(number) = found {
            return number;
        }
        // More than that many do not fit a table's other numbers either.
        let number = u32::try_from(self.strings.len()).unwrap_or(FREE - 1);
        self.strings.push(text);
        self.places[place] = ((hash >> 32) as u32, number);
        number
    }

    /// The number of `text`, if it has one.
    #[cfg(test)]
    fn find(&self, text: &str) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        self.place(text, self.hashing.hash_one(text)).1
    }

    /// Where `text` stands, or would.
    fn place(&self, text: &str, hash: u64) -> (usize, Option<u32>) {
        let mask = self.places.len() - 1;
        let part = (hash >> 32) as u32;
        let mut place = hash as usize & mask;
        loop {
            let (there, number) = self.places[place];
            if number == FREE {
                return (place, None);
            }
            if there == part && self.strings.get(number as usize) == text {
                return (place, Some(number));
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (self.places.len() * 2).max(16);
        self.places = vec![(0, FREE); size];
        for number in 0..self.strings.len() {
            let hash = self.hashing.hash_one(self.strings.get(number));
            let mut place = hash as usize & (size - 1);
            while self.places[place].1 != FREE {
                place = (place + 1) & (size - 1);
            }
            self.places[place] = ((hash >> 32) as u32, number as u32);
        }
    }

    /// The strings, without what finds them.
    #[cfg(test)]
    fn into_strings(self) -> Strings {
        self.strings
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.strings.heap_bytes() + self.places.capacity() * size_of::<(u32, u32)>()
    }
}

impl From<Strings> for Interner {
    /// The strings must differ.
    fn from(strings: Strings) -> Self {
        let mut interner = Interner {
            strings,
            ..Interner::default()
        };
        while interner.strings.len() * 4 >= interner.places.len() * 3 {
            let size = (interner.places.len() * 2).max(16);
            interner.places = vec![(0, FREE); size];
        }
        interner.places.truncate(interner.places.len() / 2);
        interner.grow();
        interner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_has_one_number_however_often_it_comes() {
        let mut interner = Interner::default();
        let name = |n: usize| format!("image-{}", n % 5000);
        for n in 0..20_000 {
            assert_eq!(interner.number(&name(n)) as usize, n % 5000);
        }
        assert_eq!(interner.number(""), 5000);
        assert_eq!(
            (interner.find(""), interner.find("none")),
            (Some(5000), None)
        );
        let mut again = Interner::from(interner.into_strings());
        assert_eq!(again.strings().len(), 5001);
        for n in 0..5000 {
            assert_eq!(again.find(&name(n)), Some(n as u32));
        }
        assert_eq!(again.number("new"), 5001);
        assert_eq!(Interner::from(Strings::default()).find("a"), None);
    }

    #[test]
    fn strings_in_order_are_found() {
        let mut strings = Strings::default();
        ["", "a", "ab", "b", "ä"]
            .into_iter()
            .for_each(|text| strings.push(text));
        for (number, text) in strings.iter().enumerate() {
            assert_eq!(strings.search(text), Some(number));
        }
        assert_eq!((strings.search("aa"), strings.search("z")), (None, None));
        let turned = strings.ordered(&[4, 0, 3]);
        assert!(turned.iter().eq(["ä", "", "b"]));
        let (text, ends) = turned.parts();
        let kept = |text: &str, ends: &[usize]| Strings::from_parts(text.into(), ends.to_vec());
        assert!(kept(text, ends).is_some());
        assert!(kept("ä", &[1, 2]).is_none(), "half a letter");
        assert!(kept("ab", &[2, 1]).is_none() && kept("ab", &[1]).is_none());
    }
}
