//! `coreml-quant plot`: the picture of size against error.

use std::path::{Path, PathBuf};

use clap::Args;
use coreml_quant::{LinearRange, Mode, Model, Planner, QuantConfig, Target, quantize_weights};
use plotters::prelude::*;

use crate::failure::{Failure, Status};
use crate::input;
use crate::output::{self, Output, refuse_same};
use crate::progress::{Bar, Running};

/// Draws the size of the file against its error, for each mode and for plans, and the error of each layer of a 4-bit plan.
#[derive(Args, Debug)]
pub struct Options {
    /// The model to read; `-` is standard input.
    model: PathBuf,
    /// The picture to write.
    output: PathBuf,
    /// How plans find the ranges of the linear modes: min-max or least-squares.
    #[arg(long, default_value_t)]
    range: LinearRange,
    #[command(flatten)]
    running: Running,
}

/// Sizes in kilobytes, and the ratios in decibels.
type Curve = Vec<(f64, f64)>;

/// The modes whose bits are a curve.
const MODES: [Mode; 4] = [Mode::Linear, Mode::LinearSymmetric, Mode::LinearLut, Mode::KmeansLut];

/// Sizes of plans: from 1.5 bits a value on, in quarters of a bit.
const PLANS: u8 = 27;

impl Options {
    pub fn run(&self) -> Result<Status, Failure> {
        refuse_same(&[&self.model], &[None, Some(&self.output)], None)?;
        let output = Output::prepare(&self.output)?;
        self.running.start()?;
        let input = input::open(&self.model)?;
        let bar = self.running.bar();
        let curves = self.curves(input.model, &bar)?;
        let plan = self.planner(4.0).plan(input.model)?;
        let layers = quantize_weights(input.model, &QuantConfig::planned(plan))?.report.worst_layers();
        let layers: Vec<(String, f64)> = layers
            .into_iter()
            .filter(|layer| layer.sqnr_db.is_finite())
            .take(40)
            .map(|layer| (layer.layer, layer.sqnr_db))
            .collect();
        drop(bar);
        draw(output.path(), &curves, &layers).map_err(|error| Failure::of_file(&self.output, &error))?;
        let standard = output.is_standard();
        output.finish()?;
        if !standard && !self.running.quiet {
            output::print(&format!("wrote {}", self.output.display()))?;
        }
        Ok(Status::Done)
    }

    fn planner(&self, bits: f64) -> Planner {
        Planner::new(Target::AverageBits(bits)).with_range(self.range)
    }

    fn curves(&self, model: &Model, bar: &Bar) -> Result<Vec<(String, Curve)>, Failure> {
        let total = MODES.iter().map(|mode| mode.nbits().count()).sum::<usize>() + usize::from(PLANS);
        let mut done = 0;
        let mut step = || {
            bar.at(done, total);
            done += 1;
        };
        let mut curves: Vec<(String, Curve)> = Vec::new();
        for mode in MODES {
            let mut curve = Curve::new();
            for nbits in mode.nbits() {
                step();
                curve.push(point(model, &QuantConfig::from_mode(mode, Some(nbits))?)?);
            }
            curves.push((mode.to_string(), curve));
        }
        let mut planned = Curve::new();
        for index in 0..PLANS {
            step();
            // The smallest sizes may be out of reach.
            let Ok(plan) = self.planner(1.5 + 0.25 * f64::from(index)).plan(model) else { continue };
            planned.push(point(model, &QuantConfig::planned(plan))?);
        }
        curves.push(("planned".to_owned(), planned));
        Ok(curves)
    }
}

/// Kilobytes of the file, and the ratio in decibels.
fn point(model: &Model, config: &QuantConfig) -> Result<(f64, f64), Failure> {
    let quantized = quantize_weights(model, config)?;
    let len = prost::Message::encoded_len(quantized.model.proto());
    match quantized.report.sqnr_db() {
        Some(sqnr) if sqnr.is_finite() => Ok((len as f64 / 1e3, sqnr)),
        _ => Err(Failure::Job("nothing in the model can be quantized".to_owned())),
    }
}

/// What drawing may fail with.
type Drawn = Result<(), Box<dyn std::error::Error>>;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(path: &Path, curves: &[(String, Curve)], layers: &[(String, f64)]) -> Drawn {
    let height = 460 + 60 + 18 * layers.len() as u32;
    let root = SVGBackend::new(path, (760, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, bottom) = root.split_vertically(460);
    draw_curves(&top, curves)?;
    draw_layers(&bottom, layers)?;
    root.present()?;
    Ok(())
}

fn draw_curves(area: &Area<'_>, curves: &[(String, Curve)]) -> Drawn {
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

fn draw_layers(area: &Area<'_>, layers: &[(String, f64)]) -> Drawn {
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
