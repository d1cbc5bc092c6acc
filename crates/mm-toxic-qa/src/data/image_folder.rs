//! The images beside a manifest.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use sgm_core::image_file::{decode_image, extension};
use sgm_core::sha256::hex_digest;

use crate::datasets::{MAX_PICTURE, Picture, read_bytes};
use crate::{Error, ImageRef, Result, Sample};

/// The images beside a manifest, named by their content: `images/<SHA-256>.png`, `.jpg` and so on.
///
/// Equal images share one file, whatever their original names; names of the user are not used in paths.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    link: bool,
}

/// The number of hexadecimal digits of the SHA-256 in a name: 128 bits.
const DIGITS: usize = 32;

impl ImageFolder {
    /// The images of a manifest in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), link: false }
    }

    /// Makes hard links to the files of the user where the file system supports them, instead of copies.
    #[must_use]
    pub fn linking(self) -> Self {
        Self { link: true, ..self }
    }

    /// Puts a picture into the folder.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be read, [`Error::Image`] when it is not an image that this build reads, [`Error::DatasetFile`] when it is
    /// larger than 64 MiB, [`Error::Write`] when it cannot be written.
    pub fn put(&self, picture: &Picture) -> Result<ImageRef> {
        match picture {
            Picture::Bytes(bytes) => self.put_bytes("an embedded image", bytes, None),
            Picture::File(path) => self.put_bytes(&path.display().to_string(), &read_bytes(path, MAX_PICTURE)?, Some(path)),
        }
    }

    /// Puts pixels into the folder, as a PNG file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when they cannot be encoded (an image without pixels), [`Error::Write`] when they cannot be written.
    pub fn put_pixels(&self, pixels: &RgbImage) -> Result<ImageRef> {
        let bytes = png(pixels).map_err(|reason| Error::Io { path: self.folder.clone(), source: std::io::Error::other(reason) })?;
        self.put_bytes("a drawn image", &bytes, None)
    }

    /// The sample with its image file, if it has one, in this folder. Scenes need no file.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn adopt(&self, sample: &Sample) -> Result<Sample> {
        let image = match &sample.image {
            Some(ImageRef::File { folder, path }) => Some(self.put(&Picture::File(folder.join(path)))?),
            other => other.clone(),
        };
        Ok(Sample { image, ..sample.clone() })
    }

    fn put_bytes(&self, name: &str, bytes: &[u8], original: Option<&Path>) -> Result<ImageRef> {
        decode_image(name, bytes).map_err(|source| Error::Image { id: name.to_owned(), source: Box::new(source) })?;
        let extension = extension(bytes).unwrap_or("jpg");
        let sha256: String = hex_digest(bytes).chars().take(DIGITS).collect();
        let path = format!("images/{sha256}.{extension}");
        let file = self.folder.join(&path);
        let linked = match original {
            Some(original) if self.link => {
                std::fs::create_dir_all(self.folder.join("images")).is_ok() && std::fs::hard_link(original, &file).is_ok()
            }
            _ => false,
        };
        if !linked {
            sgm_core::create_atomically(&file, bytes)?;
        }
        Ok(ImageRef::File { folder: self.folder.clone(), path })
    }
}

/// Pixels as a PNG file.
pub(crate) fn png(pixels: &RgbImage) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, ImageFormat::Png).map_err(|e| e.to_string())?;
    Ok(bytes.into_inner())
}
