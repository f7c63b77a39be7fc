//! RSA keys of a broken generator (ROCA, CVE-2017-15361), whose private keys can be computed from the public ones.
//!
//! Their primes are `k·M + (65537^a mod M)` with *M* a product of small primes, so the modulus is a power of 65537 modulo
//! each of those (Nemec et al., "The Return of Coppersmith's Attack", section 4). Another modulus is that modulo all of
//! them in less than one case of 2^27.

/// The small primes modulo which 65537 does not make everything.
const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

/// Whether the modulus, the most significant byte first, looks as that generator makes them.
pub fn is_suspect(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|&prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        (0..prime).any(|_| {
            power = power * (65_537 % prime) % prime;
            power == rest
        })
    })
}
