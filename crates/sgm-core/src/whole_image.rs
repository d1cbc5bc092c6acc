//! Image files that are cut off, in formats whose decoders make do with a part.

use image::ImageFormat;

/// Whether a file has its end; true for formats whose decoders see to it.
pub(crate) fn is_whole(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => jpeg_is_whole(bytes),
        ImageFormat::WebP => webp_is_whole(bytes),
        ImageFormat::Gif => first_frame_is_whole(bytes).is_some(),
        _ => true,
    }
}

/// Whether the segments and scans of a JPEG file reach the marker of its end. That of a thumbnail, within a segment, does not count.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        // Compressed data, or anything else, goes on to the next marker.
        let Some(at) = rest.iter().position(|byte| *byte == 0xff) else { return false };
        rest = rest.get(at..).unwrap_or_default();
        let fill = rest.iter().take_while(|byte| **byte == 0xff).count();
        let Some((marker, after)) = rest.get(fill..).and_then(<[u8]>::split_first) else { return false };
        rest = match marker {
            0xd9 => return true,
            // A byte of compressed data, or a marker without a segment.
            0x00 | 0x01 | 0xd0..=0xd8 => after,
            _ => {
                let Some(length) = after.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length))) else { return false };
                let Some(after) = after.get(length..) else { return false };
                after
            }
        };
    }
}

/// Whether a WebP file has as many bytes as its RIFF header says.
fn webp_is_whole(bytes: &[u8]) -> bool {
    let size = bytes.get(4..8).and_then(<[u8]>::first_chunk::<4>).map(|size| u64::from(u32::from_le_bytes(*size)));
    size.is_some_and(|size| bytes.len() as u64 >= size + 8)
}

/// What follows the first frame of a GIF file, if the file has all of this frame.
fn first_frame_is_whole(bytes: &[u8]) -> Option<&[u8]> {
    // A colour table has 3 bytes for each of 2^(n+1) colours; bit 7 of its descriptor says whether there is one.
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
    let mut rest = bytes.get(13 + table(*bytes.get(10)?)..)?;
    loop {
        match rest.first()? {
            // An extension, such as a comment, and its sub-blocks.
            0x21 => rest = after_sub_blocks(rest.get(2..)?)?,
            // A frame: descriptor, colour table, code size and sub-blocks.
            0x2c => return after_sub_blocks(rest.get(11 + table(*rest.get(9)?)..)?),
            _ => return None,
        }
    }
}

/// What follows sub-blocks, each its length in one byte and as many bytes, up to one without any.
fn after_sub_blocks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, after) = bytes.split_first()?;
        bytes = after.get(usize::from(*length)..)?;
        if *length == 0 {
            return Some(bytes);
        }
    }
}
