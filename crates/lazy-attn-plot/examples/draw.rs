//! Draws two distributions and prints the file: `cargo run -p lazy-attn-plot --example draw > chart.svg`.

use lazy_attn_plot::{Axis, LineChart, Mark, PlotError, Series, distribution};

fn main() -> Result<(), PlotError> {
    let resident: Vec<f64> = (0..200).map(|index| 3.0 + f64::from(index % 17) * 0.2).collect();
    let computed: Vec<f64> = resident.iter().map(|ms| ms * 27.0).collect();
    let chart = LineChart {
        title: "Time to first token".into(),
        x: Axis::log("time to first token, ms"),
        y: Axis::linear("part of the requests"),
        series: vec![
            Series::new("resident", Mark::Line, distribution(&resident)),
            Series::new("computed", Mark::Line, distribution(&computed)),
        ],
    };
    println!("{}", chart.to_svg()?);
    Ok(())
}
