//! UTF-8 check that is fast on what telemetry is made of: short ASCII strings.
//!
//! On strings of 5 to 60 bytes the general checkers spend more on their set-up than on the bytes.

const HIGH_BITS_8: u64 = 0x8080_8080_8080_8080;
const HIGH_BITS_4: u32 = 0x8080_8080;

/// Whether `text` is UTF-8.
#[inline(always)]
pub fn is_utf8(text: &[u8]) -> bool {
    is_ascii(text) || is_utf8_slow(text)
}

#[cold]
#[inline(never)]
fn is_utf8_slow(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok()
}

/// Whether no byte has its high bit set; words that overlap cover the rest, so there is no byte loop.
#[inline(always)]
fn is_ascii(text: &[u8]) -> bool {
    if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        let mut seen = u64::from_le_bytes(*first) | u64::from_le_bytes(*last);
        if text.len() > 16 {
            seen |= or_words(text);
        }
        return seen & HIGH_BITS_8 == 0;
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return (u32::from_le_bytes(*first) | u32::from_le_bytes(*last)) & HIGH_BITS_4 == 0;
    }
    text.iter().fold(0, |seen, byte| seen | byte) < 0x80
}

#[inline(always)]
fn or_words(text: &[u8]) -> u64 {
    let (words, _) = text.as_chunks::<8>();
    words.iter().fold(0, |seen, word| seen | u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bad_byte_is_found_at_every_place_of_every_length() {
        for length in 0..70 {
            let mut text = vec![b'a'; length];
            assert!(is_utf8(&text));
            for at in 0..length {
                text[at] = 0xff;
                assert!(!is_utf8(&text), "{at} of {length}");
                text[at] = b'a';
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(text: Vec<u8>, words: String) {
            prop_assert_eq!(is_utf8(&text), std::str::from_utf8(&text).is_ok());
            prop_assert!(is_utf8(words.as_bytes()));
        }
    }
}
