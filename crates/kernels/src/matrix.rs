//! Matrix products of slices, for operations that multiply many small matrices on their own
//! threads.

use super::Real;
use rayon::prelude::*;
use std::ops::Range;

/// A row-major matrix, or its transpose, inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    /// From one row of `data` to the next.
    stride: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// `data` as `[rows, columns]`.
    ///
    /// # Panics
    /// If the slice has another length.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self {
            data,
            rows,
            columns,
            stride: columns,
            transposed: false,
        }
    }

    /// Some of its columns, without moving anything.
    ///
    /// # Panics
    /// If it is a transpose, or has no such columns.
    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        assert!(!self.transposed && range.start <= range.end && range.end <= self.columns);
        let data = match self.rows.checked_sub(1) {
            Some(before) => &self.data[range.start..before * self.stride + range.end],
            None => self.data,
        };
        Self {
            data,
            columns: range.len(),
            ..self
        }
    }

    /// Its transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            transposed: !self.transposed,
            ..self
        }
    }

    /// (stride between columns, stride between rows)
    fn strides(&self) -> (isize, isize) {
        if self.transposed {
            (self.stride as isize, 1)
        } else {
            (1, self.stride as isize)
        }
    }
}

/// The transpose of a matrix of `columns` columns, moved, on rayon's threads: a right operand that
/// many products share is read faster like this than through [`Matrix::t`].
pub(crate) fn transposed<T: Real>(data: &[T], columns: usize) -> Vec<T> {
    let rows = data.len() / columns.max(1);
    let mut out = vec![T::zero(); data.len()];
    const BLOCK: usize = 16;
    out.par_chunks_mut((rows * BLOCK).max(1))
        .enumerate()
        .for_each(|(block, out)| {
            let width = out.len() / rows;
            for (row, from) in data.chunks_exact(columns).enumerate() {
                let from = &from[block * BLOCK..block * BLOCK + width];
                for (column, &x) in from.iter().enumerate() {
                    out[column * rows + row] = x;
                }
            }
        });
    out
}

/// Where a product goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// It replaces what is there.
    Set,
    /// It is added to what is there.
    Add,
}

/// `out = a b` (or `out += a b`) on the calling thread; `out` is `[a.rows, b.columns]`, row-major.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn multiply<T: Real>(out: &mut [T], a: Matrix<T>, b: Matrix<T>, into: Into) {
    assert_eq!(out.len(), a.rows * b.columns, "the product's shape");
    // SAFETY: `out` is borrowed mutably, initialised and as long as the product.
    unsafe { write(out.as_mut_ptr(), a, b, into) }
}

/// `a b` on the calling thread, row-major.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn product<T: Real>(a: Matrix<T>, b: Matrix<T>) -> Vec<T> {
    let length = a.rows * b.columns;
    if a.columns == 0 {
        return vec![T::zero(); length];
    }
    let mut out = Vec::with_capacity(length);
    // SAFETY: the buffer has room for the product, which is written whole and not read
    // (`Into::Set`) before its length is set; `T` is a plain number without a destructor.
    unsafe {
        write(out.as_mut_ptr(), a, b, Into::Set);
        out.set_len(length);
    }
    out
}

/// The product of matrices into `out`.
///
/// # Safety
/// `out` must be valid for writes of `a.rows * b.columns` elements, overlap neither operand, and
/// hold initialised elements if they are added to.
unsafe fn write<T: Real>(out: *mut T, a: Matrix<T>, b: Matrix<T>, into: Into) {
    assert_eq!(a.columns, b.rows, "inner dimensions of a product");
    if a.rows * b.columns == 0 {
        return;
    }
    let ((a_column, a_row), (b_column, b_row)) = (a.strides(), b.strides());
    // SAFETY: the operands have exactly the lengths that their shapes and strides address
    // (`Matrix::new`, `columns` and the assertion above), the caller vouches for `out`, and `T` is
    // f32 or f64 (`Real` has no other implementation), which `gemm` takes.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            b.columns as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_transpose_is_the_transpose() {
        let a: Vec<f32> = (0..3 * 37).map(|x| x as f32).collect();
        let moved = transposed(&a, 37);
        for (at, x) in moved.iter().enumerate() {
            assert_eq!(*x, a[at % 3 * 37 + at / 3]);
        }
        assert_eq!(transposed(&moved, 3), a);
    }

    #[test]
    fn products_of_matrices_and_transposes() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // [3, 2]
        let mut out = vec![f64::NAN; 4];
        multiply(
            &mut out,
            Matrix::new(&a, 2, 3),
            Matrix::new(&b, 3, 2),
            Into::Set,
        );
        assert_eq!(out, [5.0, 11.0, 14.0, 23.0]);
        assert_eq!(product(Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2)), out);
        assert_eq!(
            product(Matrix::new(&[0.0; 0], 2, 0), Matrix::new(&[], 0, 1)),
            [0.0; 2]
        );
        multiply(
            &mut out,
            Matrix::new(&b, 3, 2).t(),
            Matrix::new(&a, 2, 3).t(),
            Into::Add,
        );
        assert_eq!(out, [10.0, 25.0, 25.0, 46.0]);
    }

    #[test]
    fn products_of_some_columns() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let last = Matrix::new(&a, 2, 3).columns(1..3); // [[2, 3], [5, 6]]
        let whole = Matrix::new(&a, 2, 3);
        assert_eq!(product(last, last), [19.0, 24.0, 40.0, 51.0]);
        assert_eq!(
            product(last.t(), whole),
            [22.0, 29.0, 36.0, 27.0, 36.0, 45.0]
        );
        assert_eq!(
            product(whole.columns(2..2), Matrix::new(&[], 0, 1)),
            [0.0; 2]
        );
    }
}
