//! Where WebSocket frames begin and end (RFC 6455 §5.2), so that a Close can be put between two of them and seen when it
//! passes. Nothing is unmasked, nothing is kept.

/// "Service restart" (IANA's registry of close codes): come again.
pub const RESTART: [u8; 4] = close(1012);
/// "Server error": the instance ended in the middle.
pub const BROKEN: [u8; 4] = close(1011);

const CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Two bytes, at most eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// A whole unmasked Close frame with a code and no words.
const fn close(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FINAL | CLOSE, 2, high, low]
}

/// Follows one direction.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    /// Bytes of the present head that have passed; 0 when it is complete.
    head_bytes: usize,
    /// Bytes of the present payload that are still to come.
    left: u64,
    /// The present frame is a Close.
    closing: bool,
    closed: bool,
}

impl Frames {
    /// Between two frames: one may be put here.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.left == 0
    }

    /// A whole Close frame has passed. What comes after it is not looked at.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Lets bytes pass up to the end of the present frame, and answers how many they were: all, if it does not end here.
    pub fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let here = self.left.min((bytes.len() - at) as u64);
                self.left -= here;
                at += usize::try_from(here).unwrap_or(usize::MAX);
            } else {
                self.head[self.head_bytes] = bytes[at];
                self.head_bytes += 1;
                at += 1;
                let Some((opcode, length)) = self.whole_head() else { continue };
                self.head_bytes = 0;
                self.left = length;
                self.closing = opcode == CLOSE;
            }
            if self.is_between() {
                self.closed |= self.closing;
                return at;
            }
        }
        at
    }

    /// Lets all of them pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.pass_frame(bytes);
            bytes = &bytes[passed..];
        }
    }

    /// Opcode and length of the payload, once the head is whole.
    fn whole_head(&self) -> Option<(u8, u64)> {
        let head = self.head.get(..self.head_bytes)?;
        let (first, second) = (*head.first()?, *head.get(1)?);
        let mask_bytes = if second & MASKED == 0 { 0 } else { 4 };
        let length_bytes = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if head.len() < 2 + length_bytes + mask_bytes {
            return None;
        }
        let length = match length_bytes {
            0 => u64::from(second & !MASKED),
            _ => head[2..2 + length_bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        Some((first & 0x0F, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![FINAL | opcode];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        // A payload that looks like Close frames.
        bytes.extend(RESTART.iter().cycle().take(length));
        bytes
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        for masked in [false, true] {
            for length in [0, 1, 4, 125, 126, 300, 65_535, 65_536] {
                let first = frame(2, length, masked);
                let all = [first.clone(), frame(1, 5, masked), frame(CLOSE, 2, masked)].concat();
                for piece in [1, 2, 3, 7, 1000, all.len()] {
                    let mut frames = Frames::default();
                    let mut ends = Vec::new();
                    let mut passed = 0;
                    for bytes in all.chunks(piece) {
                        let mut rest = bytes;
                        while !rest.is_empty() {
                            let n = frames.pass_frame(rest);
                            passed += n;
                            rest = &rest[n..];
                            if frames.is_between() {
                                ends.push(passed);
                            }
                        }
                        assert_eq!(frames.has_closed(), passed == all.len());
                    }
                    let second = frame(1, 5, masked).len();
                    assert_eq!(ends, [first.len(), first.len() + second, all.len()], "{length} {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_put_between_is_a_close_frame() {
        let mut frames = Frames::default();
        frames.pass(&RESTART);
        assert!(frames.is_between() && frames.has_closed());
        assert_eq!(RESTART[2..], 1012u16.to_be_bytes());
    }

    #[test]
    fn absurd_lengths_do_not_overflow() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]);
        assert!(!frames.is_between());
    }
}
