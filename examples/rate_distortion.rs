//! Prints what each way to store a model's weights takes and costs, and what the automatic plan gains at the same size.
//!
//! For every model: uniform bit widths of each mode (with the gain of least-squares ranges), then the plan at the size of
//! uniform 4-bit kmeans_lut. With `--svg`, the picture of it: size against error, and the error of each layer.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use plotters::prelude::*;

use coreml_quant::{
    Linear, LinearRange, LinearSymmetric, Mode, Model, Nbits, Planner, QuantConfig, SymmetricBits, Target,
    quantize_weights,
};

/// Compares uniform bit widths and the automatic plan.
#[derive(Parser)]
struct Options {
    /// Models to read.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Leave out the table of the uniform bit widths.
    #[arg(long)]
    plan_only: bool,
    /// How the plan finds the ranges of the linear modes: min-max or least-squares.
    #[arg(long, default_value_t)]
    range: LinearRange,
    /// Draw the first model: bytes against the ratio in dB for each mode and for plans, and the layers of a 4-bit plan.
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut code = ExitCode::SUCCESS;
    for path in &options.models {
        println!("{}", path.display());
        if let Err(error) = run(&options, path) {
            eprintln!("error: {}: {error}", path.display());
            code = ExitCode::FAILURE;
        }
    }
    if let (Some(svg), Some(path)) = (&options.svg, options.models.first())
        && let Err(error) = draw(&options, path, svg)
    {
        eprintln!("error: {}: {error}", svg.display());
        code = ExitCode::FAILURE;
    }
    code
}

/// Sizes in kilobytes, and the ratios in decibels.
type Curve = Vec<(f64, f64)>;

fn draw(options: &Options, path: &Path, svg: &Path) -> Result<(), Box<dyn Error>> {
    let model = Model::open(path)?;
    let mut curves: Vec<(String, Curve)> = Vec::new();
    for mode in [Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut] {
        let mut curve = Curve::new();
        for nbits in mode.nbits() {
            let (bytes, sqnr) = quantized(&model, &QuantConfig::from_mode(mode, Some(nbits))?)?;
            curve.push((bytes as f64 / 1e3, sqnr));
        }
        curves.push((mode.to_string(), curve));
    }
    let plan = |bits| Planner::new(Target::AverageBits(bits)).with_range(options.range).plan(&model);
    let mut planned = Curve::new();
    for step in 0..=26 {
        // The smallest sizes may be out of reach.
        let Ok(plan) = plan(1.5 + 0.25 * f64::from(step)) else { continue };
        let (bytes, sqnr) = quantized(&model, &QuantConfig::planned(plan))?;
        planned.push((bytes as f64 / 1e3, sqnr));
    }
    curves.push(("planned".to_owned(), planned));
    let layers = quantize_weights(&model, &QuantConfig::planned(plan(4.0)?))?.report.worst_layers();
    let layers: Vec<(String, f64)> = layers
        .into_iter()
        .filter(|layer| layer.sqnr_db.is_finite())
        .take(40)
        .map(|layer| (layer.layer, layer.sqnr_db))
        .collect();

    let height = 460 + 60 + 18 * layers.len() as u32;
    let root = SVGBackend::new(svg, (760, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, bottom) = root.split_vertically(460);
    draw_curves(&top, &curves)?;
    draw_layers(&bottom, &layers)?;
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_curves(area: &Area<'_>, curves: &[(String, Curve)]) -> Result<(), Box<dyn Error>> {
    let points = || curves.iter().flat_map(|(_, curve)| curve);
    let width = points().map(|point| point.0).fold(0.0, f64::max) * 1.05;
    let (low, high) = points().fold((0.0, 0.0), |(low, high), point| (f64::min(low, point.1), f64::max(high, point.1)));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..width, low..high * 1.05)?;
    chart.configure_mesh().x_desc("model file, kilobytes").y_desc("signal to quantization noise, dB").draw()?;
    for (index, (name, curve)) in curves.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let line = chart.draw_series(LineSeries::new(curve.iter().copied(), color.stroke_width(2)).point_size(3))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}

fn draw_layers(area: &Area<'_>, layers: &[(String, f64)]) -> Result<(), Box<dyn Error>> {
    let high = layers.iter().map(|layer| layer.1).fold(1.0, f64::max);
    let rows = layers.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption("layers of the plan for 4 bits a value, the worst first, dB", ("sans-serif", 15))
        .x_label_area_size(24)
        .build_cartesian_2d(0.0..high * 1.4, rows..0.0)?;
    chart.configure_mesh().disable_y_axis().disable_y_mesh().draw()?;
    for (row, (name, sqnr)) in layers.iter().enumerate() {
        let (from, to) = (row as f64 + 0.2, row as f64 + 0.8);
        let color = Palette99::pick(4).mix(0.6).filled();
        chart.draw_series([Rectangle::new([(0.0, from), (sqnr.max(0.0), to)], color)])?;
        let label = format!(" {name} {sqnr:.1}");
        chart.draw_series([Text::new(label, (sqnr.max(0.0), from), ("sans-serif", 12))])?;
    }
    Ok(())
}

/// Size of the file, and the ratio in decibels.
fn quantized(model: &Model, config: &QuantConfig) -> Result<(usize, f64), Box<dyn Error>> {
    let quantized = quantize_weights(model, config)?;
    Ok((quantized.model.to_bytes().len(), quantized.report.sqnr_db().ok_or("not measured")?))
}

fn run(options: &Options, path: &Path) -> Result<(), Box<dyn Error>> {
    let model = Model::open(path)?;
    if !options.plan_only {
        println!("  bits       linear  least-squares     symmetric  least-squares   linear_lut   kmeans_lut  (dB)");
        for bits in 1..=8 {
            let nbits = Nbits::new(bits).ok_or("bits")?;
            let sqnr = |config: QuantConfig| Ok::<f64, Box<dyn Error>>(quantized(&model, &config)?.1);
            let linear = |range| sqnr(QuantConfig::custom(Linear::new(nbits).with_range(range)));
            let [min_max, least_squares] = [linear(LinearRange::MinMax)?, linear(LinearRange::LeastSquares)?];
            print!("  {bits:4} {min_max:12.2} {least_squares:8.2} {:+5.2}", least_squares - min_max);
            if let Some(nbits) = SymmetricBits::new(bits) {
                let symmetric = |range| sqnr(QuantConfig::custom(LinearSymmetric::new(nbits).with_range(range)));
                let [min_max, least_squares] = [symmetric(LinearRange::MinMax)?, symmetric(LinearRange::LeastSquares)?];
                print!(" {min_max:13.2} {least_squares:8.2} {:+5.2}", least_squares - min_max);
            } else {
                print!(" {:>28}", "-");
            }
            let tables = [Mode::LinearLut, Mode::KmeansLut].map(|mode| QuantConfig::from_mode(mode, Some(bits)));
            for config in tables {
                print!(" {:12.2}", sqnr(config?)?);
            }
            println!();
        }
    }
    let start = Instant::now();
    let (target, uniform) = quantized(&model, &QuantConfig::kmeans_lut(4)?)?;
    let uniform_time = start.elapsed();
    let start = Instant::now();
    let plan = Planner::new(Target::Bytes(target as u64)).with_range(options.range).plan(&model)?;
    let plan_time = start.elapsed();
    let (bytes, sqnr) = quantized(&model, &QuantConfig::planned(plan))?;
    println!("  4-bit kmeans_lut: {target} bytes, {uniform:.2} dB, {:.1} ms", uniform_time.as_secs_f64() * 1e3);
    println!(
        "  plan:             {bytes} bytes ({:+.2} %), {sqnr:.2} dB: {:+.2} dB, planned in {:.1} ms",
        100.0 * (bytes as f64 / target as f64 - 1.0),
        sqnr - uniform,
        plan_time.as_secs_f64() * 1e3,
    );
    Ok(())
}
