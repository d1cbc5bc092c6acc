//! Images of any size as Qwen-VL lays them out: a grid of tokens, each of them a square of patches.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// The tokens of one image, row by row. Each stands for `merge` by `merge` patches, which are stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) rows: u32,
    pub(crate) cols: u32,
}

impl Grid {
    /// Reads `image_grid_thw` `[images, 3]`, which counts frames, and rows and columns of patches.
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

    /// Row and column of each token.
    pub(crate) fn cells(self) -> impl Iterator<Item = [u32; 2]> {
        (0..self.rows).flat_map(move |row| (0..self.cols).map(move |col| [row, col]))
    }

    /// Row and column of each token, by the square windows of `side` tokens that cover the grid. Those at the right
    /// and the bottom may be smaller.
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

/// The patches of a token at a cell: row and column of each.
pub(crate) fn patches([row, col]: [u32; 2], merge: u32) -> impl Iterator<Item = [u32; 2]> {
    (0..merge).flat_map(move |down| (0..merge).map(move |right| [row * merge + down, col * merge + right]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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
}
