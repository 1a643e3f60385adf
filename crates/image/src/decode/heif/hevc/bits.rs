//! The bits of a header, without the bytes that keep it from looking like the beginning of another
//! unit (ITU-T H.265, 7.3.1.1 and 9.2).

/// What is left to read of a header. Behind its end everything is 0, and [`Bits::ran_out`].
pub(super) struct Bits<'a> {
    rest: &'a [u8],
    zeros: u32,
    byte: u8,
    left: u32,
    ran_out: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Bits {
            rest: bytes,
            zeros: 0,
            byte: 0,
            left: 0,
            ran_out: false,
        }
    }

    /// Whether more was read than there is.
    pub(super) fn ran_out(&self) -> bool {
        self.ran_out
    }

    fn next_byte(&mut self) -> u8 {
        let mut take = || match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => {
                self.ran_out = true;
                0
            }
        };
        let mut byte = take();
        if self.zeros >= 2 && byte == 3 {
            byte = take();
            self.zeros = 0;
        }
        self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
        byte
    }

    fn bit(&mut self) -> u32 {
        if self.left == 0 {
            (self.byte, self.left) = (self.next_byte(), 8);
        }
        self.left -= 1;
        u32::from(self.byte >> self.left & 1)
    }

    /// A number of at most 32 bits.
    pub(super) fn number(&mut self, bits: u32) -> u32 {
        (0..bits).fold(0, |number, _| number << 1 | self.bit())
    }

    pub(super) fn skip(&mut self, bits: u32) {
        for _ in 0..bits {
            self.bit();
        }
    }

    /// A number as Exp-Golomb codes it.
    pub(super) fn exponential(&mut self) -> u32 {
        let mut zeros = 0;
        while self.bit() == 0 {
            zeros += 1;
            if zeros > 31 || self.ran_out {
                self.ran_out = true;
                return 0;
            }
        }
        ((1u64 << zeros) - 1 + u64::from(self.number(zeros))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_across_bytes_and_without_the_bytes_in_between() {
        // 1 -> 0, 010 -> 1, 00111 -> 6.
        let mut bits = Bits::of(&[0b1010_0011, 0b1000_0000]);
        assert_eq!([0, 1, 6], std::array::from_fn(|_| bits.exponential()));
        assert!(!bits.ran_out());
        let mut bits = Bits::of(&[0, 0, 3, 1, 0xff]);
        assert_eq!((bits.number(24), bits.number(8)), (1, 0xff));
        bits.number(1);
        assert!(bits.ran_out());
        let mut endless = Bits::of(&[0, 0, 0, 0, 0, 0]);
        assert_eq!(endless.exponential(), 0);
        assert!(endless.ran_out());
    }
}
