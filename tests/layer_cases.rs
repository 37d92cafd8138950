//! Recorded cases of every layer type against the executor.
//!
//! The cases of the repository always run; those of the folder that `COREML_QUANT_CASES` names, or of
//! `../shared/predict/layer-cases` beside the checkout, where they are.

mod recorded;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coreml_quant::Model;
use coreml_quant::predict::{Features, Predictor, Tensor};
use recorded::{Row, Table, floats, folder, value};

/// One case and its items.
struct Case<'t> {
    row: Row<'t>,
    items: Vec<Row<'t>>,
}

#[test]
fn layer_cases() {
    let mut failures = Vec::new();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/predict/cases");
    let folders = [own.exists().then_some(own), folder("COREML_QUANT_CASES", "predict/layer-cases")];
    for folder in folders.into_iter().flatten() {
        let count = run_folder(&folder, &mut failures);
        println!("{count} cases of {} ran", folder.display());
        assert!(count > 0, "no cases in {}", folder.display());
    }
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (group, case, why) in &failures {
        groups.entry(group).or_default().push(format!("{case}: {why}"));
    }
    for (group, cases) in &groups {
        println!("{group}: {} failed\n  {}", cases.len(), cases[..cases.len().min(5)].join("\n  "));
    }
    assert!(failures.is_empty(), "{} cases failed", failures.len());
}

fn run_folder(folder: &Path, failures: &mut Vec<(String, String, String)>) -> usize {
    let (cases, index) = (Table::read(&folder.join("cases.tsv")), Table::read(&folder.join("index.tsv")));
    let mut all: BTreeMap<&str, Case<'_>> =
        cases.rows().map(|row| (row.get("case"), Case { row, items: Vec::new() })).collect();
    for item in index.rows() {
        all.get_mut(item.get("case")).unwrap().items.push(item);
    }
    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for item in index.rows() {
        files.entry(item.get("file")).or_insert_with(|| fs::read(folder.join(item.get("file"))).unwrap());
    }
    for case in all.values() {
        if let Err(why) = run_case(case, &files) {
            failures.push((case.row.get("group").to_owned(), case.row.get("case").to_owned(), why));
        }
    }
    all.len()
}

fn run_case(case: &Case<'_>, files: &BTreeMap<&str, Vec<u8>>) -> Result<(), String> {
    let bytes = |item: &Row<'_>| item.bytes(&files[item.get("file")]).to_vec();
    let of_kind = |kind: &'static str| case.items.iter().filter(move |item| item.get("kind") == kind);
    let model = of_kind("model").next().ok_or("no model")?;
    let model = Model::from_bytes(bytes(model)).map_err(|error| error.to_string())?;
    let mut features = Features::new();
    for kind in ["input", "image"] {
        for item in of_kind(kind) {
            features.insert(item.get("name"), value(kind, &item.shape(','), &bytes(item)));
        }
    }
    let predictor = Predictor::new(&model).map_err(|error| error.to_string())?;
    let names: Vec<&str> = of_kind("output").map(|item| item.get("name")).collect();
    let blobs = recorded::blobs(&predictor, &features, &names)?;
    for (item, blob) in of_kind("output").zip(blobs) {
        let blob = blob.ok_or_else(|| format!("no output {}", item.get("name")))?;
        hold(case.row, item, &floats(&bytes(item)), &blob).map_err(|why| format!("{}: {why}", item.get("name")))?;
    }
    Ok(())
}

/// Holds an output against what is expected.
fn hold(case: Row<'_>, item: &Row<'_>, expected: &[f32], blob: &Tensor) -> Result<(), String> {
    let (found, wanted) = (blob.shape().to_vec(), item.shape(','));
    let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
    let same = match case.get("shape_rule") {
        "exact" => found == wanted,
        "squeezed" => squeezed(&found) == squeezed(&wanted),
        _ => found.iter().product::<usize>() == wanted.iter().product::<usize>(),
    };
    if !same {
        return Err(format!("the shape is {found:?}, {wanted:?} expected"));
    }
    // Where only shapes are compared there is none.
    let tolerance: f64 = case.get("tolerance").parse().unwrap_or(0.0);
    let pairs = || blob.iter().zip(expected).map(|(&found, &wanted)| (f64::from(found), f64::from(wanted)));
    match case.get("metric") {
        "shape" => Ok(()),
        "snr_db" => {
            let (signal, noise) = pairs().fold((0.0, 0.0), |(signal, noise), (found, wanted)| {
                (signal + wanted * wanted, noise + (found - wanted).powi(2))
            });
            let snr = 10.0 * (signal / noise).log10();
            if noise == 0.0 || snr >= tolerance { Ok(()) } else { Err(format!("{snr} dB, {tolerance} expected")) }
        }
        _ => match pairs().position(|(found, wanted)| {
            let close = (found - wanted).abs() <= tolerance * wanted.abs().max(1.0);
            !(close || found == wanted || (found.is_nan() && wanted.is_nan()))
        }) {
            None => Ok(()),
            Some(at) => {
                let (found, wanted) = pairs().nth(at).unwrap();
                Err(format!("value {at} is {found}, {wanted} expected"))
            }
        },
    }
}
