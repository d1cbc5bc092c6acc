//! Data sets whose files need a feature, for programs that may have been built without it.

use std::path::PathBuf;

use crate::Result;
use crate::datasets::Dataset;

/// `BeaverTailsV`: its questions, or its labelled answers, from a folder of Parquet files.
///
/// # Errors
///
/// [`FeatureMissing`](crate::Error::FeatureMissing) without the feature `parquet`.
pub fn beavertails_v(folder: PathBuf, answers: bool) -> Result<Box<dyn Dataset>> {
    #[cfg(feature = "parquet")]
    {
        use crate::datasets::BeaverTailsV;
        Ok(Box::new(if answers { BeaverTailsV::answers(folder) } else { BeaverTailsV::questions(folder) }))
    }
    #[cfg(not(feature = "parquet"))]
    {
        let _ = (folder, answers);
        Err(crate::Error::FeatureMissing { what: "BeaverTails-V, whose files are Parquet,", feature: "parquet" })
    }
}

/// `Spreadsheet`: labelled answers or questions, with the folder of their images or without images.
///
/// # Errors
///
/// [`FeatureMissing`](crate::Error::FeatureMissing) without the feature `xlsx`.
pub fn spreadsheet(file: PathBuf, images: Option<PathBuf>) -> Result<Box<dyn Dataset>> {
    #[cfg(feature = "xlsx")]
    {
        use crate::datasets::Spreadsheet;
        Ok(Box::new(match images {
            Some(images) => Spreadsheet::with_images(file, images),
            None => Spreadsheet::text(file),
        }))
    }
    #[cfg(not(feature = "xlsx"))]
    {
        let _ = (file, images);
        Err(crate::Error::FeatureMissing { what: "a spreadsheet (.xlsx)", feature: "xlsx" })
    }
}
