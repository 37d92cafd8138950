//! The examples, run as programs.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::fixture;
use coreml_quant::{Mode, Model, StoredForm};

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
fn quantize_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    for mode in Mode::all().iter().filter(|&&mode| mode != Mode::CustomLut) {
        let out = folder.path().join(format!("{mode}.mlmodel"));
        let mut arguments = vec![text(&digits()), text(&out), "--mode".into(), mode.to_string()];
        if !mode.nbits().is_empty() {
            arguments.extend(["--nbits".into(), "4".into()]);
        }
        let output = run("quantize", &arguments);
        assert_ok(&output);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.lines().last().unwrap().contains("weights converted"), "{stdout}");
        Model::open(&out).unwrap();
    }
}

#[test]
fn quantize_options() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.mlmodel"), folder.path().join("report.json"));
    let options = "--mode linear --nbits 8 --no-fold --skip-layer dense_2 --skip-layer-type bias \
                   --skip-layer-type batchnorm --min-conv-kernel-channels 4 --threads 1 --quiet --report";
    let mut arguments = vec![text(&digits()), text(&out)];
    arguments.extend(options.split_whitespace().map(str::to_owned));
    arguments.push(text(&report));
    let output = run("quantize", &arguments);
    assert_ok(&output);
    assert!(output.stdout.is_empty());
    let model = Model::open(&out).unwrap();
    let quantized: Vec<String> = model
        .layers()
        .iter()
        .flat_map(|layer| layer.weights.iter().map(move |weight| (layer, weight)))
        .filter(|(_, weight)| weight.stored.as_ref().is_ok_and(StoredForm::is_quantized))
        .map(|(layer, weight)| format!("{} {}", layer.layer.name, weight.field))
        .collect();
    assert_eq!(quantized, ["conv_2 weights", "dense_1 weights"]);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["totals"]["converted"], 2);
    assert_eq!(report["weights"][0]["kept_because"], "not selected");
}

#[test]
fn quantize_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    fs::copy(digits(), &path).unwrap();
    assert_ok(&run("quantize", &[text(&path), text(&path), "--mode".into(), "float16".into()]));
    assert!(fs::metadata(&path).unwrap().len() < fs::metadata(digits()).unwrap().len() * 6 / 10);
}

#[test]
fn quantize_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mlmodel");
    let no_model = folder.path().join("text.mlmodel");
    fs::write(&no_model, "version https://example.org/large-files\n").unwrap();
    let missing = folder.path().join("missing.mlmodel");
    for (input, mode, code, message) in [
        (&no_model, &["float16"][..], 1, "is text"),
        (&missing, &["float16"], 1, "missing.mlmodel"),
        (&digits(), &["linear"], 2, "needs a number of bits"),
        (&digits(), &["linear", "--nbits", "9"], 2, "1 to 8"),
        (&digits(), &["linear", "--nbits", "16"], 2, "float16"),
        (&digits(), &["linear_symmetric", "--nbits", "1"], 2, "2 to 8"),
        (&digits(), &["float32"], 2, "no mode"),
        (&digits(), &["float16", "--skip-layer-type", "softmax"], 2, "softmax"),
    ] {
        let mut arguments = vec![text(input), text(&out), "--mode".into()];
        arguments.extend(mode.iter().map(|&word| word.to_owned()));
        let output = run("quantize", &arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{mode:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(message), "{mode:?}: {stderr}");
        assert!(!out.exists());
    }
}

#[test]
fn inspect_lists_layers() {
    let output = run("inspect", &[text(&digits())]);
    assert_ok(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    for line in [
        "neuralNetworkClassifier, specificationVersion 1",
        "  innerProduct \"dense_2\"",
        "    weights 10x64: float32, 2560 bytes",
    ] {
        assert!(stdout.lines().any(|found| found == line), "{line}:\n{stdout}");
    }
    assert_eq!(run("inspect", &["no-such-file"]).status.code(), Some(1));
    assert_eq!(run::<&str>("inspect", &[]).status.code(), Some(2));
}

#[test]
fn inspect_names_broken_rules() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.mlmodel");
    let config = coreml_quant::QuantConfig::float16();
    let mut model = coreml_quant::quantize_weights(&Model::open(digits()).unwrap(), &config).unwrap().model;
    model.proto_mut().specification_version = 1;
    model.save(&broken).unwrap();
    let output = run("inspect", &[text(&broken)]);
    assert_ok(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let finding = "  model: specificationVersion is 1, its weights need 2";
    assert!(stdout.ends_with(&format!("{finding}\n")), "{stdout}");
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
fn quantize_to_a_target_and_by_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name));
    let targets =
        [["--target-size", "25%"], ["--target-size", "30KB"], ["--target-bits", "4.5"], ["--target-sqnr", "30"]];
    for [flag, value] in targets {
        let planned =
            [text(&digits()), path("a.mlmodel"), flag.into(), value.into(), "--plan-out".into(), path("p.json")];
        assert_ok(&run("quantize", &planned));
        let again = [text(&digits()), path("b.mlmodel"), "--plan-in".into(), path("p.json")];
        assert_ok(&run("quantize", &again));
        assert_eq!(fs::read(path("a.mlmodel")).unwrap(), fs::read(path("b.mlmodel")).unwrap());
        if value == "30KB" {
            let len = fs::metadata(path("a.mlmodel")).unwrap().len();
            assert!((29_700..=30_000).contains(&len), "{len}");
        }
    }
    let both =
        [text(&digits()), path("c.mlmodel"), "--target-bits".into(), "4".into(), "--target-sqnr".into(), "9".into()];
    assert_eq!(run("quantize", &both).status.code(), Some(2));
    let small = [text(&digits()), path("c.mlmodel"), "--target-size".into(), "1KB".into()];
    assert_eq!(run("quantize", &small).status.code(), Some(1));
}

#[test]
fn inspect_compares_two_models() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(&folder.path().join("out.mlmodel"));
    let range = "--mode linear --nbits 4 --no-fold --range least-squares --quiet";
    let mut arguments = vec![text(&digits()), out.clone()];
    arguments.extend(range.split_whitespace().map(str::to_owned));
    assert_ok(&run("quantize", &arguments));
    let output = run("inspect", &[text(&digits()), out]);
    assert_ok(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("worst layers") && stdout.contains("model/dense_1, largest error"), "{stdout}");
}
