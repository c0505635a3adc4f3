//! Against the definition in f64, and the same bits for every instruction set and number of threads. The
//! gradients are held against the reference backend in `engine`.

use super::*;
use crate::Isa;
use crate::elementwise::uniform;
use crate::gemm::scalar::to_bf16;
use crate::half::{narrow, narrow_len, widen};
use proptest::prelude::*;

fn random(len: usize, key: u64) -> Vec<f32> {
    (0..len)
        .map(|i| 3.0 * uniform(key, i as u64) - 1.5)
        .collect()
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, slopes: Option<&[f32]>) -> Shape<'_> {
    let at = |head: usize| Layout {
        offset: head * head_dim + 1,
        stride: head_dim,
    };
    Shape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.3,
        query: at(0),
        key: at(heads),
        value: at(heads + kv_heads),
        alibi_slopes: slopes,
        sliding_window: None,
        precision: Precision::F32,
    }
}

fn own(start: usize, len: usize) -> Segment {
    Segment {
        start,
        len,
        prefix: None,
    }
}

struct Results {
    out: Vec<f32>,
    dqkv: Vec<f32>,
}

fn both(context: &Context, shape: &Shape<'_>, segments: &[Segment], tokens: usize) -> Results {
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 2;
    run(context, shape, segments, &random(tokens * width, 1))
}

fn run(context: &Context, shape: &Shape<'_>, segments: &[Segment], qkv: &[f32]) -> Results {
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 2;
    let outs = shape.heads * shape.head_dim;
    let dout = random(qkv.len() / width * outs, 2);
    run_with(context, shape, segments, qkv, &dout)
}

fn run_with(
    context: &Context,
    shape: &Shape<'_>,
    segments: &[Segment],
    qkv: &[f32],
    dout: &[f32],
) -> Results {
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 2;
    let qkv = Mat::dense(qkv, qkv.len() / width, width);
    run_on(context, shape, segments, qkv.into(), dout)
}

fn run_on(
    context: &Context,
    shape: &Shape<'_>,
    segments: &[Segment],
    qkv: Stream<'_>,
    dout: &[f32],
) -> Results {
    let (tokens, width) = qkv.size();
    let outs = shape.heads * shape.head_dim;
    let mut out = vec![9.0; tokens * outs];
    forward(
        context,
        shape,
        qkv,
        segments,
        MatMut::dense(&mut out, tokens, outs),
    );
    let mut dqkv = vec![9.0; tokens * width];
    backward(
        context,
        shape,
        qkv,
        segments,
        Mat::dense(dout, tokens, outs),
        MatMut::dense(&mut dqkv, tokens, width),
    );
    Results { out, dqkv }
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// What products of a precision read.
fn rounded(x: &[f32], precision: Precision) -> Vec<f32> {
    let round = match precision {
        Precision::F32 => |x: f32| x,
        Precision::Bf16 => to_bf16,
    };
    x.iter().copied().map(round).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// One in four is as small as what products take for zero and bf16 does not, or next to it.
fn with_subnormals(len: usize, key: u64) -> Vec<f32> {
    let small = [1e-40, -1e-40, f32::MIN_POSITIVE, -0.0, -1.2e-38];
    let mut x = random(len, key);
    for (i, x) in x.iter_mut().enumerate() {
        let draw = (40.0 * uniform(key ^ 5, i as u64)) as usize;
        *x = small.get(draw / 2).copied().unwrap_or(*x);
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_instruction_set_and_thread_count_gives_the_same_bits(
        lens in prop::collection::vec(1usize..80, 1..5),
        kv_heads in 1usize..3,
        group in 1usize..3,
        head_dim in 1usize..40,
        alibi: bool,
        window in prop::option::of(1usize..50),
        share: bool,
        bf16: bool,
    ) {
        let slopes: Vec<f32> = (0..4).map(|h| 0.5 / (h + 1) as f32).collect();
        let heads = kv_heads * group;
        let shape = Shape {
            sliding_window: window,
            precision: if bf16 { Precision::Bf16 } else { Precision::F32 },
            ..shape(heads, kv_heads, head_dim, alibi.then_some(&slopes[..heads]))
        };
        let mut segments = Vec::new();
        let mut start = 0;
        for len in &lens {
            let prefix = (share && start > 0).then_some((0, lens[0]));
            segments.push(Segment { start, len: *len, prefix });
            start += len;
        }
        let want = both(&Context::new(Some(1), Some(Isa::Scalar)), &shape, &segments, start);
        prop_assert!(want.out.iter().all(|x| x.is_finite() && *x != 9.0));
        for isa in Isa::available() {
            let got = both(&Context::new(Some(3), Some(isa)), &shape, &segments, start);
            prop_assert_eq!(bits(&got.out), bits(&want.out), "{:?}", isa);
            prop_assert_eq!(bits(&got.dqkv), bits(&want.dqkv), "{:?}", isa);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_bf16_keeps_is_read_as_its_copy_in_f32(
        lens in prop::collection::vec(1usize..80, 1..4),
        kv_heads in 1usize..3,
        group in 1usize..3,
        head_dim in 1usize..70,
        share: bool,
        key: u64,
    ) {
        let start = |i: usize| lens[..i].iter().sum::<usize>();
        let segments: Vec<_> = (0..lens.len())
            .map(|i| Segment {
                prefix: (share && i > 0).then_some((0, lens[0])),
                ..own(start(i), lens[i])
            })
            .collect();
        let (tokens, width) = (start(lens.len()), (group + 2) * kv_heads * head_dim + 2);
        let context = Context::new(Some(3), None);
        let mut halves = vec![0.0; narrow_len(tokens * width)];
        narrow(&context, &with_subnormals(tokens * width, key), &mut halves);
        let mut copy = vec![0.0; tokens * width];
        widen(&context, &halves, &mut copy);
        let dout = random(tokens * group * kv_heads * head_dim, 2);
        for precision in PRECISIONS {
            let shape = Shape { precision, ..shape(group * kv_heads, kv_heads, head_dim, None) };
            for isa in Isa::available() {
                let context = Context::new(Some(3), Some(isa));
                let want = run_with(&context, &shape, &segments, &copy, &dout);
                let kept = Stream::narrowed(&halves, tokens, width);
                let got = run_on(&context, &shape, &segments, kept, &dout);
                prop_assert_eq!(bits(&got.out), bits(&want.out), "{:?} {:?}", isa, precision);
                prop_assert_eq!(bits(&got.dqkv), bits(&want.dqkv), "{:?} {:?}", isa, precision);
            }
        }
    }
}

#[test]
fn one_head_is_the_softmax_of_its_scores() {
    let slopes = [0.4];
    let (tokens, width) = (11, 17);
    // A weight has eight bits in bf16.
    for (precision, tolerance) in PRECISIONS.into_iter().zip([1e-6, 3e-3]) {
        let shape = Shape {
            precision,
            ..shape(1, 1, 5, Some(&slopes))
        };
        let qkv = rounded(&random(tokens * width, 1), precision);
        let context = Context::new(Some(1), None);
        let results = run(&context, &shape, &[own(0, tokens)], &qkv);
        for t in 0..tokens {
            let at = |token: usize, kind: usize, e: usize| {
                f64::from(qkv[token * width + 1 + kind * 5 + e])
            };
            let score = |k: usize| {
                let dot: f64 = (0..5).map(|e| at(t, 0, e) * at(k, 1, e)).sum();
                dot * f64::from(0.3f32) - f64::from(0.4f32) * (t - k) as f64
            };
            let total: f64 = (0..=t).map(|k| score(k).exp()).sum();
            for e in 0..5 {
                let want: f64 = (0..=t).map(|k| score(k).exp() * at(k, 2, e)).sum::<f64>() / total;
                let got = f64::from(results.out[t * 5 + e]);
                assert!((got - want).abs() < tolerance, "{t} {e}: {got} {want}");
            }
        }
    }
}

#[test]
fn bf16_reads_rounded_rows_and_stays_near_f32() {
    let exact = shape(4, 2, 21, None);
    let bf16 = Shape {
        precision: Precision::Bf16,
        ..exact
    };
    let (tokens, width) = (150, 8 * 21 + 2);
    let segments = [own(0, 90), own(90, 60)];
    let context = Context::new(Some(2), None);
    let qkv = random(tokens * width, 1);
    let read = rounded(&qkv, Precision::Bf16);
    let got = run(&context, &bf16, &segments, &qkv);
    let same = run(&context, &bf16, &segments, &read);
    assert_eq!(bits(&got.out), bits(&same.out));
    assert_eq!(bits(&got.dqkv), bits(&same.dqkv));
    let want = run(&context, &exact, &segments, &read);
    let kinds = [(0, 4), (4, 2), (6, 2)].map(|(first, heads)| {
        let columns = 1 + first * 21..1 + (first + heads) * 21;
        let of = |x: &[f32]| -> Vec<f32> {
            let rows = x.chunks_exact(width);
            rows.flat_map(|row| row[columns.clone()].to_vec()).collect()
        };
        (of(&got.dqkv), of(&want.dqkv))
    });
    // Weights and gradients are rounded to eight bits, each by itself.
    for (got, want) in [(got.out, want.out)].into_iter().chain(kinds) {
        let error: f32 = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
        let size: f32 = want.iter().map(|x| x.powi(2)).sum();
        let far = (error / size).sqrt();
        assert!(far > 1e-5 && far < 4e-3, "{far}");
    }
}

#[test]
fn a_shared_prefix_gives_the_bits_of_rows_that_repeat_it() {
    for precision in PRECISIONS {
        shares_a_prefix(&Shape {
            precision,
            ..shape(2, 1, 24, None)
        });
    }
}

/// Of the rows that repeat the prefix, a row of each shared token; the second prefix stands at 34 to 55.
fn apart() -> impl Iterator<Item = (usize, usize)> {
    (0..34).zip(0..34).chain((34..43).zip(55..64))
}

fn shares_a_prefix(shape: &Shape<'_>) {
    let context = Context::new(Some(2), None);
    let width = 4 * 24 + 2;
    let prefix = Some((0, 21));
    let behind = |start, len| Segment { start, len, prefix };
    let shared = [own(0, 21), behind(21, 13), behind(34, 9)];
    let (qkv, dout) = (random(43 * width, 1), random(43 * 48, 2));
    let want = run_with(&context, shape, &shared, &qkv, &dout);
    let repeat = |x: &[f32], cols: usize| -> Vec<f32> {
        let rows = [0..34, 0..21, 34..43].into_iter();
        rows.flat_map(|rows| x[rows.start * cols..rows.end * cols].to_vec())
            .collect()
    };
    let mut dout_repeated = repeat(&dout, 48);
    // The prefix's own gradient comes in once.
    dout_repeated[34 * 48..55 * 48].fill(0.0);
    let segments = [own(0, 34), own(34, 30)];
    let got = run_with(
        &context,
        shape,
        &segments,
        &repeat(&qkv, width),
        &dout_repeated,
    );
    for (shared, apart) in apart() {
        let of = |x: &[f32], row: usize| bits(&x[row * 48..(row + 1) * 48]);
        assert_eq!(of(&want.out, shared), of(&got.out, apart), "token {shared}");
    }
    // Keys and values of the prefix have the sum of both rows' gradients, in another order.
    for (shared, apart) in apart() {
        for c in 1..width - 1 {
            let again = if shared < 21 {
                got.dqkv[(34 + shared) * width + c]
            } else {
                0.0
            };
            let (a, b) = (
                want.dqkv[shared * width + c],
                got.dqkv[apart * width + c] + again,
            );
            assert!(
                (a - b).abs() <= 1e-5,
                "gradient of token {shared}, column {c}: {a} {b}"
            );
        }
    }
}

#[test]
fn decoding_over_the_cache_gives_what_the_whole_row_gives() {
    let slopes = [0.4, 0.3, 0.2, 0.1];
    let shape = Shape {
        sliding_window: Some(19),
        ..shape(4, 2, 20, Some(&slopes))
    };
    let (tokens, width) = (40, 8 * 20 + 2);
    let qkv = random(tokens * width, 1);
    let whole = both(
        &Context::new(Some(1), None),
        &shape,
        &[own(0, tokens)],
        tokens,
    );
    for isa in Isa::available() {
        let context = Context::new(Some(2), Some(isa));
        let (mut keys, mut values) = (vec![0.0; 50 * 40], vec![0.0; 50 * 40]);
        let mut past = 0;
        for new in [17, 1, 1, 3, 9, 1, 8] {
            let mut out = vec![0.0; new * 80];
            let rows = Mat::dense(&qkv[past * width..(past + new) * width], new, width);
            let to = MatMut::dense(&mut out, new, 80);
            cached(&context, &shape, rows, &mut keys, &mut values, past, to);
            for (got, want) in out.iter().zip(&whole.out[past * 80..]) {
                assert!(
                    (got - want).abs() <= 2e-6,
                    "{isa:?} past {past}: {got} {want}"
                );
            }
            past += new;
        }
    }
}

#[test]
#[should_panic(expected = "is not a segment")]
fn a_prefix_that_is_no_segment_is_refused() {
    let stray = Segment {
        start: 8,
        len: 4,
        prefix: Some((0, 3)),
    };
    both(
        &Context::new(Some(1), None),
        &shape(1, 1, 4, None),
        &[own(0, 4), stray],
        12,
    );
}

#[test]
fn nan_and_infinity_stay_in_their_segment_and_subnormals_count_as_what_they_are() {
    for precision in PRECISIONS {
        keeps_to_segments(&Shape {
            precision,
            ..shape(2, 1, 21, None)
        });
    }
}

fn keeps_to_segments(shape: &Shape<'_>) {
    let width = 4 * 21 + 2;
    let segments = [own(0, 19), own(19, 23), own(42, 18)];
    let clean = random(60 * width, 1);
    let mut spoiled = clean.clone();
    // Token 30's second value, token 35's third key.
    spoiled[30 * width + 1 + 3 * 21 + 1] = f32::NAN;
    spoiled[35 * width + 1 + 2 * 21 + 2] = f32::INFINITY;
    let mut tiny = clean.clone();
    tiny[5 * width..6 * width]
        .iter_mut()
        .for_each(|x| *x *= 1e-40);
    for isa in Isa::available() {
        // One thread, so that all segments meet in the same scratch.
        let context = Context::new(Some(1), Some(isa));
        let want = run(&context, shape, &segments, &clean);
        let got = run(&context, shape, &segments, &spoiled);
        for rows in [0..19, 42..60] {
            let part = |x: &[f32], cols: usize| bits(&x[rows.start * cols..rows.end * cols]);
            assert_eq!(part(&got.out, 42), part(&want.out, 42), "{isa:?}");
            assert_eq!(part(&got.dqkv, width), part(&want.dqkv, width), "{isa:?}");
        }
        assert!(
            got.out[41 * 42..42 * 42].iter().any(|x| x.is_nan()),
            "{isa:?}"
        );
        let read = rounded(&tiny, shape.precision);
        let small = run(&context, shape, &segments, &tiny);
        // A query of almost nothing weighs its six keys alike.
        let mean: f32 = (0..6).map(|t| read[t * width + 1 + 3 * 21]).sum::<f32>() / 6.0;
        assert!((small.out[5 * 42] - mean).abs() < 1e-6, "{isa:?}");
    }
}

/// Two tasks would write the same columns of a gradient.
#[test]
#[should_panic(expected = "overlap")]
fn heads_that_overlap_have_no_gradient() {
    let mut shape = shape(2, 2, 4, None);
    shape.key.stride = 3;
    both(&Context::new(Some(1), None), &shape, &[own(0, 5)], 5);
}
