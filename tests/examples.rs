//! The examples, run as programs.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::fixture;
use coreml_quant::Model;

/// Runs an example that `cargo test` has built beside this test.
fn run<S: AsRef<std::ffi::OsStr>>(example: &str, arguments: &[S]) -> Output {
    let folder = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples");
    let program = folder.join(example).with_extension(std::env::consts::EXE_EXTENSION);
    Command::new(&program).args(arguments).output().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn digits() -> PathBuf {
    fixture("digits/digits.mlmodel")
}

#[track_caller]
fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn custom_selector_skips_its_layer() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mlmodel");
    assert_ok(&run("custom_selector", &[text(&digits()), text(&out)]));
    for layer in Model::open(&out).unwrap().layers() {
        for weight in &layer.weights {
            let quantized = weight.stored.as_ref().unwrap().is_quantized();
            assert!(!quantized || layer.layer.name != "dense_2");
        }
    }
    assert!(!run::<&str>("custom_selector", &[]).status.success());
}

#[test]
fn custom_lut_writes_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mlmodel");
    assert_ok(&run("custom_lut", &[text(&digits()), text(&out)]));
    let model = Model::open(&out).unwrap();
    let tables = model
        .layers()
        .iter()
        .flat_map(|layer| &layer.weights)
        .filter_map(|weight| weight.params?.quantization.as_ref()?.quantization_type.as_ref())
        .filter(|kind| match kind {
            coreml_quant::proto::quantization_params::QuantizationType::LookupTableQuantization(table) => {
                table.float_value.len() == 16
                    && table.float_value[0] == 0.0
                    && table.float_value[1] == -table.float_value[2]
            }
            _ => false,
        })
        .count();
    assert!(tables > 0);
}

#[test]
fn quantize_gives_the_last_layer_more_bits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mlmodel");
    let output = run("quantize", &[text(&digits()), text(&out)]);
    assert_ok(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("weights converted"), "{stdout}");
    let model = Model::open(&out).unwrap();
    let layers = model.layers();
    let last = layers.iter().find(|layer| layer.layer.name == "dense_2").unwrap();
    let stored = last.weights[0].stored.as_ref().unwrap();
    assert_eq!(stored.to_string(), "8-bit table");
}

#[test]
fn mixed_precision_keeps_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mlmodel");
    assert_ok(&run("mixed_precision", &[text(&digits()), text(&out)]));
    // A quarter, and what the biases take in float32.
    let (before, after) = (fs::metadata(digits()).unwrap().len(), fs::metadata(&out).unwrap().len());
    assert!(after <= before / 4 + 1000, "{after}");
}

#[test]
fn inspect_lists_layers() {
    let output = run("inspect", &[text(&digits())]);
    assert_ok(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("model: innerProduct \"dense_2\""), "{stdout}");
    assert!(stdout.contains("    weights [10, 64]: float32"), "{stdout}");
    assert!(!run("inspect", &["no-such-file"]).status.success());
}
