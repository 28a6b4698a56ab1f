//! Lines of bounded length from a stream that nobody trusts.

use std::io::{self, BufRead, Read};

use llem_protocol::MAX_LINE_BYTES;

/// Kept for the next line, so that one long record does not hold memory for the rest of the run.
const KEPT_CAPACITY_BYTES: usize = 64 * 1024;

/// What reading one line gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The buffer holds a line without its end.
    Complete,
    /// The line is longer than [`MAX_LINE_BYTES`]; the rest of the stream is of no use.
    TooLong,
    /// The stream has ended.
    End,
}

/// Reads one line into `buffer`, whose old content is dropped.
pub(crate) fn read_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Line> {
    buffer.clear();
    buffer.shrink_to(KEPT_CAPACITY_BYTES);
    let limit = MAX_LINE_BYTES as u64 + 1;
    let read = reader.take(limit).read_until(b'\n', buffer)?;
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
        return Ok(Line::Complete);
    }
    Ok(match read {
        0 => Line::End,
        _ if buffer.len() > MAX_LINE_BYTES => Line::TooLong,
        _ => Line::Complete,
    })
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn lines_end_at_newlines_and_at_the_end() {
        let mut reader = BufReader::new(&b"one\n\ntwo"[..]);
        let mut buffer = Vec::new();
        for expected in [&b"one"[..], b"", b"two"] {
            assert_eq!(read_line(&mut reader, &mut buffer).unwrap(), Line::Complete);
            assert_eq!(buffer, expected);
        }
        assert_eq!(read_line(&mut reader, &mut buffer).unwrap(), Line::End);
    }

    #[test]
    fn an_endless_line_is_given_up_at_the_limit() {
        let mut reader = BufReader::new(io::repeat(b'x'));
        let mut buffer = Vec::new();
        assert_eq!(read_line(&mut reader, &mut buffer).unwrap(), Line::TooLong);
        assert_eq!(buffer.len(), MAX_LINE_BYTES + 1);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_accepted() {
        let mut text = vec![b'x'; MAX_LINE_BYTES];
        text.push(b'\n');
        let mut buffer = Vec::new();
        assert_eq!(read_line(&mut &text[..], &mut buffer).unwrap(), Line::Complete);
        assert_eq!(buffer.len(), MAX_LINE_BYTES);
    }
}
