//! What this machine's cores can do at most: register loops without memory.

use crate::{Context, Isa};
use std::time::Instant;

/// Measured rates of all threads of a context together, in GFLOP/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// f32 fused multiply-adds.
    pub f32_gflops: f64,
    /// bf16 dot products; equal to `f32_gflops` where they are emulated.
    pub bf16_gflops: f64,
}

/// Tasks a thread of one run, so that a thread that is kept waiting costs little.
const TASKS: usize = 8;
/// Rounds of a task, some 30 µs: short enough that a busy machine leaves a few runs undisturbed.
const ROUNDS: usize = 6_000;
/// Runs, of which the best counts.
const RUNS: usize = 100;

/// Runs a loop of multiply-adds on registers for some 30 ms each and takes the best slice.
pub fn peak(ctx: &Context) -> Peak {
    let f32_gflops = best(ctx, &float_loop(ctx.isa));
    let bf16_gflops = match bf16_loop(ctx.isa) {
        Some(kernel) => best(ctx, &kernel),
        None => f32_gflops,
    };
    Peak {
        f32_gflops,
        bf16_gflops,
    }
}

/// Runs so many rounds; returns something that depends on all of them.
type Loop = unsafe fn(rounds: usize) -> f32;

/// Operations of one round of every loop.
struct Timed {
    kernel: Loop,
    flops_per_round: usize,
}

/// The same bf16 loop (f32's where it is emulated) for so many seconds on end, in GFLOP/s: what is left of the peak when
/// the clock has settled and neighbours take their share.
pub fn sustained(ctx: &Context, seconds: f64) -> f64 {
    let timed = bf16_loop(ctx.isa).unwrap_or_else(|| float_loop(ctx.isa));
    let (start, mut runs, mut passed) = (Instant::now(), 0, 0.0);
    while passed < seconds {
        let _ = rate(ctx, &timed);
        runs += 1;
        passed = start.elapsed().as_secs_f64();
    }
    (runs * ctx.threads.count() * TASKS * ROUNDS * timed.flops_per_round) as f64 / passed * 1e-9
}

fn best(ctx: &Context, timed: &Timed) -> f64 {
    (0..RUNS).map(|_| rate(ctx, timed)).fold(0.0, f64::max)
}

fn rate(ctx: &Context, timed: &Timed) -> f64 {
    let threads = ctx.threads.count();
    let start = Instant::now();
    ctx.threads.run(threads * TASKS, |_| {
        // SAFETY: chosen for the context's instruction set, which this processor has.
        std::hint::black_box(unsafe { (timed.kernel)(std::hint::black_box(ROUNDS)) });
    });
    let flops = threads * TASKS * ROUNDS * timed.flops_per_round;
    flops as f64 / start.elapsed().as_secs_f64() * 1e-9
}

fn float_loop(isa: Isa) -> Timed {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => Timed {
            kernel: x86::avx512,
            flops_per_round: 16 * 16 * 2,
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Timed {
            kernel: x86::avx2,
            flops_per_round: 12 * 8 * 2,
        },
        _ => Timed {
            kernel: portable,
            flops_per_round: 64 * 2,
        },
    }
}

fn bf16_loop(isa: Isa) -> Option<Timed> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => Some(Timed {
            kernel: x86::avx512_bf16,
            flops_per_round: 16 * 32 * 2,
        }),
        _ => None,
    }
}

/// # Safety
/// None needed.
unsafe fn portable(rounds: usize) -> f32 {
    let mut sums = std::hint::black_box([1.0f32; 64]);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.mul_add(0.999_9, 1e-9);
        }
    }
    sums.iter().sum()
}

// The sums start from values that the compiler does not know, or it would find them all equal.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(rounds: usize) -> f32 {
        let (a, b) = (_mm512_set1_ps(0.9999), _mm512_set1_ps(1e-9));
        let mut sums = std::hint::black_box([_mm512_set1_ps(1.0); 16]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    /// # Safety
    /// The processor has AVX-512 bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn avx512_bf16(rounds: usize) -> f32 {
        let ones = _mm512_set1_epi32(0x3f80_3f80);
        // SAFETY: both are 64 bytes of plain bits.
        let a = unsafe { std::mem::transmute::<__m512i, __m512bh>(ones) };
        let mut sums = std::hint::black_box([_mm512_set1_ps(1.0); 16]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, a);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(rounds: usize) -> f32 {
        let (a, b) = (_mm256_set1_ps(0.9999), _mm256_set1_ps(1e-9));
        let mut sums = std::hint::black_box([_mm256_set1_ps(1.0); 12]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        let total = sums
            .into_iter()
            .fold(_mm256_setzero_ps(), |total, sum| _mm256_add_ps(total, sum));
        _mm256_cvtss_f32(total)
    }
}
