//! Reports for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use coreml_quant::{Fold, FoldReason, FoldReport, Outcome, Reason, Report, WeightReport};
use serde_json::{Value, json};

use crate::table::{Align, decibels, percent, table, terminal_width, thousands};

/// How much of a report is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// Every weight and fold, however many.
    pub full: bool,
    /// Why layers were not folded.
    pub explain: bool,
}

/// From how many weights on a summary takes the place of the table.
const MANY: usize = 100;

/// How many of the worst layers a summary names.
const WORST: usize = 10;

/// What was folded: each fold, or how many.
pub fn folds(report: &FoldReport, shown: Shown) -> String {
    if report.folds.is_empty() && report.not_folded.is_empty() {
        return String::new();
    }
    let text = if shown.explain { format!("{report:#}") } else { format!("{report}") };
    if shown.full || shown.explain || report.folds.len() <= MANY / 5 {
        return text + "\n";
    }
    text.lines().last().map_or_else(String::new, |line| format!("{line}\n"))
}

/// What became of each weight, and the sums.
pub fn text(report: &Report, shown: Shown) -> String {
    let mut text = folds(&report.folds, shown);
    for mean_image in &report.mean_images {
        let _ = writeln!(text, "{mean_image}");
    }
    if shown.full || report.weights.len() <= MANY {
        text += &weights(&report.weights);
    } else {
        text += &by_type(&report.weights);
        text += &worst(report);
        let _ = writeln!(text, "\n--full shows all {} weights", report.weights.len());
    }
    let totals = report.totals();
    let _ = write!(
        text,
        "{} of {} weights converted, {} values, {} -> {} bytes ({})",
        totals.converted,
        totals.weights,
        thousands(totals.values),
        thousands(totals.bytes_before),
        thousands(totals.bytes_after),
        percent(totals.bytes_after, totals.bytes_before),
    );
    if let Some(sqnr) = report.sqnr_db() {
        let _ = write!(text, ", {}", decibels(sqnr));
    }
    if let Some(underflows) = totals.underflows.filter(|&values| values > 0) {
        let _ = write!(text, ", {} values too small for float16", thousands(underflows));
    }
    text.push('\n');
    text
}

fn weights(weights: &[WeightReport]) -> String {
    let rows: Vec<Vec<String>> = weights
        .iter()
        .map(|weight| {
            let stored = match weight.outcome {
                Outcome::Kept(reason) => format!("{}, {reason}", weight.before),
                Outcome::MovedAlong => format!("{} -> {}, as the layer's others", weight.before, weight.after),
                Outcome::Float16Instead => format!("{} -> {}, {}", weight.before, weight.after, Reason::FloatOnly),
                _ => format!("{} -> {}", weight.before, weight.after),
            };
            vec![
                format!("{}/{}", weight.place.network, weight.place.layer),
                weight.place.layer_type.to_owned(),
                weight.place.field.to_string(),
                shape(&weight.shape),
                format!("{} -> {}", weight.bytes_before(), weight.bytes_after()),
                weight.distortion.map_or_else(|| "-".to_owned(), |distortion| decibels(distortion.sqnr_db())),
                stored,
            ]
        })
        .collect();
    let left = ["layer", "type", "weight", "shape", "bytes", "error", "stored as"].map(|name| (name, Align::Left));
    table(&left, &rows, terminal_width())
}

fn by_type(weights: &[WeightReport]) -> String {
    #[derive(Default)]
    struct Sum {
        weights: u64,
        converted: u64,
        before: u64,
        after: u64,
    }
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for weight in weights {
        let sum = sums.entry(weight.place.layer_type).or_default();
        sum.weights += 1;
        sum.converted += u64::from(!matches!(weight.outcome, Outcome::Kept(_)));
        sum.before += weight.bytes_before() as u64;
        sum.after += weight.bytes_after() as u64;
    }
    let rows: Vec<Vec<String>> = sums
        .iter()
        .map(|(layer_type, sum)| {
            let numbers = [sum.weights, sum.converted, sum.before, sum.after].map(thousands);
            let mut row = vec![(*layer_type).to_owned()];
            row.extend(numbers);
            row.push(percent(sum.after, sum.before));
            row
        })
        .collect();
    let columns = [
        ("type", Align::Left),
        ("weights", Align::Right),
        ("converted", Align::Right),
        ("bytes before", Align::Right),
        ("bytes after", Align::Right),
        ("left", Align::Right),
    ];
    table(&columns, &rows, terminal_width())
}

/// The layers with the largest error; nothing if there is none.
pub fn worst(report: &Report) -> String {
    let layers = report.worst_layers();
    let rows: Vec<Vec<String>> = layers
        .iter()
        .filter(|layer| layer.sqnr_db != f64::INFINITY)
        .take(WORST)
        .map(|layer| {
            vec![
                format!("{}/{}", layer.network, layer.layer),
                thousands(layer.values),
                decibels(layer.sqnr_db),
                format!("{:.3e}", layer.max_error),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let columns =
        [("worst layers", Align::Left), ("values", Align::Right), ("error", Align::Right), ("largest", Align::Right)];
    format!("\n{}", table(&columns, &rows, terminal_width()))
}

/// Why nothing changed: the reasons, each with the number of weights.
pub fn reasons(report: &Report) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for weight in &report.weights {
        if let Outcome::Kept(reason) = weight.outcome {
            let reason = match reason {
                Reason::WouldNotShrink { .. } => "would not shrink".to_owned(),
                reason => reason.to_string(),
            };
            *counts.entry(reason).or_default() += 1;
        }
    }
    if counts.is_empty() {
        return "the model has no weights".to_owned();
    }
    let of = |count: usize| if count == 1 { "weight" } else { "weights" };
    let parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {}: {reason}", of(count))).collect();
    parts.join(", ")
}

/// A shape as `64x32x3x3`.
pub fn shape(dims: &[usize]) -> String {
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

/// A file, for programs.
pub fn json_of_file(path: &Path, bytes: u64) -> Value {
    json!({ "path": path.to_string_lossy(), "bytes": bytes })
}

/// A report, for programs.
pub fn json(report: &Report) -> Value {
    let totals = report.totals();
    json!({
        "fold": json_of_folds(&report.folds),
        "mean_images": report.mean_images,
        "weights": report.weights.iter().map(json_of_weight).collect::<Vec<_>>(),
        "totals": {
            "weights": totals.weights,
            "converted": totals.converted,
            "values": totals.values,
            "bytes_before": totals.bytes_before,
            "bytes_after": totals.bytes_after,
            "mean_image_bytes": totals.mean_image_bytes,
            "underflows": totals.underflows,
            "sqnr_db": report.sqnr_db(),
        },
    })
}

fn json_of_weight(weight: &WeightReport) -> Value {
    json!({
        "network": &*weight.place.network,
        "layer": &*weight.place.layer,
        "layer_index": weight.place.index,
        "type": weight.place.layer_type,
        "field": weight.place.field,
        "shape": weight.shape,
        "before": weight.before.to_string(),
        "after": weight.after.to_string(),
        "bytes_before": weight.bytes_before(),
        "bytes_after": weight.bytes_after(),
        // null where nothing changed (infinite) or nothing was measured.
        "sqnr_db": weight.distortion.map(|distortion| distortion.sqnr_db()),
        "max_error": weight.distortion.map(|distortion| distortion.max_error()),
        "kept_because": match weight.outcome {
            Outcome::Kept(reason) => Some(reason.to_string()),
            _ => None,
        },
    })
}

/// What was folded, for programs.
pub fn json_of_folds(report: &FoldReport) -> Value {
    let row = |fold: &Fold, reason: Option<FoldReason>| {
        json!({
            "network": &*fold.network,
            "layer": &*fold.layer,
            "type": fold.layer_type,
            "into": &*fold.into,
            "into_type": fold.into_type,
            "not_folded_because": reason.map(|reason| reason.to_string()),
        })
    };
    let folds = report.folds.iter().map(|fold| row(fold, None));
    let not_folded = report.not_folded.iter().map(|not_folded| row(&not_folded.candidate, Some(not_folded.reason)));
    json!({
        "folds": folds.collect::<Vec<_>>(),
        "not_folded": not_folded.collect::<Vec<_>>(),
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
    })
}
