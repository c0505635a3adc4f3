//! Softmax attention by its definition: every query lists the keys that it sees.

use super::grid::{Grid, dot};
use crate::shapes::{AttentionShape, HeadLayout, Rotation, Segment};

/// A token as key: its row and its position in the segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) row: usize,
    pub(crate) position: usize,
}

/// Query rows, each with the keys it sees.
pub(crate) fn sights(shape: &AttentionShape, segments: &[Segment]) -> Vec<(usize, Vec<Key>)> {
    let mut sights = Vec::new();
    for segment in segments {
        let prefix = segment.prefix.map_or(0..0, |p| p.start..p.start + p.len);
        let rows: Vec<usize> = prefix
            .chain(segment.start..segment.start + segment.len)
            .collect();
        for query in segment.first_position()..rows.len() {
            sights.push((rows[query], seen(shape, query, &rows)));
        }
    }
    sights
}

/// The keys that a query at `position` sees among `rows`, which lie in order of position.
pub(crate) fn seen(shape: &AttentionShape, position: usize, rows: &[usize]) -> Vec<Key> {
    let first = shape
        .sliding_window
        .map_or(0, |window| (position + 1).saturating_sub(window));
    (first..=position)
        .map(|position| Key {
            row: rows[position],
            position,
        })
        .collect()
}

/// Columns of head `h`.
pub(crate) fn head(shape: &AttentionShape, layout: HeadLayout, h: usize) -> std::ops::Range<usize> {
    let first = layout.offset + h * layout.stride;
    first..first + shape.head_dim
}

/// The key and value head that query head `h` reads.
pub(crate) fn kv_head(shape: &AttentionShape, h: usize) -> usize {
    h / (shape.heads / shape.kv_heads)
}

/// Scaled scores of one query head, less `ALiBi`'s slope for each token of distance.
fn scores<'a>(
    shape: &AttentionShape,
    h: usize,
    q: &[f64],
    keys: &[Key],
    key_of: impl Fn(usize) -> &'a [f64],
) -> Vec<f64> {
    let slope = shape
        .alibi_slopes
        .as_ref()
        .map_or(0.0, |slopes| f64::from(slopes[h]));
    // A query sees itself last.
    let own = keys.last().map_or(0, |key| key.position);
    keys.iter()
        .map(|key| {
            let distance = (own - key.position) as f64;
            f64::from(shape.scale) * dot(q, key_of(key.row)) - slope * distance
        })
        .collect()
}

/// `log Σ exp`.
pub(crate) fn log_sum_exp(scores: &[f64]) -> f64 {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() {
        return top;
    }
    top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln()
}

/// One query head over its keys.
pub(crate) fn attend<'a>(
    shape: &AttentionShape,
    h: usize,
    q: &[f64],
    keys: &[Key],
    key_of: impl Fn(usize) -> &'a [f64],
    value_of: impl Fn(usize) -> &'a [f64],
) -> Vec<f64> {
    let scores = scores(shape, h, q, keys, key_of);
    let lse = log_sum_exp(&scores);
    let mut out = vec![0.0; shape.head_dim];
    for (key, score) in keys.iter().zip(scores) {
        let p = (score - lse).exp();
        for (out, v) in out.iter_mut().zip(value_of(key.row)) {
            *out += p * v;
        }
    }
    out
}

/// Output `[T, H·E]`.
pub(crate) fn attention(shape: &AttentionShape, qkv: &Grid, segments: &[Segment]) -> Grid {
    let mut out = Grid::zeros(qkv.rows, shape.heads * shape.head_dim);
    for (query, keys) in sights(shape, segments) {
        for h in 0..shape.heads {
            let kv = kv_head(shape, h);
            let attended = attend(
                shape,
                h,
                &qkv.row(query)[head(shape, shape.query, h)],
                &keys,
                |row| &qkv.row(row)[head(shape, shape.key, kv)],
                |row| &qkv.row(row)[head(shape, shape.value, kv)],
            );
            out.row_mut(query)[h * shape.head_dim..][..shape.head_dim].copy_from_slice(&attended);
        }
    }
    out
}

/// `[T, qkv columns]`: the gradient of [`attention`].
pub(crate) fn backward(
    shape: &AttentionShape,
    qkv: &Grid,
    segments: &[Segment],
    dout: &Grid,
) -> Grid {
    let mut dqkv = Grid::zeros(qkv.rows, qkv.cols);
    for (query, keys) in sights(shape, segments) {
        for h in 0..shape.heads {
            let kv = kv_head(shape, h);
            let (q, k) = (head(shape, shape.query, h), head(shape, shape.key, kv));
            let v = head(shape, shape.value, kv);
            let own = h * shape.head_dim..(h + 1) * shape.head_dim;
            let dout = &dout.row(query)[own];
            let q_row = &qkv.row(query)[q.clone()];
            let key_of = |row| &qkv.row(row)[k.clone()];
            let out = attend(shape, h, q_row, &keys, key_of, |row| {
                &qkv.row(row)[v.clone()]
            });
            let delta = dot(dout, &out);
            let scores = scores(shape, h, q_row, &keys, key_of);
            let lse = log_sum_exp(&scores);
            for (key, score) in keys.iter().zip(scores) {
                let p = (score - lse).exp();
                let dp = dot(dout, &qkv.row(key.row)[v.clone()]);
                let ds = p * (dp - delta) * f64::from(shape.scale);
                let k_row = &qkv.row(key.row)[k.clone()];
                add(&mut dqkv.row_mut(query)[q.clone()], ds, k_row);
                add(&mut dqkv.row_mut(key.row)[k.clone()], ds, q_row);
                add(&mut dqkv.row_mut(key.row)[v.clone()], p, dout);
            }
        }
    }
    dqkv
}

/// Turns the leading pairs `(i, i + half)` of every query and key head.
pub(crate) fn rotate(
    shape: &AttentionShape,
    qkv: &mut Grid,
    positions: &[u32],
    table: &Grid,
    rotation: Rotation,
) {
    let half = table.cols / 2;
    let sign = match rotation {
        Rotation::Forward => 1.0,
        Rotation::Backward => -1.0,
    };
    for (r, position) in positions.iter().enumerate() {
        let (cos, sin) = table.row(*position as usize).split_at(half);
        let queries = (0..shape.heads).map(|h| head(shape, shape.query, h));
        let keys = (0..shape.kv_heads).map(|h| head(shape, shape.key, h));
        for columns in queries.chain(keys) {
            let (low, high) = qkv.row_mut(r)[columns].split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - sign * b * sin[i];
                high[i] = b * cos[i] + sign * a * sin[i];
            }
        }
    }
}

fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    for (to, x) in to.iter_mut().zip(from) {
        *to += factor * x;
    }
}
