//! Reads PHP's output up to the driver's line.

use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

/// In bytes: far more than 4,000 file names need.
const LIMIT: usize = 8 << 20;

/// PHP usually reaches its own time limit first, and then reports where it was.
const LATER: Duration = Duration::from_secs(1);

/// The result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The driver's line, without its mark.
    Line(Vec<u8>),
    TooMuch,
    Late,
    Ended,
}

/// Reads until the line that begins with `mark` is complete.
pub(super) fn wait(output: impl Read + Send + 'static, mark: Vec<u8>, timeout: Duration) -> Heard {
    let (sender, receiver) = mpsc::channel();
    // The thread ends with the last process that holds the other end, at the latest with this
    // program.
    std::thread::spawn(move || sender.send(read(output, &mark)));
    receiver.recv_timeout(timeout + LATER).unwrap_or(Heard::Late)
}

fn read(mut output: impl Read, mark: &[u8]) -> Heard {
    let (mut all, mut piece, mut from, mut searched) = (Vec::new(), [0; 16 * 1024], 0, 0);
    loop {
        let count = match output.read(&mut piece) {
            Ok(0) | Err(_) => return Heard::Ended,
            Ok(count) => count,
        };
        all.extend_from_slice(piece.get(..count).unwrap_or_default());
        while let Some(end) = memchr::memchr(b'\n', all.get(searched..).unwrap_or_default()) {
            let line = all.get(from..searched + end).unwrap_or_default();
            if let Some(line) = line.strip_prefix(mark) {
                return Heard::Line(line.to_vec());
            }
            searched += end + 1;
            from = searched;
        }
        searched = all.len();
        if all.len() > LIMIT {
            return Heard::TooMuch;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_mark_is_found_among_others() {
        let heard = |text: &'static [u8]| read(text, b"mark");
        assert_eq!(heard(b"noise\nmark{}\nmore"), Heard::Line(b"{}".to_vec()));
        assert_eq!(heard(b"mark{}"), Heard::Ended, "it is not whole");
        assert_eq!(heard(b"a mark{}\n"), Heard::Ended);
        assert_eq!(read(std::io::repeat(b'x'), b"mark"), Heard::TooMuch);
        assert_eq!(read(std::io::repeat(b'\n'), b"mark"), Heard::TooMuch);
    }
}
