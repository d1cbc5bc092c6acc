//! The hand-drawn parts of pictures: the letters of signs, the faces and the hearts.

use crate::ObjectKind;

/// The characters that signs can show.
pub(crate) const FONT: &str = "ABDEFGHMNSUY";

/// A letter as five rows of three bits, the leftmost pixel first.
pub(crate) fn glyph(letter: char) -> Option<[u8; 5]> {
    Some(match letter {
        'A' => [0b010, 0b101, 0b111, 0b101, 0b101],
        'B' => [0b110, 0b101, 0b110, 0b101, 0b110],
        'D' => [0b110, 0b101, 0b101, 0b101, 0b110],
        'E' => [0b111, 0b100, 0b110, 0b100, 0b111],
        'F' => [0b111, 0b100, 0b110, 0b100, 0b100],
        'G' => [0b011, 0b100, 0b101, 0b101, 0b011],
        'H' => [0b101, 0b101, 0b111, 0b101, 0b101],
        'M' => [0b101, 0b111, 0b111, 0b101, 0b101],
        'N' => [0b110, 0b101, 0b101, 0b101, 0b101],
        'S' => [0b011, 0b100, 0b010, 0b001, 0b110],
        'U' => [0b101, 0b101, 0b101, 0b101, 0b111],
        'Y' => [0b101, 0b101, 0b010, 0b010, 0b010],
        _ => return None,
    })
}

/// A face or a heart as ten rows: `#` is body, `o` dark detail, `.` see-through.
pub(crate) fn icon(kind: ObjectKind) -> Option<[&'static str; 10]> {
    Some(match kind {
        ObjectKind::Happy => [
            "..######..",
            ".########.",
            "##########",
            "##oo##oo##",
            "##oo##oo##",
            "##########",
            "##o####o##",
            "###oooo###",
            ".########.",
            "..######..",
        ],
        ObjectKind::Angry => [
            "..######..",
            ".########.",
            "#o######o#",
            "##oo##oo##",
            "##oo##oo##",
            "##########",
            "###oooo###",
            "##o####o##",
            ".########.",
            "..######..",
        ],
        ObjectKind::Heart => [
            ".##....##.",
            "####..####",
            "##########",
            "##########",
            "##########",
            ".########.",
            "..######..",
            "...####...",
            "....##....",
            "..........",
        ],
        ObjectKind::Broken => [
            ".##....##.",
            "####.o####",
            "####o#####",
            "#####o####",
            "####o#####",
            ".####o###.",
            "..##o###..",
            "...#o##...",
            "....##....",
            "..........",
        ],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_font_lists_its_glyphs() {
        let drawable: String = (' '..='\u{ff}').filter(|&c| glyph(c).is_some()).collect();
        assert_eq!(drawable, FONT);
    }
}
