//! The order in which an epoch visits rows: `torch.randperm` on a generator seeded with seed + epoch.
//!
//! This is what the Trainer does through accelerate's `SeedableRandomSampler`. MT19937: Matsumoto and Nishimura 1998,
//! `init_genrand`; the shuffle: `randperm_cpu` in ATen/native/TensorFactories.cpp.

const STATE: usize = 624;
const SHIFT: usize = 397;

/// The Mersenne Twister, as torch's CPU generator runs it.
struct Mt19937 {
    state: [u32; STATE],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for i in 1..STATE {
            let previous = state[i - 1];
            state[i] = (previous ^ (previous >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, next: STATE }
    }

    fn refill(&mut self) {
        for i in 0..STATE {
            let joined =
                (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }
}

/// The rows 0 to `len - 1` in the order of `epoch`, for any `len` up to `u32::MAX`.
///
/// * `seed`: `data_seed`, else `seed` of the run; torch keeps its low 32 bits.
///
/// ```
/// assert_eq!(lowrank_data::order::epoch_order(10, 42, 0), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
/// ```
///
/// # Panics
/// Where `len` is beyond `u32::MAX`; an [`EncodedDataset`](crate::EncodedDataset) never is.
pub fn epoch_order(len: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let len = u32::try_from(len).expect("an encoded dataset has at most u32::MAX rows");
    let mut generator = Mt19937::new(seed.wrapping_add(epoch) as u32);
    let mut order: Vec<u32> = (0..len).collect();
    // torch draws 32 bits a row while that keeps the skew of the remainder small, else 64.
    let narrow = u64::from(len) < (1 << 32) / 20;
    for i in 0..len.saturating_sub(1) {
        let left = len - i;
        let draw = if narrow {
            generator.next_u32() % left
        } else {
            (generator.next_u64() % u64::from(left)) as u32
        };
        order.swap(i as usize, (i + draw) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_torch_randperm() {
        assert_eq!(epoch_order(10, 42, 0), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
        assert_eq!(epoch_order(10, 0, 0), [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]);
        assert_eq!(epoch_order(10, 40, 2), epoch_order(10, 42, 0));
        assert_eq!(epoch_order(10, (1 << 32) + 42, 0), epoch_order(10, 42, 0));
        assert_eq!(
            (epoch_order(0, 1, 0), epoch_order(1, 1, 0)),
            (vec![], vec![0])
        );
    }

    #[test]
    fn generator_is_the_published_one() {
        // Python: random.seed does not use init_genrand; numpy.random.RandomState(5489) does.
        let mut generator = Mt19937::new(5489);
        assert_eq!(generator.next_u32(), 3_499_211_612);
        let last = (1..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995)); // C++ standard, [rand.predef]: the 10,000th value
    }

    #[test]
    fn every_row_is_visited_once() {
        let mut order = epoch_order(48_818, 42, 1);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &row)| i == row as usize));
    }
}
