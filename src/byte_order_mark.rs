//! Removes byte order marks: some editors write one at the start, and PowerShell's `>` writes
//! UTF-16. PEM readers take a mark as part of the first line, and miss the block that begins there.

/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The text of a file as UTF-8 without byte order marks. There may be several: `cat a.pem b.pem`
/// keeps those of both.
pub fn removed(bytes: Vec<u8>) -> Vec<u8> {
    let (units, unit): (_, fn([u8; 2]) -> u16) = match bytes.as_slice() {
        [0xff, 0xfe, units @ ..] => (units, u16::from_le_bytes),
        [0xfe, 0xff, units @ ..] => (units, u16::from_be_bytes),
        _ => return without_marks(bytes),
    };
    let (pairs, _) = units.as_chunks::<2>();
    let letters = char::decode_utf16(pairs.iter().map(|pair| unit(*pair)));
    letters.map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>().into_bytes()
}

fn without_marks(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.windows(MARK.len()).any(|window| window == MARK) {
        return bytes;
    }
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| line.strip_prefix(MARK).unwrap_or(line)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_nothing_else_does() {
        let utf_16 = |big: bool, text: &str| -> Vec<u8> {
            let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
            format!("\u{feff}{text}").encode_utf16().flat_map(bytes).collect()
        };
        for (bytes, expected) in [
            (b"plain\n".to_vec(), "plain\n"),
            ("\u{feff}one\n\u{feff}two \u{feff}\r\n".into(), "one\ntwo \u{feff}\r\n"),
            (utf_16(false, "one\r\nzwö 😀"), "one\r\nzwö 😀"),
            (utf_16(true, "one"), "one"),
            ([utf_16(false, "odd"), vec![b'x']].concat(), "odd"),
            (MARK.to_vec(), ""),
            (Vec::new(), ""),
        ] {
            assert_eq!(String::from_utf8(removed(bytes)).unwrap(), expected);
        }
        assert_eq!(removed(vec![0xef, 0xbb, 0x00, 0xff]), [0xef, 0xbb, 0x00, 0xff]);
    }
}
