//! Varints: little-endian groups of seven bits.

/// How many bytes `value` takes as a varint: 1 to 10.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    // Every started group of seven bits takes a byte; `| 1` because zero takes one too.
    ((value | 1).ilog2() / 7 + 1) as usize
}

/// Appends `value` as a varint of the least length.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announced_length_is_the_written_one() {
        for bits in 0..64 {
            for value in [(1u64 << bits) - 1, 1 << bits, (1 << bits) + 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                assert_eq!(crate::wire::Reader::new(&out).varint(), Ok(value));
            }
        }
        assert_eq!(varint_len(u64::MAX), 10);
    }
}
