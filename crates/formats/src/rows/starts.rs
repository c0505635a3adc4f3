//! Where the rows of a text file start, in a byte or two a row: a row itself can be two bytes.

/// Rows that are found from one place that is kept whole.
const BLOCK: usize = 64;

/// The byte where each row starts, rising.
#[derive(Default)]
pub(super) struct Starts {
    len: usize,
    last: usize,
    /// Of every [`BLOCK`]th row: where it starts, and where in `steps` the next row's step is.
    blocks: Vec<(usize, usize)>,
    /// Of every other row: bytes from the row before it, seven bits at a time, the lowest first.
    steps: Vec<u8>,
}

impl Starts {
    pub(super) fn push(&mut self, start: usize) {
        if self.len.is_multiple_of(BLOCK) {
            self.blocks.push((start, self.steps.len()));
        } else {
            let mut step = start - self.last;
            while step > 0x7f {
                self.steps.push(step as u8 | 0x80);
                step >>= 7;
            }
            self.steps.push(step as u8);
        }
        self.len += 1;
        self.last = start;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, index: usize) -> Option<usize> {
        if index >= self.len {
            return None;
        }
        let &(first, at) = self.blocks.get(index / BLOCK)?;
        let mut steps = self.steps[at..].iter();
        let further = (0..index % BLOCK).map(|_| step(&mut steps)).sum::<usize>();
        Some(first + further)
    }
}

fn step<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> usize {
    let (mut step, mut shift) = (0, 0);
    for &byte in bytes {
        step |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_are_found() {
        let lengths = [
            0,
            1,
            2,
            126,
            127,
            128,
            129,
            16_383,
            16_384,
            1 << 24,
            1 << 40,
        ];
        let mut starts = Starts::default();
        let mut want = Vec::new();
        let mut at = 3;
        for index in 0..1_000 {
            starts.push(at);
            want.push(at);
            at += lengths[index * index % lengths.len()];
        }
        let found: Vec<_> = (0..starts.len()).filter_map(|at| starts.get(at)).collect();
        assert_eq!(found, want);
        assert_eq!(starts.get(1_000), None);
    }
}
