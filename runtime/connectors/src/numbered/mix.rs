//! Numbers without pattern, as functions of other numbers.

/// A bijection of 64 bits whose output looks random: the finaliser of the SplitMix64 generator.
#[inline]
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A number below `limit`, from 64 random bits.
#[inline]
pub(crate) fn uniform(bits: u64, limit: u64) -> u64 {
    ((u128::from(bits) * u128::from(limit)) >> 64) as u64
}

/// A permutation of `0 .. size` without visible pattern.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    size: u64,
    mask: u64,
    shift: u32,
    multipliers: [u64; 3],
    offset: u64,
}

impl Permutation {
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: u64, seed: u64) -> Self {
        assert!(size > 0, "there is no permutation of nothing");
        let bits = (64 - (size - 1).leading_zeros()).max(2);
        Permutation {
            size,
            mask: u64::MAX >> (64 - bits),
            shift: bits.div_ceil(2),
            multipliers: [1, 2, 3].map(|round| mix(seed.wrapping_add(round)) | 1),
            offset: mix(seed),
        }
    }

    /// Where `index < size` goes.
    #[inline]
    pub fn of(&self, index: u64) -> u64 {
        let mut value = index;
        loop {
            // Each step maps the numbers of that many bits one to one, so the whole does; what falls outside of
            // the size goes round again, which keeps it one to one.
            value = value.wrapping_add(self.offset) & self.mask;
            for multiplier in self.multipliers {
                value = value.wrapping_mul(multiplier) & self.mask;
                value ^= value >> self.shift;
            }
            if value < self.size {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_hits_each_number_once() {
        for size in [1, 2, 3, 4, 5, 7, 8, 100, 1000, 1024, 1025, 65_537] {
            for seed in 0..4 {
                let permutation = Permutation::new(size, seed);
                let mut hit: Vec<_> = (0..size).map(|index| permutation.of(index)).collect();
                let neighbours = hit.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count() as u64;
                assert!(size < 100 || neighbours < size / 20, "size {size}, seed {seed}: {neighbours} in sequence");
                hit.sort_unstable();
                assert!(hit.iter().copied().eq(0..size), "size {size}, seed {seed}");
            }
        }
    }

    #[test]
    fn uniform_numbers_are_even() {
        let mut counts = [0; 10];
        (0..100_000).for_each(|n| counts[uniform(mix(n), 10) as usize] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
