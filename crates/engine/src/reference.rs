//! The oracle: every operation by its formula, in f64 from reading to the one rounding at its end.
//!
//! Slow and plain on purpose. Its gradients are held against finite differences (see `gradients`), and
//! the fast backends against it. With [`ComputeDtype::Bf16`] it rounds the inputs of the products as
//! such a backend does, so that what remains between them is only the order of sums.

mod activation;
mod attention;
#[cfg(test)]
mod gradients;
mod grid;
mod lora;
mod loss;
mod norm;
mod optim;

use crate::backend::{Backend, EngineError, Matrix, Qkv};
use crate::shapes::{
    Activation, AdamW, AttentionShape, ComputeDtype, LoraShape, LossMode, Norm, Orient, Rotation,
    Segment, Span, StoredDtype, StoredMatrix, View, ViewMut, Write,
};
use grid::Grid;

/// Steps from a slope of zero to one of one, where slopes are kept in bytes.
const SLOPE_STEPS: f64 = 200.0;

/// The scalar backend.
#[derive(Debug, Clone, Copy)]
pub struct Reference {
    compute: ComputeDtype,
}

/// A frozen matrix, decoded.
#[derive(Debug, Clone)]
pub struct Decoded {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl Default for Reference {
    fn default() -> Self {
        Self::new(ComputeDtype::F32)
    }
}

impl Reference {
    /// A backend whose products round their inputs as `compute` says.
    pub fn new(compute: ComputeDtype) -> Self {
        Self { compute }
    }

    /// A product's input.
    fn operand(self, grid: Grid) -> Grid {
        match self.compute {
            ComputeDtype::F32 => grid,
            ComputeDtype::Bf16 => grid.map(|x| half::bf16::from_f32(x as f32).to_f64()),
        }
    }

    /// A projection's matrix as `[O, D]`, rounded as an operand.
    fn matrix(self, matrix: Matrix<'_, Self>, orient: Orient) -> Grid {
        self.operand(stored(matrix).oriented(orient))
    }
}

impl Backend for Reference {
    type Buf = Vec<f32>;
    type Ids = Vec<u32>;
    type Kept = Vec<f32>;
    type Slopes = Vec<f64>;
    type Weight = Decoded;

    fn compute_dtype(&self) -> ComputeDtype {
        self.compute
    }

    fn alloc(&self, len: usize) -> Vec<f32> {
        // A value that spoils any sum: whoever reads before writing is seen.
        vec![-7.7e18; len]
    }

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn upload(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn download(&self, buf: &Vec<f32>) -> Result<Vec<f32>, EngineError> {
        Ok(buf.clone())
    }

    fn len(&self, buf: &Vec<f32>) -> usize {
        buf.len()
    }

    fn upload_ids(&self, ids: &[u32]) -> Vec<u32> {
        ids.to_vec()
    }

    fn weight(&self, stored: StoredMatrix) -> Result<Decoded, EngineError> {
        let bytes: &[u8] = stored.checked_bytes()?;
        let values = match stored.dtype {
            StoredDtype::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
            StoredDtype::F16 => two_byte(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            StoredDtype::Bf16 => two_byte(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        };
        Ok(Decoded {
            rows: stored.rows,
            cols: stored.cols,
            values,
        })
    }

    fn keep(&self, x: Vec<f32>) -> Vec<f32> {
        match self.compute {
            ComputeDtype::F32 => x,
            ComputeDtype::Bf16 => x
                .into_iter()
                .map(|x| half::bf16::from_f32(x).to_f32())
                .collect(),
        }
    }

    fn keep_copy(&self, x: &Vec<f32>) -> Vec<f32> {
        self.keep(x.clone())
    }

    fn recall(&self, kept: Vec<f32>) -> Vec<f32> {
        kept
    }

    fn copy(&self, x: View<'_, Vec<f32>>, y: ViewMut<'_, Vec<f32>>, write: Write) {
        load(x).store(y.buf, y.span, write);
    }

    fn fill(&self, buf: &mut Vec<f32>, value: f32) {
        buf.fill(value);
    }

    fn gather_rows(&self, x: View<'_, Vec<f32>>, rows: &Vec<u32>, y: ViewMut<'_, Vec<f32>>) {
        let x = load(x);
        select(&x, rows).store(y.buf, y.span, Write::Set);
    }

    fn scatter_rows(&self, dy: View<'_, Vec<f32>>, rows: &Vec<u32>, dx: ViewMut<'_, Vec<f32>>) {
        assert_eq!(rows.len(), dy.span.rows, "rows to scatter");
        for (i, row) in rows.iter().enumerate() {
            load_span(dy.buf, dy.span.rows(i, 1)).store(
                dx.buf,
                dx.span.rows(*row as usize, 1),
                Write::Add,
            );
        }
    }

    fn embed(
        &self,
        table: Matrix<'_, Self>,
        ids: &Vec<u32>,
        y: ViewMut<'_, Vec<f32>>,
        write: Write,
    ) {
        select(&stored(table), ids).store(y.buf, y.span, write);
    }

    fn embed_backward(&self, dy: View<'_, Vec<f32>>, ids: &Vec<u32>, dtable: &mut Vec<f32>) {
        let dy = load(dy);
        let mut sums = Grid::zeros(dtable.len() / dy.cols, dy.cols);
        for (t, id) in ids.iter().enumerate() {
            for (sum, d) in sums.row_mut(*id as usize).iter_mut().zip(dy.row(t)) {
                *sum += d;
            }
        }
        sums.add_to(dtable);
    }

    fn linear(
        &self,
        x: View<'_, Vec<f32>>,
        weight: Matrix<'_, Self>,
        orient: Orient,
        bias: Option<&Vec<f32>>,
        y: ViewMut<'_, Vec<f32>>,
        write: Write,
    ) {
        let x = self.operand(load(x));
        let mut product = x.times_transposed(&self.matrix(weight, orient));
        if let Some(bias) = bias {
            for r in 0..product.rows {
                for (y, b) in product.row_mut(r).iter_mut().zip(bias) {
                    *y += f64::from(*b);
                }
            }
        }
        product.store(y.buf, y.span, write);
    }

    fn linear_backward_input(
        &self,
        dy: View<'_, Vec<f32>>,
        weight: Matrix<'_, Self>,
        orient: Orient,
        dx: ViewMut<'_, Vec<f32>>,
        write: Write,
    ) {
        self.operand(load(dy))
            .times(&self.matrix(weight, orient))
            .store(dx.buf, dx.span, write);
    }

    fn linear_backward_weight(
        &self,
        x: View<'_, Vec<f32>>,
        dy: View<'_, Vec<f32>>,
        orient: Orient,
        dweight: &mut Vec<f32>,
    ) {
        load(dy)
            .transposed()
            .times(&load(x))
            .oriented(orient)
            .add_to(dweight);
    }

    fn bias_backward(&self, dy: View<'_, Vec<f32>>, dbias: &mut Vec<f32>) {
        load(dy).column_sums().add_to(dbias);
    }

    fn lora(
        &self,
        x: View<'_, Vec<f32>>,
        a: &Vec<f32>,
        b: &Vec<f32>,
        shape: LoraShape,
        xa: &mut Vec<f32>,
        y: ViewMut<'_, Vec<f32>>,
    ) {
        let x = load(x);
        let a = Grid::whole(a, shape.rank, x.cols);
        let b = Grid::whole(b, y.span.cols, shape.rank);
        let reduced = lora::reduced(&x, &a, shape);
        reduced.store(xa, Span::dense(x.rows, shape.rank), Write::Set);
        lora::delta(&reduced, &b, shape).store(y.buf, y.span, Write::Add);
    }

    fn lora_backward(
        &self,
        x: View<'_, Vec<f32>>,
        xa: &Vec<f32>,
        dy: View<'_, Vec<f32>>,
        a: &Vec<f32>,
        b: &Vec<f32>,
        shape: LoraShape,
        da: &mut Vec<f32>,
        db: &mut Vec<f32>,
        dx: Option<ViewMut<'_, Vec<f32>>>,
    ) {
        let (x, dy) = (load(x), load(dy));
        let a = Grid::whole(a, shape.rank, x.cols);
        let b = Grid::whole(b, dy.cols, shape.rank);
        let xa = load_span(xa, Span::dense(x.rows, shape.rank));
        let gradient = lora::backward(&x, &xa, &dy, &a, &b, shape);
        gradient.da.add_to(da);
        gradient.db.add_to(db);
        if let Some(dx) = dx {
            gradient.dx.store(dx.buf, dx.span, Write::Add);
        }
    }

    fn norm(
        &self,
        norm: Norm,
        x: View<'_, Vec<f32>>,
        weight: &Vec<f32>,
        bias: Option<&Vec<f32>>,
        y: ViewMut<'_, Vec<f32>>,
        stats: &mut Vec<f32>,
    ) {
        let x = load(x);
        let statistics = norm::statistics(norm, &x);
        let bias = bias.map(|bias| widened(bias));
        norm::norm(&x, &statistics, &widened(weight), bias.as_deref()).store(
            y.buf,
            y.span,
            Write::Set,
        );
        statistics.store(stats, Span::dense(x.rows, 2), Write::Set);
    }

    fn norm_backward(
        &self,
        norm: Norm,
        x: View<'_, Vec<f32>>,
        stats: &Vec<f32>,
        weight: &Vec<f32>,
        dy: View<'_, Vec<f32>>,
        dx: ViewMut<'_, Vec<f32>>,
        write: Write,
    ) {
        let stats = load_span(stats, Span::dense(x.span.rows, 2));
        norm::backward(norm, &load(x), &stats, &widened(weight), &load(dy))
            .store(dx.buf, dx.span, write);
    }

    fn norm_backward_parameters(
        &self,
        _norm: Norm,
        x: View<'_, Vec<f32>>,
        stats: &Vec<f32>,
        dy: View<'_, Vec<f32>>,
        dweight: Option<&mut Vec<f32>>,
        dbias: Option<&mut Vec<f32>>,
    ) {
        let stats = load_span(stats, Span::dense(x.span.rows, 2));
        let dy = load(dy);
        if let Some(dweight) = dweight {
            let hat = norm::normalised(&load(x), &stats);
            hat.zip(&dy, |x, d| x * d).column_sums().add_to(dweight);
        }
        if let Some(dbias) = dbias {
            dy.column_sums().add_to(dbias);
        }
    }

    fn activation(&self, f: Activation, x: View<'_, Vec<f32>>, y: ViewMut<'_, Vec<f32>>) {
        load(x)
            .map(|x| activation::value(f, x))
            .store(y.buf, y.span, Write::Set);
    }

    fn activation_backward(&self, f: Activation, x: View<'_, Vec<f32>>, dy: ViewMut<'_, Vec<f32>>) {
        load(x)
            .zip(&load_span(dy.buf, dy.span), |x, dy| {
                activation::derivative(f, x) * dy
            })
            .store(dy.buf, dy.span, Write::Set);
    }

    fn activation_keep(&self, f: Activation, x: Vec<f32>, _rows: usize) -> (Vec<f32>, Vec<f64>) {
        let slopes = x.iter().map(|x| {
            let slope = activation::derivative(f, f64::from(*x));
            match self.compute {
                ComputeDtype::F32 => slope,
                ComputeDtype::Bf16 => (slope * SLOPE_STEPS).round() / SLOPE_STEPS,
            }
        });
        let slopes = slopes.collect();
        let y = x.iter().map(|x| activation::value(f, f64::from(*x)) as f32);
        (y.collect(), slopes)
    }

    fn activation_recall(&self, _f: Activation, slopes: Vec<f64>, dy: ViewMut<'_, Vec<f32>>) {
        let mut gradient = load_span(dy.buf, dy.span);
        let cols = gradient.cols;
        for (r, slopes) in slopes.chunks(cols.max(1)).enumerate() {
            for (d, slope) in gradient.row_mut(r).iter_mut().zip(slopes) {
                *d *= slope;
            }
        }
        gradient.store(dy.buf, dy.span, Write::Set);
    }

    fn gated_activation(
        &self,
        f: Activation,
        gate_up: View<'_, Vec<f32>>,
        y: ViewMut<'_, Vec<f32>>,
    ) {
        activation::gated(f, &load(gate_up)).store(y.buf, y.span, Write::Set);
    }

    fn gated_activation_backward(
        &self,
        f: Activation,
        gate_up: ViewMut<'_, Vec<f32>>,
        dy: View<'_, Vec<f32>>,
    ) {
        let before = load_span(gate_up.buf, gate_up.span);
        activation::gated_backward(f, &before, &load(dy)).store(
            gate_up.buf,
            gate_up.span,
            Write::Set,
        );
    }

    fn rotate(
        &self,
        shape: &AttentionShape,
        qkv: ViewMut<'_, Vec<f32>>,
        positions: &Vec<u32>,
        table: View<'_, Vec<f32>>,
        rotation: Rotation,
    ) {
        let mut turned = load_span(qkv.buf, qkv.span);
        assert_eq!(positions.len(), turned.rows, "positions");
        attention::rotate(shape, &mut turned, positions, &load(table), rotation);
        turned.store(qkv.buf, qkv.span, Write::Set);
    }

    fn attention(
        &self,
        shape: &AttentionShape,
        qkv: Qkv<'_, Self>,
        segments: &[Segment],
        out: ViewMut<'_, Vec<f32>>,
    ) {
        let qkv = match qkv {
            Qkv::Made(view) => load(view),
            Qkv::Kept(kept) => rows_of(kept, out.span.rows),
        };
        let attended = attention::attention(shape, &qkv, segments);
        attended.store(out.buf, out.span, Write::Set);
    }

    fn attention_backward(
        &self,
        shape: &AttentionShape,
        qkv: &Vec<f32>,
        segments: &[Segment],
        dout: View<'_, Vec<f32>>,
        dqkv: ViewMut<'_, Vec<f32>>,
    ) {
        let qkv = rows_of(qkv, dqkv.span.rows);
        let gradient = attention::backward(shape, &qkv, segments, &load(dout));
        gradient.store(dqkv.buf, dqkv.span, Write::Set);
    }

    fn attention_cached(
        &self,
        shape: &AttentionShape,
        qkv: View<'_, Vec<f32>>,
        keys: &mut Vec<f32>,
        values: &mut Vec<f32>,
        past: usize,
        out: ViewMut<'_, Vec<f32>>,
    ) {
        let width = shape.kv_heads * shape.head_dim;
        let total = past + qkv.span.rows;
        for (cache, layout) in [(&mut *keys, shape.key), (&mut *values, shape.value)] {
            for h in 0..shape.kv_heads {
                let new = qkv
                    .span
                    .columns(layout.offset + h * layout.stride, shape.head_dim);
                let cached = Span::dense(total, width)
                    .rows(past, qkv.span.rows)
                    .columns(h * shape.head_dim, shape.head_dim);
                load_span(qkv.buf, new).store(cache, cached, Write::Set);
            }
        }
        let keys = load_span(keys, Span::dense(total, width));
        let values = load_span(values, Span::dense(total, width));
        attend_cache(shape, &load(qkv), &keys, &values, past).store(out.buf, out.span, Write::Set);
    }

    fn cross_entropy(
        &self,
        logits: ViewMut<'_, Vec<f32>>,
        targets: &Vec<u32>,
        weights: &Vec<f32>,
        first: usize,
        label_smoothing: f32,
        mode: LossMode,
        losses: &mut Vec<f32>,
    ) {
        let smoothing = f64::from(label_smoothing);
        let mut rows = load_span(logits.buf, logits.span);
        for r in 0..rows.rows {
            let target = targets[first + r] as usize;
            losses[first + r] = loss::loss(rows.row(r), target, smoothing) as f32;
            let weight = f64::from(weights[first + r]);
            let gradient = loss::gradient(rows.row(r), target, smoothing, weight);
            rows.row_mut(r).copy_from_slice(&gradient);
        }
        match mode {
            LossMode::Loss => {}
            LossMode::LossAndGradient => rows.store(logits.buf, logits.span, Write::Set),
        }
    }

    fn sum_of_squares(&self, buf: &Vec<f32>) -> Result<f64, EngineError> {
        Ok(buf.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
    }

    fn adamw(
        &self,
        parameter: &mut Vec<f32>,
        gradient: &Vec<f32>,
        m: &mut Vec<f32>,
        v: &mut Vec<f32>,
        settings: AdamW,
    ) {
        for i in 0..parameter.len() {
            let before = optim::Element {
                parameter: f64::from(parameter[i]),
                m: f64::from(m[i]),
                v: f64::from(v[i]),
            };
            let after = optim::step(before, f64::from(gradient[i]), settings);
            parameter[i] = after.parameter as f32;
            m[i] = after.m as f32;
            v[i] = after.v as f32;
        }
    }
}

fn load(view: View<'_, Vec<f32>>) -> Grid {
    Grid::load(view.buf, view.span)
}

fn load_span(buf: &[f32], span: Span) -> Grid {
    Grid::load(buf, span)
}

/// So many rows without gaps.
fn rows_of(kept: &[f32], rows: usize) -> Grid {
    Grid::whole(kept, rows, kept.len() / rows.max(1))
}

fn widened(buf: &[f32]) -> Vec<f64> {
    buf.iter().map(|x| f64::from(*x)).collect()
}

fn two_byte(bytes: &[u8], decode: impl Fn([u8; 2]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| decode(*b)).collect()
}

/// The values of a matrix, as it lies.
fn stored(matrix: Matrix<'_, Reference>) -> Grid {
    match matrix {
        Matrix::Frozen(Decoded { rows, cols, values }) => Grid::whole(values, *rows, *cols),
        Matrix::Dense { values, rows, cols } => Grid::whole(values, rows, cols),
    }
}

fn select(x: &Grid, rows: &[u32]) -> Grid {
    let mut y = Grid::zeros(rows.len(), x.cols);
    for (i, row) in rows.iter().enumerate() {
        y.row_mut(i).copy_from_slice(x.row(*row as usize));
    }
    y
}

fn attend_cache(
    shape: &AttentionShape,
    qkv: &Grid,
    keys: &Grid,
    values: &Grid,
    past: usize,
) -> Grid {
    let size = shape.head_dim;
    let rows: Vec<usize> = (0..keys.rows).collect();
    let mut out = Grid::zeros(qkv.rows, shape.heads * size);
    for t in 0..qkv.rows {
        let seen = attention::seen(shape, past + t, &rows);
        for h in 0..shape.heads {
            let kv = attention::kv_head(shape, h);
            let attended = attention::attend(
                shape,
                h,
                &qkv.row(t)[attention::head(shape, shape.query, h)],
                &seen,
                |row| &keys.row(row)[kv * size..][..size],
                |row| &values.row(row)[kv * size..][..size],
            );
            out.row_mut(t)[h * size..][..size].copy_from_slice(&attended);
        }
    }
    out
}
