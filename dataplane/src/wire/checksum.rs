//! The Internet checksum: ones-complement sums (RFC 1071) and incremental update (RFC 1624).

use crate::headers::Addresses;

/// A ones-complement sum in the making. 64 bits hold the carries of 2^32 words, far more than any packet has.
///
/// Words are added in the order of this machine and only the result is swapped: the sum does not mind (RFC 1071,
/// section 2 B).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum.
    pub const fn new() -> Sum {
        Sum(0)
    }

    /// Adds bytes as words in network order; an odd last byte is padded with zero, so only the last piece may be odd.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        // Four bytes at a time into 64 bits: no carry is lost, and the compiler makes vector adds of it.
        let (chunks, rest) = bytes.as_chunks::<4>();
        let mut sum = self.0;
        for chunk in chunks {
            sum += u64::from(u32::from_ne_bytes(*chunk));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Sum(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one 16-bit word.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word.to_be()))
    }

    /// Adds the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[must_use]
    pub fn pseudo_header(self, addresses: &Addresses, protocol: u8, length: u16) -> Sum {
        let sum = match addresses {
            Addresses::V4(source, destination) => self.bytes(&source.octets()).bytes(&destination.octets()),
            Addresses::V6(source, destination) => self.bytes(&source.octets()).bytes(&destination.octets()),
        };
        sum.word(u16::from(protocol)).word(length)
    }

    /// Folds the carries back in: 0xffff over data that includes its right checksum.
    #[inline]
    pub fn fold(self) -> u16 {
        // Added to itself with its halves exchanged, a number has in its upper half the sum of both and its carry.
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        u16::from_be((sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16)
    }

    /// The checksum field's value for data summed with that field as zero.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether the data, summed with its checksum field, is undamaged.
    #[inline]
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The checksum after one 16-bit word changed: HC' = ~(~HC + ~m + m') (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::new().word(!checksum).word(!old).word(new).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_gives_its_sum() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&data).fold(), 0xddf2);
        assert_eq!(Sum::new().bytes(&data).checksum(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_to_zero_and_not_to_ffff() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_counts_as_the_high_half_of_a_word() {
        assert_eq!(Sum::new().bytes(&[0, 1, 2]).fold(), 0x0201);
        assert_eq!(Sum::new().bytes(&[0, 1, 2, 0, 5]).fold(), 0x0701);
    }

    proptest::proptest! {
        #[test]
        fn any_data_sums_as_word_by_word(data in proptest::collection::vec(0u8.., 0..2000)) {
            let mut plain: u32 = 0;
            for pair in data.chunks(2) {
                plain += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
                plain = (plain & 0xffff) + (plain >> 16);
            }
            assert_eq!(u32::from(Sum::new().bytes(&data).fold()), plain);
        }
    }
}
