//! Decompression bombs: zeros at 1032 to one, written without a compressor.

/// Zeros that one match makes, and matches in a byte of the stream (RFC 1951 §3.2.5).
const MATCH: usize = 258;
const MATCHES_IN_BYTE: usize = 4;

/// Zeros that one byte of the stream makes.
const ZEROS_IN_BYTE: usize = MATCH * MATCHES_IN_BYTE;

struct Bits {
    bytes: Vec<u8>,
    count: u32,
}

impl Bits {
    /// Numbers go least significant bit first.
    fn number(&mut self, value: u32, bits: u32) {
        for bit in 0..bits {
            let one = u8::from(value >> bit & 1 == 1);
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= one << (self.count % 8);
            }
            self.count += 1;
        }
    }

    /// Codes go most significant bit first.
    fn code(&mut self, text: &str) {
        for bit in text.bytes() {
            self.number(u32::from(bit == b'1'), 1);
        }
    }
}

/// A zlib stream (RFC 1950) that inflates to at least `zeros` zeros, and to how many.
pub(super) fn zeros(zeros: usize) -> (Vec<u8>, usize) {
    let mut bits = Bits { bytes: vec![0x78, 0x9c], count: 0 };
    // One last block with its own codes: 286 lengths, one distance, 18 code lengths.
    bits.number(1, 1);
    bits.number(2, 2);
    bits.number(29, 5);
    bits.number(0, 5);
    bits.number(14, 4);
    // In the order 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1: `18` is 0, `1` is 10, `2` is 11.
    for length in [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2] {
        bits.number(length, 3);
    }
    // Literal 0 and end of block have two bits, the longest match and its distance one.
    bits.code("11");
    for run in [138, 117] {
        bits.code("0");
        bits.number(run - 11, 7);
    }
    bits.code("11");
    bits.code("0");
    bits.number(28 - 11, 7);
    bits.code("10");
    bits.code("10");
    // The first zero, then matches of two zero bits each.
    bits.code("10");
    let pad = (8 - bits.count % 8) % 8;
    bits.number(0, pad);
    let whole = zeros / ZEROS_IN_BYTE + 1;
    bits.bytes.resize(bits.bytes.len() + whole, 0);
    // A match that the padding began ends here.
    let odd = pad % 2;
    bits.number(0, odd);
    let ends = usize::try_from((pad + odd) / 2).unwrap_or(0);
    let made = 1 + MATCH * ends + ZEROS_IN_BYTE * whole;
    bits.code("11");
    let mut stream = bits.bytes;
    // Adler-32 of zeros: the sum stays 1, the sum of sums counts them.
    let sums = u32::try_from(made % 65_521).unwrap_or(0);
    stream.extend(((sums << 16) | 1).to_be_bytes());
    (stream, made)
}
