//! A matrix that several threads fill, each its own rectangle.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::LANES;

/// Exclusive access to a rectangle of a row-major matrix: what `&mut [f32]` is to a slice.
///
/// It is not `Clone`, and splitting consumes it, so no two rectangles overlap.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
    /// First element of the rectangle.
    base: *mut f32,
    /// Elements from one row to the next.
    stride: usize,
    num_rows: usize,
    num_columns: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a rectangle is as exclusive as the `&mut [f32]` it comes from, and `f32` may be written from any thread.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// All of `matrix`, whose rows are `num_columns` long.
    ///
    /// # Panics
    /// If `matrix` is not a whole number of rows.
    pub(crate) fn new(matrix: &'a mut [f32], num_columns: usize) -> MatrixMut<'a> {
        assert!(matrix.len().is_multiple_of(num_columns), "an output is a whole number of rows");
        let num_rows = matrix.len() / num_columns;
        MatrixMut {
            base: matrix.as_mut_ptr(),
            stride: num_columns,
            num_rows,
            num_columns,
            matrix: PhantomData,
        }
    }

    /// Columns of the rectangle.
    #[inline(always)]
    pub(crate) fn num_columns(&self) -> usize {
        self.num_columns
    }

    /// The columns before `column`, and the others.
    pub(crate) fn split_columns(self, column: usize) -> (MatrixMut<'a>, MatrixMut<'a>) {
        assert!(column <= self.num_columns, "a matrix is split inside");
        // `wrapping_add`, because a matrix without rows has no element to point to; only `write` dereferences.
        let right = MatrixMut {
            base: self.base.wrapping_add(column),
            num_columns: self.num_columns - column,
            ..self
        };
        (MatrixMut { num_columns: column, ..self }, right)
    }

    /// The rows before `row`, and the others.
    pub(crate) fn split_rows(self, row: usize) -> (MatrixMut<'a>, MatrixMut<'a>) {
        assert!(row <= self.num_rows, "a matrix is split inside");
        let below = MatrixMut {
            base: self.base.wrapping_add(row * self.stride),
            num_rows: self.num_rows - row,
            ..self
        };
        (MatrixMut { num_rows: row, ..self }, below)
    }

    /// Copies `values` to `row` from `column` on, cut off at the end of the row.
    #[inline(always)]
    pub(crate) fn write(&mut self, row: usize, column: usize, values: &[f32; LANES]) {
        assert!(row < self.num_rows && column <= self.num_columns, "a tile lies inside its output");
        let count = (self.num_columns - column).min(LANES);
        // SAFETY: `row` and `column` lie inside the rectangle, which lies inside the matrix it was split from, so the
        // start is inside that allocation or at its end.
        let start = unsafe { self.base.add(row * self.stride + column) };
        // SAFETY: `count` floats from there end inside the row of the rectangle, to which `&mut self` has exclusive
        // access for as long as the slice lives.
        let out = unsafe { std::slice::from_raw_parts_mut(start, count) };
        match out.as_mut_array() {
            // Almost always: a copy of constant size is one store.
            Some(whole) => *whole = *values,
            None => out.copy_from_slice(&values[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_of_one_matrix_are_filled_by_several_threads() {
        let mut matrix = vec![0.0; 6 * 7];
        let (top, bottom) = MatrixMut::new(&mut matrix, 7).split_rows(2);
        let (left, right) = bottom.split_columns(3);
        std::thread::scope(|scope| {
            for (mut part, value) in [(top, 1.0), (left, 2.0), (right, 3.0)] {
                scope.spawn(move || {
                    for row in 0..part.num_rows {
                        part.write(row, 0, &[value; LANES]);
                    }
                });
            }
        });
        for (index, &value) in matrix.iter().enumerate() {
            let want = if index / 7 < 2 {
                1.0
            } else if index % 7 < 3 {
                2.0
            } else {
                3.0
            };
            assert_eq!(value, want, "element {index}");
        }
    }
}
