//! `/screenshot.png`: a picture as a PNG file (W3C PNG, third edition), 8 bits a sample.

use devices::display::Picture;
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError};

/// `picture` as a PNG file. A row at a time, so that only the file itself needs memory.
///
/// # Errors
/// The picture has no pixels.
pub fn png(picture: &Picture) -> Result<Vec<u8>, EncodingError> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut rows = writer.stream_writer()?;
    let mut row = Vec::new();
    for y in 0..picture.height() {
        row.clear();
        for pixel in picture.row(y) {
            let [_, red, green, blue] = pixel.to_be_bytes();
            row.extend_from_slice(&[red, green, blue]);
        }
        std::io::Write::write_all(&mut rows, &row)?;
    }
    rows.finish()?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_come_back() {
        let mut picture = Picture::new(3, 2);
        picture.row_mut(0).copy_from_slice(&[0x00ff_0000, 0x0000_ff00, 0x0000_00ff]);
        picture.row_mut(1)[2] = 0x0012_3456;
        let file = png(&picture).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; 18];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (3, 2, ColorType::Rgb));
        assert_eq!(pixels, [255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn a_picture_without_pixels_is_none() {
        assert!(png(&Picture::default()).is_err());
    }
}
