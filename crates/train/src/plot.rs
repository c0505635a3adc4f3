//! `loss.svg`: the logged losses as points, smoothed as a line, and the evaluations'.

use plotters::prelude::*;
use plotters::style::RGBColor;

use formats::trainer_state::LogEntry;

const SIZE: (u32, u32) = (900, 520);
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const EVAL: RGBColor = RGBColor(214, 90, 24);
/// Share of the old value in the smoothed line, as TensorBoard's slider at 0.8.
const SMOOTHING: f64 = 0.8;

type Points = Vec<(f64, f64)>;

/// The plot of a log; `None` where fewer than two losses are logged.
pub(crate) fn loss_svg(log: &[LogEntry]) -> Option<String> {
    let (train, eval) = (series(log, "loss"), series(log, "eval_loss"));
    if train.len().max(eval.len()) < 2 {
        return None;
    }
    let mut text = String::new();
    // Drawing into a string fails only where a range is empty, and `bounds` gives none.
    draw(&mut text, &train, &eval).ok()?;
    Some(text)
}

fn series(log: &[LogEntry], name: &str) -> Points {
    let point = |entry: &LogEntry| {
        let (step, loss) = (entry.number("step")?, entry.number(name)?);
        loss.is_finite().then_some((step, loss))
    };
    log.iter().filter_map(point).collect()
}

/// A running mean that forgets, corrected for its start.
fn smoothed(points: &Points) -> Points {
    let (mut mean, mut weight) = (0.0, 0.0);
    let smooth = |(step, loss): &(f64, f64)| {
        mean = mean * SMOOTHING + loss * (1.0 - SMOOTHING);
        weight = weight * SMOOTHING + (1.0 - SMOOTHING);
        (*step, mean / weight)
    };
    points.iter().map(smooth).collect()
}

fn bounds(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.05).max(1e-6);
    (low - margin, high + margin)
}

fn draw(
    text: &mut String,
    train: &Points,
    eval: &Points,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let all = train.iter().chain(eval);
    let (left, right) = bounds(all.clone().map(|point| point.0));
    let (low, high) = bounds(all.map(|point| point.1));
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .caption("loss", ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(left..right, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("update")
        .y_desc("loss")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .draw()?;
    chart.draw_series(
        train
            .iter()
            .map(|at| Circle::new(*at, 2, TRAIN.mix(0.35).filled())),
    )?;
    chart
        .draw_series(LineSeries::new(smoothed(train), TRAIN.stroke_width(2)))?
        .label("training (points: logged, line: smoothed)")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TRAIN.stroke_width(2)));
    if !eval.is_empty() {
        chart.draw_series(eval.iter().map(|at| Circle::new(*at, 3, EVAL.filled())))?;
        chart
            .draw_series(LineSeries::new(eval.iter().copied(), EVAL.stroke_width(2)))?
            .label("evaluation")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], EVAL.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::entry;

    #[test]
    fn a_log_gives_points_a_line_and_the_evaluations() {
        let mut log: Vec<LogEntry> = Vec::new();
        for step in 1..=30 {
            let step = f64::from(step);
            log.push(entry([("loss", 4.0 / step), ("step", step)]));
            if step % 10.0 == 0.0 {
                log.push(entry([("eval_loss", 5.0 / step), ("step", step)]));
            }
        }
        let svg = loss_svg(&log).unwrap();
        assert_eq!(svg.matches("<circle").count(), 33);
        assert!(svg.contains("evaluation") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_flat_or_short_log_does_not_break_the_plot() {
        let flat = vec![
            entry([("loss", 1.0), ("step", 1.0)]),
            entry([("loss", 1.0), ("step", 2.0)]),
        ];
        assert!(loss_svg(&flat).is_some());
        assert_eq!(loss_svg(&flat[..1]), None);
        assert_eq!(loss_svg(&[]), None);
    }

    #[test]
    fn smoothing_starts_at_the_first_point() {
        let line = smoothed(&vec![(1.0, 3.0), (2.0, 3.0), (3.0, 0.0)]);
        assert!((line[0].1 - 3.0).abs() < 1e-12 && (line[1].1 - 3.0).abs() < 1e-12);
        assert!(line[2].1 > 1.0 && line[2].1 < 3.0);
    }
}
