//! What this machine can do at most: the peak of its cores and the bandwidth of its memory, measured.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use kernels::{Context, Isa, peak, sustained};
use serde_json::{Value, json};

use super::measure::measure;

/// Larger than any cache, in numbers of eight bytes.
const BUFFER: usize = 64 << 20;
const RUNS: usize = 7;
const SUSTAINED_SECONDS: f64 = 1.0;
const TURNS: usize = 100_000;

/// Measures and prints one line of JSON.
pub(crate) fn print() {
    let context = Context::default();
    let threads = context.threads().count();
    let peak = peak(&context);
    let one = Context::new(Some(1), None);
    println!(
        "{}",
        json!({
            "threads": threads,
            "isa": format!("{:?}", Isa::detect()),
            "peak_f32_gflops": peak.f32_gflops,
            "peak_bf16_gflops": peak.bf16_gflops,
            "sustained_gflops": sustained(&context, SUSTAINED_SECONDS),
            "sustained_by_one_gflops": sustained(&one, SUSTAINED_SECONDS),
            "read_gbytes_per_s": read_bandwidth(threads, BUFFER),
            "line_passes_in_ns": line_passes_in(TURNS),
        })
    );
}

/// GB/s of all threads that add up a buffer, the best of some runs.
fn read_bandwidth(threads: usize, numbers: usize) -> f64 {
    let buffer = vec![1u64; numbers];
    let run = |_| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in buffer.chunks(numbers.div_ceil(threads)) {
                scope.spawn(|| std::hint::black_box(sum(part)));
            }
        });
        size_of_val(buffer.as_slice()) as f64 / start.elapsed().as_secs_f64() * 1e-9
    };
    (0..RUNS).map(run).fold(0.0, f64::max)
}

/// Nanoseconds in which a line of memory passes from one core to another: two threads write it in turns. Tells
/// whether the cores are on one die; none where there is one core.
pub(crate) fn line_passes_in(turns: usize) -> Option<f64> {
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return None;
    }
    let turn = AtomicUsize::new(0);
    let play = |first: usize| {
        for mine in (first..turns).step_by(2) {
            while turn.load(Ordering::Acquire) != mine {
                std::hint::spin_loop();
            }
            turn.store(mine + 1, Ordering::Release);
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| play(1));
        play(0);
    });
    Some(start.elapsed().as_secs_f64() / turns as f64 * 1e9)
}

/// In lanes, so that additions do not wait for each other.
fn sum(numbers: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    let (chunks, rest) = numbers.as_chunks::<32>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*number);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(0, |all, number| all.wrapping_add(*number))
}

/// Measures in a process of its own, and says it.
pub(crate) fn measure_and_say(mut side: Command) -> Result<Value> {
    let found = measure(&mut side)?;
    let of = |key: &str| found[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "\n{}; peak of the cores {:.0} GFLOP/s in bf16 ({:.0} for a second on end, one core alone {:.0}), {:.0} in f32; memory \
         is read at {:.1} GB/s; a line passes between two cores in {:.0} ns",
        description(),
        of("peak_bf16_gflops"),
        of("sustained_gflops"),
        of("sustained_by_one_gflops"),
        of("peak_f32_gflops"),
        of("read_gbytes_per_s"),
        of("line_passes_in_ns")
    );
    Ok(found)
}

fn description() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |line: &str| line.strip_prefix("model name").map(str::to_owned);
    let model = info.lines().find_map(named).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{cores} cores of {}",
        model.trim_start_matches([' ', '\t', ':'])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_buffer_is_read() {
        let numbers: Vec<u64> = (0..1_000).collect();
        assert_eq!(sum(&numbers), 499_500);
        assert!(read_bandwidth(2, 1_001) > 0.0);
    }

    #[test]
    fn turns_end() {
        for turns in [0, 1, 2, 7] {
            assert!(line_passes_in(turns).is_none_or(|ns| ns > 0.0));
        }
    }
}
