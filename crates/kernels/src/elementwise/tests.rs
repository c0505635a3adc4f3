use super::*;
use crate::Isa;
use proptest::prelude::*;

fn contexts() -> Vec<Context> {
    Isa::available()
        .into_iter()
        .flat_map(|isa| [1, 3].map(|threads| Context::new(Some(threads), Some(isa))))
        .collect()
}

proptest! {
    #[test]
    fn sums_and_copies_have_the_same_bits_everywhere(
        x in prop::collection::vec(-1e3f32..1e3, 1..300),
        cols in 1usize..37,
    ) {
        let rows = x.len() / cols;
        let x = &x[..rows * cols];
        let x_mat = Mat::dense(x, rows, cols);
        for context in contexts() {
            let mut sums = vec![0.25; cols];
            add_column_sums(&context, x_mat, &mut sums);
            let mut twice = x.to_vec();
            copy(&context, x_mat, MatMut::dense(&mut twice, rows, cols), true);
            for c in 0..cols {
                let want = (0..rows).fold(0.25f32, |sum, r| sum + x[r * cols + c]);
                prop_assert_eq!(sums[c].to_bits(), want.to_bits());
            }
            prop_assert!(x.iter().zip(&twice).all(|(x, y)| *y == x + x));
            let squares = sum_of_squares(&context, x);
            let first = sum_of_squares(&contexts()[0], x);
            prop_assert_eq!(squares.to_bits(), first.to_bits());
            let want: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            prop_assert!((squares - want).abs() <= 1e-13 * want.abs());
        }
    }
}

#[test]
fn squares_of_a_long_vector_do_not_depend_on_threads() {
    let x: Vec<f32> = (0..3 * SUM_BLOCK + 5)
        .map(|i| uniform(1, i as u64) - 0.5)
        .collect();
    let sums: Vec<u64> = contexts()
        .iter()
        .map(|c| sum_of_squares(c, &x).to_bits())
        .collect();
    assert!(sums.iter().all(|s| *s == sums[0]));
}

#[test]
fn gathered_rows_are_those_asked_for() {
    let x: Vec<f32> = (0..30).map(|i| i as f32).collect();
    let rows: Vec<u32> = (0..100).map(|i| (i * 7 + 3) % 10).collect();
    let want: Vec<f32> = rows
        .iter()
        .flat_map(|row| [0.0, 1.0, 2.0].map(|column| *row as f32 * 3.0 + column))
        .collect();
    for context in contexts() {
        let mut y = vec![0.0; want.len()];
        let y_mat = MatMut::dense(&mut y, rows.len(), 3);
        gather(&context, Mat::dense(&x, 10, 3), &rows, y_mat);
        assert_eq!(y, want);
    }
}

#[test]
fn every_element_is_filled() {
    for context in contexts() {
        let mut x = vec![1.0; 333];
        fill(&context, &mut x, -2.5);
        assert!(x.iter().all(|x| *x == -2.5), "{x:?}");
    }
}

/// Two tasks would write the same elements.
#[test]
#[should_panic(expected = "columns at stride 3")]
fn rows_that_overlap_are_refused() {
    let (x, mut y) = (vec![0.0; 40], vec![0.0; 40]);
    let y = MatMut {
        data: &mut y,
        stride: 3,
        rows: 5,
        cols: 8,
    };
    copy(&Context::new(Some(1), None), Mat::dense(&x, 5, 8), y, false);
}

#[test]
fn what_is_not_finite_is_copied_and_summed_as_it_is() {
    let cols = 19;
    let mut x = vec![1.0; 3 * cols];
    let odd = [f32::NAN, f32::INFINITY, 1e-40, -0.0];
    x[cols + 14..cols + 18].copy_from_slice(&odd);
    let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
    for context in contexts() {
        let mut y = vec![0.0; x.len()];
        let x_mat = Mat::dense(&x, 3, cols);
        copy(&context, x_mat, MatMut::dense(&mut y, 3, cols), false);
        assert_eq!(bits(&y), bits(&x));
        let mut sums = vec![0.0; cols];
        add_column_sums(&context, Mat::dense(&x[cols..2 * cols], 1, cols), &mut sums);
        assert!(sums[14].is_nan() && sums[15] == f32::INFINITY && sums[16] == 1e-40);
        assert!(sum_of_squares(&context, &x).is_nan());
        assert_eq!(
            sum_of_squares(&context, &[f32::INFINITY; 20]),
            f64::INFINITY
        );
        // A square of f32's largest is no infinity in f64.
        assert!(sum_of_squares(&context, &[f32::MAX; 20]).is_finite());
    }
}
