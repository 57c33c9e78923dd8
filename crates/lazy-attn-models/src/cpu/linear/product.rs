//! Dividing a product among threads.

use std::ops::Range;

use super::{
    Segment,
    activations::Activations,
    kernel::{Tile, float_tile, integer_tile},
};
use crate::cpu::simd::{CpuIsa, Isa, Kernel, LANES, MatrixMut};

/// Multiply-adds below which a second thread costs more than it saves, as if a row of activations cost as much as four.
const MIN_TASK_WORK: usize = 1 << 17;

/// Bytes of activation tiles that a pass over the panels keeps in the second-level cache.
const TILE_BYTES: usize = 1 << 19;

/// What every task of a call shares.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) isa: CpuIsa,
    pub(crate) acts: &'a Activations,
}

/// Some panels of one segment times some tiles, with the rectangle of the output that they make.
struct Task<'a> {
    segment: &'a Segment,
    panels: Range<usize>,
    tiles: Range<usize>,
    out: MatrixMut<'a>,
}

impl Product<'_> {
    /// Multiplies every segment into its output, on the current rayon pool.
    pub(crate) fn run<'a, const N: usize>(&self, segments: &'a [Segment], outs: [MatrixMut<'a>; N]) {
        let tiles = 0..self.acts.shape().num_tiles();
        let mut segments = segments.iter();
        let mut tasks = outs.map(|out| {
            segments.next().map(|segment| {
                let panels = 0..segment.packed.num_panels();
                Task { segment, panels, tiles: tiles.clone(), out }
            })
        });
        let total: usize = tasks.iter().flatten().map(|task| self.work(task)).sum();
        let num_threads = rayon::current_num_threads();
        let max_work = if num_threads == 1 { total } else { (total / (2 * num_threads)).max(MIN_TASK_WORK) };
        self.run_slice(&mut tasks, max_work);
    }

    /// The first task beside the others.
    fn run_slice(&self, tasks: &mut [Option<Task<'_>>], max_work: usize) {
        let Some((first, others)) = tasks.split_first_mut() else { return };
        let Some(first) = first.take() else { return };
        let total = self.work(&first) + others.iter().flatten().map(|task| self.work(task)).sum::<usize>();
        if total < 2 * MIN_TASK_WORK || others.is_empty() {
            self.divide(first, max_work);
            self.run_slice(others, max_work);
        } else {
            rayon::join(|| self.divide(first, max_work), || self.run_slice(others, max_work));
        }
    }

    /// Multiply-adds of `task`.
    fn work(&self, task: &Task<'_>) -> usize {
        let shape = self.acts.shape();
        let num_rows = (task.tiles.len() * shape.tile_rows).min(shape.num_rows).max(4);
        task.panels.len() * task.segment.packed.format().panel_rows() * shape.in_features * num_rows
    }

    /// Halves `task` until it is about `max_work`: by panels, so that each weight is read by one thread, and by tiles
    /// where a single panel is left.
    fn divide(&self, task: Task<'_>, max_work: usize) {
        let is_small = 2 * self.work(&task) < 3 * max_work;
        if is_small || (task.panels.len() < 2 && task.tiles.len() < 2) {
            return self.isa.run(TaskKernel { product: *self, task });
        }
        let (left, right) = if task.panels.len() >= 2 { task.split_panels() } else { self.split_tiles(task) };
        rayon::join(|| self.divide(left, max_work), || self.divide(right, max_work));
    }

    fn split_tiles<'a>(&self, task: Task<'a>) -> (Task<'a>, Task<'a>) {
        let Task { segment, panels, tiles, out } = task;
        let middle = tiles.start + tiles.len() / 2;
        let (top, bottom) = out.split_rows((middle - tiles.start) * self.acts.shape().tile_rows);
        let above = Task { segment, panels: panels.clone(), tiles: tiles.start..middle, out: top };
        (above, Task { segment, panels, tiles: middle..tiles.end, out: bottom })
    }
}

impl<'a> Task<'a> {
    fn split_panels(self) -> (Task<'a>, Task<'a>) {
        let Task { segment, panels, tiles, out } = self;
        let middle = panels.start + panels.len() / 2;
        let width = segment.packed.format().panel_rows();
        let (out_left, out_right) = out.split_columns((middle - panels.start) * width);
        let left = Task { segment, panels: panels.start..middle, tiles: tiles.clone(), out: out_left };
        (left, Task { segment, panels: middle..panels.end, tiles, out: out_right })
    }
}

struct TaskKernel<'a> {
    product: Product<'a>,
    task: Task<'a>,
}

impl Kernel for TaskKernel<'_> {
    #[inline(always)]
    fn run<I: Isa>(mut self) {
        let shape = self.product.acts.shape();
        let tiles_at_once = (TILE_BYTES / (4 * shape.tile_rows * shape.in_features)).max(4);
        let mut tiles = self.task.tiles.clone();
        while !tiles.is_empty() {
            let some = tiles.start..tiles.end.min(tiles.start + tiles_at_once);
            tiles.start = some.end;
            for panel in self.task.panels.clone() {
                for tile in some.clone() {
                    self.tile::<I>(panel, tile);
                }
            }
        }
    }
}

impl TaskKernel<'_> {
    #[inline(always)]
    fn tile<I: Isa>(&mut self, panel: usize, tile: usize) {
        match self.product.acts.shape().rows_of(tile) {
            1 => self.rows::<I, 1>(panel, tile),
            2 => self.rows::<I, 2>(panel, tile),
            3 => self.rows::<I, 3>(panel, tile),
            4 => self.rows::<I, 4>(panel, tile),
            5 => self.rows::<I, 5>(panel, tile),
            6 => self.rows::<I, 6>(panel, tile),
            7 => self.rows::<I, 7>(panel, tile),
            _ => self.rows::<I, 8>(panel, tile),
        }
    }

    #[inline(always)]
    fn rows<I: Isa, const R: usize>(&mut self, panel: usize, tile: usize) {
        let segment = self.task.segment;
        let (format, acts) = (segment.packed.format(), self.product.acts);
        let weights = segment.packed.panel(panel);
        let mut result: Tile<R> = if format.is_integer() {
            integer_tile::<I, R>(format, weights, acts.integer_tile(tile))
        } else {
            float_tile::<I, R>(format, weights, acts.float_tile(tile))
        };
        if let Some(bias) = &segment.bias {
            add_bias(&mut result, &bias[panel * format.panel_rows()..]);
        }
        let width = format.panel_rows();
        let first_row = (tile - self.task.tiles.start) * acts.shape().tile_rows;
        let column = (panel - self.task.panels.start) * width;
        for (row, values) in result.iter().enumerate() {
            self.task.out.write(first_row + row, column, &values[0]);
            if column + LANES < self.task.out.num_columns() && width > LANES {
                self.task.out.write(first_row + row, column + LANES, &values[1]);
            }
        }
    }
}

#[inline(always)]
fn add_bias<const R: usize>(result: &mut Tile<R>, bias: &[f32]) {
    for row in result {
        for (value, bias) in row.as_flattened_mut().iter_mut().zip(bias) {
            *value += bias;
        }
    }
}
