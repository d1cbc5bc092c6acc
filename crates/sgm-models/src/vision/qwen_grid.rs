//! The grids of Qwen-VL images: tokens of several patches, their order in the vision tower, and their positions.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Embedding, Module};

use crate::error::{Error, Result};
use crate::layers::linear::Weights;

/// The grid of tokens of one image, in row-major order. A token covers `merge` by `merge` patches, which are stored
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) rows: u32,
    pub(crate) cols: u32,
}

impl Grid {
    /// Reads `image_grid_thw` `[images, 3]`, which has the numbers of frames, and of rows and columns of patches.
    pub(crate) fn read(grids: &Tensor, merge: usize) -> Result<Vec<Self>> {
        let error = |found: String| Error::Inputs {
            reason: format!("image_grid_thw is {found}; expected one frame and multiples of {merge} patches for each image"),
        };
        if !matches!(grids.dims(), [_, 3]) {
            return Err(error(format!("of shape {:?}", grids.dims())));
        }
        let merged = |patches: i64| {
            let patches = u32::try_from(patches).ok().filter(|n| *n > 0)?;
            let merge = u32::try_from(merge).ok()?;
            patches.is_multiple_of(merge).then_some(patches / merge)
        };
        let grid = |image: &Vec<i64>| match image.as_slice() {
            [1, rows, cols] => Some(Self { rows: merged(*rows)?, cols: merged(*cols)? }),
            _ => None,
        };
        let grids = grids.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        grids.iter().map(|image| grid(image).ok_or_else(|| error(format!("{image:?}")))).collect()
    }

    pub(crate) fn tokens(&self) -> usize {
        (self.rows as usize).saturating_mul(self.cols as usize)
    }

    /// The row and column of each token.
    pub(crate) fn cells(self) -> impl Iterator<Item = [u32; 2]> {
        (0..self.rows).flat_map(move |row| (0..self.cols).map(move |col| [row, col]))
    }

    /// The row and column of each token, grouped by square windows of `side` tokens. Windows at the right and at the
    /// bottom may be smaller.
    pub(crate) fn windows(self, side: usize) -> impl Iterator<Item = Vec<[u32; 2]>> {
        let Self { rows, cols } = self;
        let side = u32::try_from(side).unwrap_or(u32::MAX);
        let starts = move |size: u32| (0..size).step_by(side as usize);
        let within = move |start: u32, size: u32| start..start.saturating_add(side).min(size);
        starts(rows).flat_map(move |top| {
            starts(cols).map(move |left| within(top, rows).flat_map(|row| within(left, cols).map(move |col| [row, col])).collect())
        })
    }
}

/// The row and column of each patch of a token.
fn patches([row, col]: [u32; 2], merge: u32) -> impl Iterator<Item = [u32; 2]> {
    (0..merge).flat_map(move |down| (0..merge).map(move |right| [row * merge + down, col * merge + right]))
}

/// The order of the patches of a batch in the vision tower.
pub(crate) struct PatchLayout {
    /// The row and column of each patch.
    positions: Vec<[u32; 2]>,
    /// The number of patches of each image.
    pub(crate) images: Vec<usize>,
    /// The number of patches of each window.
    pub(crate) windows: Vec<usize>,
    /// The index of each token in the input.
    pub(crate) order: Vec<u32>,
}

impl PatchLayout {
    /// Orders patches by window, or in input order if there are no windows.
    pub(crate) fn new(grids: &[Grid], merge: usize, window: Option<usize>) -> Self {
        let unit = merge * merge;
        let side = u32::try_from(merge).unwrap_or(u32::MAX);
        let (mut positions, mut windows, mut order) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for grid in grids {
            for cells in grid.windows(window.unwrap_or(usize::MAX)) {
                windows.push(cells.len() * unit);
                order.extend(cells.iter().map(|[row, col]| first + row * grid.cols + col));
                positions.extend(cells.into_iter().flat_map(|cell| patches(cell, side)));
            }
            first += grid.rows * grid.cols;
        }
        Self { positions, images: grids.iter().map(|grid| grid.tokens() * unit).collect(), windows, order }
    }

    /// The cosines and sines `[patches, head_dim / 2]` of the rotary positions, in f32.
    pub(crate) fn rotation(&self, frequencies: &[f32], device: &Device) -> Result<(Tensor, Tensor)> {
        let angles = || self.positions.iter().flatten().flat_map(|at| frequencies.iter().map(move |f| *at as f32 * f));
        let shape = (self.positions.len(), 2 * frequencies.len());
        let table = |values: Vec<f32>| Tensor::from_vec(values, shape, device);
        Ok((table(angles().map(f32::cos).collect())?, table(angles().map(f32::sin).collect())?))
    }
}

/// Reorders rows in units of `unit` rows.
pub(crate) fn reorder_rows(rows: &Tensor, order: &[u32], unit: usize) -> Result<Tensor> {
    let (count, width) = rows.dims2()?;
    let groups = rows.reshape((count / unit, unit * width))?;
    Ok(groups.index_select(&Tensor::new(order, rows.device())?, 0)?.reshape((count, width))?)
}

/// The inverse of an order.
pub(crate) fn inverse_order(order: &[u32]) -> Vec<u32> {
    let mut at: Vec<(u32, u32)> = order.iter().copied().zip(0..).collect();
    at.sort_unstable();
    at.into_iter().map(|(_, at)| at).collect()
}

/// Positions learned on a square grid, interpolated to the grid of each image with aligned corners.
#[derive(Debug)]
pub(crate) struct LearnedPositions {
    table: Embedding,
    side: usize,
}

impl LearnedPositions {
    pub(crate) fn new(weights: &Weights<'_>, count: usize, hidden: usize) -> Result<Self> {
        Ok(Self { table: Embedding::new(weights.get((count, hidden), "pos_embed.weight")?, hidden), side: count.isqrt() })
    }

    /// The positions `[patches, hidden]`; the patches of a token are adjacent.
    pub(crate) fn forward(&self, grids: &[Grid], merge: usize) -> Result<Tensor> {
        let merge = u32::try_from(merge).unwrap_or(u32::MAX);
        // The four learned positions around each patch, with their weights.
        let mut around: [(Vec<u32>, Vec<f32>); 4] = Default::default();
        for grid in grids {
            let (rows, cols) = (grid.rows * merge, grid.cols * merge);
            for [row, col] in grid.cells().flat_map(|cell| patches(cell, merge)) {
                let (down, across) = (self.neighbours(row, rows), self.neighbours(col, cols));
                let corners = down.into_iter().flat_map(|(y, down)| across.map(|(x, across)| (y, x, down * across)));
                for ((indices, weights), (y, x, weight)) in around.iter_mut().zip(corners) {
                    indices.push(u32::try_from(y * self.side + x).unwrap_or(0));
                    weights.push(weight);
                }
            }
        }
        let table = self.table.embeddings();
        let mut sum: Option<Tensor> = None;
        for (indices, weights) in around {
            let count = weights.len();
            let weights = Tensor::from_vec(weights, (count, 1), table.device())?.to_dtype(table.dtype())?;
            let term = self.table.forward(&Tensor::new(indices, table.device())?)?.broadcast_mul(&weights)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => (sum + term)?,
            });
        }
        sum.ok_or_else(|| Error::Inputs { reason: "no image".to_owned() })
    }

    /// The two learned positions next to position `at` of `count` on one axis, with their weights.
    fn neighbours(&self, at: u32, count: u32) -> [(usize, f32); 2] {
        let (at, last, steps) = (at as usize, self.side - 1, (count as usize).saturating_sub(1).max(1));
        let low = at * last / steps;
        let beyond = at as f32 * last as f32 / steps as f32 - low as f32;
        [(low, 1.0 - beyond), ((low + 1).min(last), 1.0 - (beyond - 1.0).abs())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_grid_row_by_row() {
        let windows: Vec<_> = Grid { rows: 3, cols: 3 }.windows(2).collect();
        let expected = [vec![[0, 0], [0, 1], [1, 0], [1, 1]], vec![[0, 2], [1, 2]], vec![[2, 0], [2, 1]], vec![[2, 2]]];
        assert_eq!(windows, expected);
        let whole: Vec<_> = Grid { rows: 2, cols: 2 }.windows(usize::MAX).collect();
        assert_eq!(whole, [vec![[0, 0], [0, 1], [1, 0], [1, 1]]]);
    }

    #[test]
    fn grids_are_checked() {
        let read = |grid: [i64; 3]| Grid::read(&Tensor::new(&[grid], &Device::Cpu).unwrap(), 2);
        assert_eq!(read([1, 4, 6]).unwrap(), [Grid { rows: 2, cols: 3 }]);
        for wrong in [[2, 4, 6], [1, 3, 4], [1, 0, 4], [1, -2, 4], [1, 4, i64::MAX]] {
            assert!(matches!(read(wrong), Err(Error::Inputs { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn the_window_order_is_undone_by_its_inverse() {
        let layout = PatchLayout::new(&[Grid { rows: 2, cols: 3 }, Grid { rows: 1, cols: 2 }], 2, Some(2));
        assert_eq!(layout.order, [0, 1, 3, 4, 2, 5, 6, 7]);
        assert_eq!(layout.windows, [16, 8, 8]);
        assert_eq!(layout.images, [24, 8]);
        assert_eq!(layout.positions[16..20], [[0, 4], [0, 5], [1, 4], [1, 5]]);
        let rows = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((8, 2)).unwrap();
        let there = reorder_rows(&rows, &layout.order, 1).unwrap();
        let back = reorder_rows(&there, &inverse_order(&layout.order), 1).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), rows.to_vec2::<f32>().unwrap());
        assert_ne!(there.to_vec2::<f32>().unwrap(), rows.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn learned_positions_are_aligned_at_the_corners() {
        let table = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((16, 1)).unwrap();
        let learned = LearnedPositions { table: Embedding::new(table, 1), side: 4 };
        let at = |rows, cols| learned.forward(&[Grid { rows, cols }], 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(at(4, 4), (0u8..16).map(f32::from).collect::<Vec<_>>());
        assert_eq!(at(1, 7), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!(at(2, 1), [0.0, 12.0]);
    }
}
