//! The command-line tool, run as a process: exit codes, what it says, what it writes.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::fixture;
use coreml_quant::{Biases, ClassLabels, Mode, Model, Planner, QuantConfig, StoredForm, Target, quantize_weights};
use serde_json::Value;
use tempfile::TempDir;

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_coreml-quant"))
}

/// A folder with the digits model, in which the tool runs.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(fixture("digits/digits.mlmodel"), folder.path().join("a.mlmodel")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        tool().current_dir(self.folder.path()).args(arguments).output().unwrap()
    }

    /// Runs words, which is expected to end with a code.
    #[track_caller]
    fn run(&self, code: i32, words: &str) -> Output {
        let output = self.command(words.split_whitespace());
        assert_eq!(output.status.code(), Some(code), "{words}: {output:?}");
        self.nothing_unfinished();
        output
    }

    #[track_caller]
    fn ok(&self, words: &str) -> String {
        let output = self.run(0, words);
        assert!(output.stderr.is_empty(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs words that are refused, with nothing changed; returns the message.
    #[track_caller]
    fn refused(&self, code: i32, words: &str) -> String {
        let before = self.files();
        let output = self.run(code, words);
        assert_eq!(self.files(), before, "{words}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("error: "), "{words}: {message}");
        message
    }

    /// Every file with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    #[track_caller]
    fn nothing_unfinished(&self) {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(".coreml-quant")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn len(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).unwrap().len()
    }

    fn model(&self, name: &str) -> Model {
        Model::open(self.path(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// The form of every weight, by layer and field.
    fn forms(&self, name: &str) -> Vec<(String, StoredForm)> {
        forms(&self.model(name))
    }
}

fn forms(model: &Model) -> Vec<(String, StoredForm)> {
    let mut forms = Vec::new();
    for layer in model.layers() {
        for weight in &layer.weights {
            forms.push((format!("{} {}", layer.layer.name, weight.field), *weight.stored.as_ref().unwrap()));
        }
    }
    forms
}

/// The bits of a weight's codes.
fn bits(form: StoredForm) -> u32 {
    match form {
        StoredForm::Linear { nbits, .. } | StoredForm::LookupTable { nbits } => u32::from(nbits.get()),
        StoredForm::Int8 => 8,
        StoredForm::Float16 => 16,
        _ => 32,
    }
}

fn bits_of(forms: &[(String, StoredForm)], name: &str) -> u32 {
    bits(forms.iter().find(|(found, _)| found == name).unwrap().1)
}

// ---------------------------------------------------------------- the everyday jobs, a line each

#[test]
fn packages_are_read_and_written() {
    let place = Place::new();
    place.ok("quantize a.mlmodel b.mlpackage --mode kmeans_lut --nbits 4 --quiet");
    assert!(place.path("b.mlpackage").join("Manifest.json").is_file());
    // A second one takes the place of the first.
    place.ok("quantize a.mlmodel b.mlpackage --quiet");
    place.ok("dequantize b.mlpackage c.mlmodel --quiet");
    let eight = quantize_weights(&place.model("a.mlmodel"), &QuantConfig::linear(8).unwrap()).unwrap().model;
    let floats = quantize_weights(&eight, &QuantConfig::dequantize()).unwrap().model;
    assert!(fs::read(place.path("c.mlmodel")).unwrap() == floats.to_bytes());
    assert!(place.ok("inspect b.mlpackage").contains("linear"));
}

#[test]
fn eight_bits_linear_is_the_default() {
    let place = Place::new();
    let stdout = place.ok("quantize a.mlmodel b.mlmodel");
    let expected = quantize_weights(&place.model("a.mlmodel"), &QuantConfig::linear(8).unwrap()).unwrap();
    assert!(fs::read(place.path("b.mlmodel")).unwrap() == expected.model.to_bytes());
    let last = stdout.lines().last().unwrap();
    let (len, sqnr) = (place.len("b.mlmodel"), expected.report.sqnr_db().unwrap());
    let sizes = format!("154,554 -> {},{:03} bytes ({:.1} %)", len / 1000, len % 1000, len as f64 / 1545.54);
    assert_eq!(last, format!("wrote b.mlmodel: {sizes}, {sqnr:.1} dB"));
}

#[test]
fn every_mode_and_the_names_of_coremltools() {
    let place = Place::new();
    for mode in Mode::all().iter().filter(|&&mode| !matches!(mode, Mode::CustomLut | Mode::Dequantize)) {
        let bits = if mode.nbits().is_empty() { "" } else { "--nbits 4" };
        // All products of the digits model have biases, which int8 activations exclude.
        let code = if *mode == Mode::Int8Matmul { 3 } else { 0 };
        place.run(code, &format!("quantize a.mlmodel {mode}.mlmodel --mode {mode} {bits}"));
        let nbits = (!mode.nbits().is_empty()).then_some(4);
        let config = QuantConfig::from_mode(*mode, nbits).unwrap();
        let expected = quantize_weights(&place.model("a.mlmodel"), &config).unwrap();
        assert!(fs::read(place.path(&format!("{mode}.mlmodel"))).unwrap() == expected.model.to_bytes(), "{mode}");
    }
    place.ok("quantize a.mlmodel k.mlmodel --mode kmeans --nbits 4");
    assert!(fs::read(place.path("k.mlmodel")).unwrap() == fs::read(place.path("kmeans_lut.mlmodel")).unwrap());
    place.ok("quantize k.mlmodel d.mlmodel --mode dequantization");
    place.ok("dequantize k.mlmodel e.mlmodel");
    assert!(fs::read(place.path("d.mlmodel")).unwrap() == fs::read(place.path("e.mlmodel")).unwrap());
    assert!(place.forms("e.mlmodel").iter().all(|(_, form)| *form == StoredForm::Float32));
    place.ok("quantize a.mlmodel h.mlmodel --nbits 16");
    assert!(fs::read(place.path("h.mlmodel")).unwrap() == fs::read(place.path("float16.mlmodel")).unwrap());
}

#[test]
fn sweep_lists_every_mode_with_every_number_of_bits() {
    let place = Place::new();
    let csv = place.ok("sweep a.mlmodel --csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "mode,bits,bytes,share,sqnr_db,max_error,refused");
    // float16, and 8, 7, 8 and 8 of the others.
    assert_eq!(lines.len(), 1 + 32);
    place.ok("quantize a.mlmodel b.mlmodel --mode kmeans_lut --nbits 4 --quiet");
    let row = lines.iter().find(|line| line.starts_with("kmeans_lut,4,")).unwrap();
    assert_eq!(row.split(',').nth(2).unwrap(), place.len("b.mlmodel").to_string());
    place.ok("sweep a.mlmodel --json --mode linear --nbits 4,8 --output rows.json");
    let rows = place.json("rows.json");
    assert_eq!(rows["rows"].as_array().unwrap().len(), 2);
    assert_eq!(rows["rows"][0]["bits"], 8);
    assert_eq!(rows["input"]["bytes"], 154_554);
    assert!(place.refused(2, "sweep a.mlmodel --mode linear_symmetric --nbits 1").contains("none of the modes"));
}

#[test]
fn coremltools_advanced_selector() {
    let place = Place::new();
    place.ok("quantize a.mlmodel b.mlmodel --no-fold --skip-layer-type batchnorm,bias,depthwiseConv \
         --min-conv-kernel-channels 4 --min-conv-weight-count 4096");
    let quantized: Vec<String> =
        place.forms("b.mlmodel").into_iter().filter(|(_, form)| form.is_quantized()).map(|(name, _)| name).collect();
    assert_eq!(quantized, ["conv_2 weights", "dense_1 weights", "dense_2 weights"]);
}

#[test]
fn some_types_or_layers_only() {
    let place = Place::new();
    place
        .ok("quantize a.mlmodel b.mlmodel --no-fold --only-layer-type convolution,innerProduct --min-weight-count 100");
    for (name, form) in place.forms("b.mlmodel") {
        assert_eq!(form.is_quantized(), name.ends_with("weights"), "{name}");
    }
    place.ok("quantize a.mlmodel c.mlmodel --only-layer dense_* --skip-layer dense_2");
    for (name, form) in place.forms("c.mlmodel") {
        assert_eq!(form != StoredForm::Float32, name.starts_with("dense_1"), "{name}");
    }
}

#[test]
fn other_bits_for_the_first_and_last_layer() {
    let place = Place::new();
    let rules = "--rule conv_1=linear:8 --rule dense_2=keep --rule type:innerProduct=kmeans:2";
    place.ok(&format!("quantize a.mlmodel b.mlmodel --nbits 4 {rules} --plan-out p.json --report r.json"));
    let forms = place.forms("b.mlmodel");
    for (name, expected) in
        [("conv_1 weights", 8), ("conv_2 weights", 4), ("dense_1 weights", 2), ("dense_2 weights", 32)]
    {
        assert_eq!(bits_of(&forms, name), expected, "{name}");
    }
    // The plan does it again.
    place.ok("quantize a.mlmodel c.mlmodel --plan-in p.json");
    assert!(fs::read(place.path("b.mlmodel")).unwrap() == fs::read(place.path("c.mlmodel")).unwrap());
    let report = place.json("r.json");
    assert_eq!(report["input"]["bytes"], place.len("a.mlmodel"));
    assert_eq!(report["output"]["bytes"], place.len("b.mlmodel"));
    assert_eq!(report["totals"]["weights"], 8);
    assert_eq!(report["fold"]["folds"][0]["into"], "conv_1");
    let row = &report["weights"][0];
    for key in
        ["network", "layer", "type", "field", "shape", "before", "after", "bytes_before", "bytes_after", "sqnr_db"]
    {
        assert!(!row[key].is_null(), "{key}: {row}");
    }
}

#[test]
fn requantize_in_a_pipeline_keeps_labels() {
    let place = Place::new();
    // The digits classifier in 8 bits, in a pipeline.
    let model = place.model("a.mlmodel");
    let config = QuantConfig::linear(8).unwrap().with_biases(Biases::AsWeights);
    let member = quantize_weights(&model, &config).unwrap().model.into_proto();
    let pipeline = coreml_quant::proto::Pipeline { models: vec![member.clone()], ..Default::default() };
    let classifier = coreml_quant::proto::PipelineClassifier { pipeline: Some(pipeline) };
    let whole = coreml_quant::proto::Model {
        specification_version: member.specification_version,
        description: member.description.clone(),
        r#type: Some(coreml_quant::proto::model::Type::PipelineClassifier(classifier)),
        ..Default::default()
    };
    Model::from_proto(whole).save(place.path("p.mlmodel")).unwrap();
    place.ok("quantize p.mlmodel q.mlmodel --nbits 4 --requantize --biases as-weights");
    let forms = place.forms("q.mlmodel");
    assert!(forms.iter().all(|(_, form)| bits(*form) == 4), "{forms:?}");
    assert_eq!(place.model("q.mlmodel").class_labels(), Some(ClassLabels::Int64s((0..10).collect())));
    // Without it there is nothing to do, and the exit code says so.
    let output = place.run(3, "quantize p.mlmodel r.mlmodel --nbits 4");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "warning: nothing changed (8 weights: already quantized)\n");
    assert!(place.path("r.mlmodel").exists());
}

#[test]
fn what_a_model_says_of_itself() {
    let place = Place::new();
    place.ok("quantize a.mlmodel b.mlmodel --set license=MIT author=me com.example.bits=8");
    let metadata = place.model("b.mlmodel").metadata();
    assert_eq!((metadata.license.as_str(), metadata.author.as_str()), ("MIT", "me"));
    assert_eq!(metadata.user_defined["com.example.bits"], "8");
    assert_eq!(metadata.description, place.model("a.mlmodel").metadata().description);
    place.ok("fold b.mlmodel c.mlmodel --set com.example.bits=");
    assert!(place.model("c.mlmodel").metadata().user_defined.is_empty());
    assert!(place.refused(2, "quantize a.mlmodel d.mlmodel --set license").contains("KEY=VALUE"));
}

#[test]
fn a_size_budget() {
    let place = Place::new();
    assert!(place.ok("check a.mlmodel --max-size 2MB").contains("154,554 bytes, nothing found"));
    let output = place.run(4, "check a.mlmodel --max-size 100KB");
    assert!(String::from_utf8(output.stdout).unwrap().contains("at most 100,000 are allowed"));
    place.run(2, "check a.mlmodel --max-size 50%");
}

// ---------------------------------------------------------------- targets and plans

#[test]
fn targets_and_plans() {
    let place = Place::new();
    let targets = ["--target-size 25%", "--target-size 30KB", "--target-bits 4.5", "--target-sqnr 30"];
    for target in targets {
        place.ok(&format!("quantize a.mlmodel b.mlmodel {target} --plan-out p.json --quiet"));
        place.ok("quantize a.mlmodel c.mlmodel --plan-in p.json --quiet");
        assert!(fs::read(place.path("b.mlmodel")).unwrap() == fs::read(place.path("c.mlmodel")).unwrap(), "{target}");
        place.ok(&format!("plan a.mlmodel {target} --output again.json"));
        assert_eq!(place.json("p.json"), place.json("again.json"), "{target}");
    }
    place.ok("quantize a.mlmodel b.mlmodel --target-size 30KB --quiet");
    assert!((29_000..=30_000).contains(&place.len("b.mlmodel")), "{}", place.len("b.mlmodel"));
    let text = place.ok("plan a.mlmodel --target-bits 4");
    let plan = Planner::new(Target::AverageBits(4.0)).plan(&place.model("a.mlmodel")).unwrap();
    assert!(text.contains(&plan.weights[1].method.to_string()), "{text}");
    assert!(place.refused(1, "quantize a.mlmodel d.mlmodel --target-size 1KB").contains("cannot be reached"));
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let place = Place::new();
    let before = place.files();
    let stdout = place.ok("quantize a.mlmodel b.mlmodel --dry-run --mode kmeans_lut --nbits 4");
    assert_eq!(place.files(), before);
    let last = stdout.lines().last().unwrap().to_owned();
    let real = place.ok("quantize a.mlmodel b.mlmodel --mode kmeans_lut --nbits 4");
    let real = real.lines().last().unwrap().replace("wrote b.mlmodel:", "would write");
    assert_eq!(last, real);
    let json: Value = serde_json::from_str(&place.ok("quantize a.mlmodel --dry-run --json")).unwrap();
    assert_eq!(json["output"]["path"], Value::Null);
    assert_eq!(json["totals"]["weights"], 8);
}

// ---------------------------------------------------------------- the other commands

#[test]
fn inspect_shows_the_whole_file() {
    let place = Place::new();
    let stdout = place.ok("inspect a.mlmodel");
    for expected in [
        "neuralNetworkClassifier, specificationVersion 1, 154,554 bytes",
        "input \"image\": an array of double and the shape [1, 8, 8]",
        "description: Handwritten digits",
        "10 classes: 0, 1, 2, 3, 4, ...",
        "structure and the rest",
        "can be stored in 8 bits or fewer",
    ] {
        assert!(stdout.contains(expected), "{expected}:\n{stdout}");
    }
    let json: Value = serde_json::from_str(&place.ok("inspect a.mlmodel --json")).unwrap();
    assert_eq!(json["bytes"], 154_554);
    assert_eq!(json["inputs"][0]["name"], "image");
    assert_eq!(json["class_labels"][9], 9);
    assert_eq!(json["layers"][0]["weights"][0]["stored"], "float32");
    assert_eq!(json["findings"], Value::Array(Vec::new()));
    place.run(1, "inspect no-such-file");
    place.run(2, "inspect");
}

#[test]
fn compare_knows_forms_folding_and_a_limit() {
    let place = Place::new();
    place.ok("quantize a.mlmodel b.mlmodel --mode linear --nbits 4 --quiet");
    let stdout = place.ok("compare a.mlmodel b.mlmodel");
    assert!(stdout.contains("is folded for this") && stdout.contains("worst layers"), "{stdout}");
    place.ok("quantize a.mlmodel c.mlmodel --no-fold --quiet");
    assert!(!place.ok("compare a.mlmodel c.mlmodel").contains("is folded for this"));
    let json: Value = serde_json::from_str(&place.ok("compare a.mlmodel b.mlmodel --json")).unwrap();
    assert_eq!(json["folded"], true);
    assert_eq!(json["other"]["bytes"], place.len("b.mlmodel"));
    place.ok("compare a.mlmodel c.mlmodel --min-sqnr 40 --quiet");
    assert!(place.refused(4, "compare a.mlmodel b.mlmodel --min-sqnr 40 --quiet").contains("40 dB are asked for"));
    fs::copy(fixture("golden/models/pipeline.mlmodel"), place.path("p.mlmodel")).unwrap();
    assert!(place.refused(1, "compare a.mlmodel p.mlmodel").contains("not of the same network"));
}

#[test]
fn check_names_broken_rules() {
    let place = Place::new();
    let mut model = quantize_weights(&place.model("a.mlmodel"), &QuantConfig::float16()).unwrap().model;
    model.proto_mut().specification_version = 1;
    model.save(place.path("broken.mlmodel")).unwrap();
    let output = place.run(4, "check a.mlmodel broken.mlmodel");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("broken.mlmodel: model: specificationVersion is 1, its weights need 2"), "{stdout}");
    assert!(place.ok("inspect broken.mlmodel").contains("rules are broken"));
    // What breaks a rule is not written unless asked for.
    let message = place.refused(4, "fold broken.mlmodel b.mlmodel");
    assert!(message.contains("as the input does"), "{message}");
    place.ok("fold broken.mlmodel b.mlmodel --no-check");
    let json: Value = serde_json::from_slice(&place.run(4, "check broken.mlmodel --json").stdout).unwrap();
    assert_eq!(json[0]["findings"].as_array().unwrap().len(), 1);
}

#[test]
fn fold_only_folds() {
    let place = Place::new();
    let stdout = place.ok("fold a.mlmodel b.mlmodel --report r.json");
    let first = "folded model: batchnorm layer \"batchnorm_1\" into convolution layer \"conv_1\"";
    assert_eq!(stdout.lines().next(), Some(first));
    let expected = coreml_quant::fold(&place.model("a.mlmodel")).unwrap();
    assert!(fs::read(place.path("b.mlmodel")).unwrap() == expected.model.to_bytes());
    assert_eq!(place.json("r.json")["fold"]["bytes_after"], expected.report.bytes_after);
    let output = place.run(3, "fold b.mlmodel c.mlmodel");
    assert!(String::from_utf8(output.stderr).unwrap().contains("nothing changed"));
}

#[test]
fn plot_draws() {
    let place = Place::new();
    place.ok("plot a.mlmodel picture.svg");
    assert!(fs::read_to_string(place.path("picture.svg")).unwrap().contains("kmeans_lut"));
    place.refused(1, "plot no-such-file other.svg");
}

#[test]
fn predict_runs_a_model() {
    let place = Place::new();
    let samples = fs::read_to_string(fixture("digits/samples.csv")).unwrap();
    let cells: Vec<f64> = samples.lines().nth(1).unwrap().split(',').map(|cell| cell.parse().unwrap()).collect();
    let pixels = ndarray::Array::from_shape_vec((1, 8, 8), cells[1..].to_vec()).unwrap();
    ndarray_npy::write_npy(place.path("x.npy"), &pixels).unwrap();
    let stdout = place.ok("predict a.mlmodel --input image=x.npy --top 2");
    assert!(stdout.contains(&format!("digit: {}\n", cells[0])), "{stdout}");
    let json: Value = serde_json::from_str(&place.ok("predict a.mlmodel --input image=x.npy --json")).unwrap();
    assert_eq!(json["digit"], cells[0] as i64);
    assert!(place.refused(2, "predict a.mlmodel --input imag=x.npy").contains("did you mean \"image\"?"));
    assert!(place.refused(2, "predict a.mlmodel").contains("--input image=... is missing"));
    assert!(place.refused(1, "predict a.mlmodel --input image=none.npy").contains("none.npy"));
}

/// The held-out digits, as arrays and labels of one file.
fn write_samples(place: &Place) {
    let text = fs::read_to_string(fixture("digits/samples.csv")).unwrap();
    let mut lines = String::new();
    for line in text.lines().skip(1) {
        let cells: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        let rows: Vec<&[f64]> = cells[1..].chunks(8).collect();
        lines += &serde_json::json!({ "image": [rows], "label": cells[0] as i64 }).to_string();
        lines.push('\n');
    }
    fs::write(place.path("samples.jsonl"), lines).unwrap();
}

#[test]
fn evaluate_counts_what_is_right() {
    let place = Place::new();
    write_samples(&place);
    place.ok("quantize a.mlmodel b.mlmodel --mode linear --nbits 2 --biases as-weights --quiet");
    let words = "evaluate a.mlmodel b.mlmodel --samples samples.jsonl --json";
    let json: Value = serde_json::from_str(&place.ok(words)).unwrap();
    assert_eq!(json["samples"], 100);
    let classes = json["outputs"].as_array().unwrap().iter().map(|output| &output["classes"]);
    let classes = classes.filter(|classes| !classes["accuracy"].is_null()).collect::<Vec<_>>();
    // As measured by hand for the README.
    assert!(classes.iter().all(|classes| classes["original_accuracy"]["count"] == 99), "{classes:?}");
    assert!(classes.iter().all(|classes| classes["accuracy"]["count"] == 78), "{classes:?}");
    let limit = "evaluate a.mlmodel b.mlmodel --samples samples.jsonl --quiet --min-accuracy 97%";
    assert!(place.refused(4, limit).contains("the accuracy is 78.00 %, 97.00 % are asked for"));
    let text = place.ok("evaluate a.mlmodel b.mlmodel --samples synthetic:4 --per-layer");
    assert!(text.contains("synthetic") && text.contains("dense_1"), "{text}");
    place.refused(2, "evaluate a.mlmodel b.mlmodel --samples synthetic:0");
    place.refused(2, "evaluate a.mlmodel b.mlmodel --samples synthetic:4 --min-accuracy 97%");
    place.refused(1, "evaluate a.mlmodel b.mlmodel --samples none.npz");
}

#[test]
fn search_keeps_the_accuracy() {
    let place = Place::new();
    write_samples(&place);
    place.ok("search a.mlmodel b.mlmodel --samples samples.jsonl --min-accuracy 99% --plan-out p.json --report r.json");
    let report = place.json("r.json");
    let chosen = &report["candidates"][report["chosen"].as_u64().unwrap() as usize];
    assert_eq!(chosen["bytes"], place.len("b.mlmodel"));
    // Smaller than the smallest uniform mode that keeps it.
    let uniform = report["candidates"].as_array().unwrap().iter();
    let uniform = uniform.filter(|candidate| candidate["planned"] == false && candidate["reaches"] == true);
    assert!(uniform.map(|candidate| candidate["bytes"].as_u64().unwrap()).min().unwrap() > place.len("b.mlmodel"));
    place.ok("evaluate a.mlmodel b.mlmodel --samples samples.jsonl --min-accuracy 99% --quiet");
    place.ok("quantize a.mlmodel c.mlmodel --plan-in p.json --quiet");
    assert!(fs::read(place.path("b.mlmodel")).unwrap() == fs::read(place.path("c.mlmodel")).unwrap());
    place.refused(2, "search a.mlmodel d.mlmodel --samples synthetic");
    place.refused(2, "search a.mlmodel a.mlmodel --samples synthetic --min-snr 30");
}

#[test]
fn biases_and_calibration() {
    let place = Place::new();
    write_samples(&place);
    for (biases, form) in [("float16", 16), ("as-weights", 4), ("keep", 32)] {
        place.ok(&format!("quantize a.mlmodel b.mlmodel --nbits 4 --biases {biases} --quiet"));
        assert_eq!(bits_of(&place.forms("b.mlmodel"), "dense_1 bias"), form, "{biases}");
    }
    place.refused(2, "quantize a.mlmodel c.mlmodel --biases none");
    // Calibrated on the samples, the outputs are nearer to the original's.
    place.ok("quantize a.mlmodel b.mlmodel --mode kmeans_lut --nbits 2 --quiet");
    place.ok("quantize a.mlmodel c.mlmodel --mode kmeans_lut --nbits 2 --quiet --calibrate samples.jsonl");
    assert_eq!(place.len("b.mlmodel"), place.len("c.mlmodel"));
    let agreement = |name: &str| {
        let words = format!("evaluate a.mlmodel {name} --samples samples.jsonl --json");
        let json: Value = serde_json::from_str(&place.ok(&words)).unwrap();
        let classes = json["outputs"].as_array().unwrap().iter().map(|output| &output["classes"]["agreement"]["count"]);
        classes.filter_map(Value::as_u64).min().unwrap()
    };
    assert!(agreement("c.mlmodel") > agreement("b.mlmodel"));
    place.refused(1, "quantize a.mlmodel d.mlmodel --calibrate none.npz");
    place.refused(2, "quantize a.mlmodel samples.jsonl --calibrate samples.jsonl");
}

#[test]
fn completions_and_manual_pages() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(place.ok(&format!("completions {shell}")).contains("target-size"), "{shell}");
    }
    assert!(place.ok("man").contains("coreml\\-quant"));
    fs::create_dir(place.path("man")).unwrap();
    place.ok("man man");
    assert!(place.path("man/coreml-quant-quantize.1").exists());
    assert!(place.ok("--version").starts_with("coreml-quant 0."));
    assert!(place.ok("--help").contains("Exit codes:"));
}

// ---------------------------------------------------------------- what is refused

#[test]
fn bad_input_is_named() {
    let place = Place::new();
    fs::write(place.path("text.mlmodel"), "hello\n").unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 154554\n";
    fs::write(place.path("pointer.mlmodel"), pointer).unwrap();
    fs::write(place.path("alias.mlmodel"), b"book\0\0\0\0mark\0\0\0\08\0\0\0").unwrap();
    fs::write(place.path("empty.mlmodel"), "").unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    for (input, expected) in [
        ("text.mlmodel", "is text"),
        ("pointer.mlmodel", "git lfs pull"),
        ("alias.mlmodel", "alias"),
        ("empty.mlmodel", "empty"),
        ("missing.mlmodel", "missing.mlmodel"),
        ("folder", "folder"),
    ] {
        for words in ["quantize IN out.mlmodel", "inspect IN", "check IN", "sweep IN", "plan IN --target-bits 4"] {
            let message = place.refused(1, &words.replace("IN", input));
            assert!(message.contains(expected) && message.contains(input), "{message}");
        }
    }
}

#[test]
fn wrong_options_are_usage_errors() {
    let place = Place::new();
    place.ok("plan a.mlmodel --target-bits 4 --output p.json");
    for (options, expected) in [
        ("--mode linear --nbits 9", "1 to 8"),
        ("--mode linear --nbits 16", "float16"),
        ("--mode linear_symmetric --nbits 1", "2 to 8"),
        ("--mode float32", "no mode \"float32\"; did you mean \"float16\"?"),
        ("--mode custom_lut", "from Rust only"),
        ("--mode float16 --nbits 8", "float16"),
        ("--mode kmeans_lut --range least-squares", "--range goes with"),
        ("--skip-layer-type innerproduct", "did you mean \"innerProduct\"?"),
        ("--skip-layer-type softmax", "softmax"),
        ("--skip-layer dens_2", "did you mean \"dense_2\"?"),
        ("--only-layer nothing_like_it", "no layer is called \"nothing_like_it\""),
        ("--rule conv1=linear:8", "did you mean \"conv_1\"?"),
        ("--rule conv_1=linear:9", "linear:9"),
        ("--rule conv_1", "NAME=METHOD"),
        ("--target-size -1", "-1"),
        ("--target-size NaN", "no size"),
        ("--target-size inf", "no size"),
        ("--target-bits NaN", "no number of bits"),
        ("--target-bits -3", "-3"),
        ("--target-sqnr inf", "no ratio in decibels"),
        ("--target-sqnr -5", "no ratio in decibels"),
        ("--target-bits 4 --target-sqnr 9", "cannot be used with"),
        ("--target-bits 4 --nbits 4", "cannot be used with"),
        ("--target-bits 4 --mode dequantize", "no plan"),
        ("--target-bits 4 --rule conv_1=keep", "cannot be used with"),
        ("--plan-in p.json --skip-layer dense_2", "--plan-in"),
        ("--plan-in p.json --no-fold", "cannot be used with"),
        ("--plan-in p.json --mode linear", "--plan-in"),
        ("--mode dequantize --plan-out q.json", "no plan"),
        ("--fold --no-fold", "cannot be used with"),
        ("--no-fold --explain", "cannot be used with"),
        ("--quiet --full", "cannot be used with"),
        ("--threads 100000", "100000"),
        ("--threads 0", "0"),
        ("--dry-run --report r.json", "cannot be used with"),
        ("--json --quiet", "cannot be used with"),
    ] {
        let message = place.refused(2, &format!("quantize a.mlmodel b.mlmodel {options}"));
        assert!(message.contains(expected), "{options}: {message}");
    }
    place.refused(2, "quantize a.mlmodel");
    place.run(2, "");
}

#[test]
fn no_output_can_hurt_an_input() {
    let place = Place::new();
    place.ok("plan a.mlmodel --target-bits 4 --output p.json");
    fs::create_dir(place.path("folder")).unwrap();
    fs::hard_link(place.path("a.mlmodel"), place.path("hard.mlmodel")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("a.mlmodel", place.path("soft.mlmodel")).unwrap();
    for words in [
        "quantize a.mlmodel a.mlmodel",
        "quantize a.mlmodel folder/../a.mlmodel",
        "quantize a.mlmodel hard.mlmodel",
        #[cfg(unix)]
        "quantize a.mlmodel soft.mlmodel",
        #[cfg(unix)]
        "quantize soft.mlmodel hard.mlmodel",
        "quantize a.mlmodel b.mlmodel --report a.mlmodel",
        "quantize a.mlmodel b.mlmodel --report b.mlmodel",
        "quantize a.mlmodel b.mlmodel --report folder/../b.mlmodel",
        "quantize a.mlmodel b.mlmodel --target-bits 4 --plan-out a.mlmodel",
        "quantize a.mlmodel b.mlmodel --plan-out c --report c",
        "quantize a.mlmodel p.json --plan-in p.json",
        "quantize a.mlmodel a.mlmodel --in-place --report a.mlmodel",
        "fold a.mlmodel a.mlmodel",
        "dequantize a.mlmodel a.mlmodel",
        "plan a.mlmodel --target-bits 4 --output a.mlmodel",
        "sweep a.mlmodel --output a.mlmodel",
        "plot a.mlmodel a.mlmodel",
    ] {
        let message = place.refused(2, words);
        assert!(
            message.contains("same file") || message.contains("input a") || message.contains("the input"),
            "{message}"
        );
    }
    // On purpose it can be had.
    place.ok("quantize a.mlmodel a.mlmodel --in-place --quiet");
    assert!(place.len("a.mlmodel") < 50_000);
    assert_eq!(place.len("hard.mlmodel"), 154_554);
}

#[test]
fn what_cannot_be_written_is_known_before() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    for (words, expected) in [
        ("quantize a.mlmodel b.mlmodel --report none/r.json", "the folder does not exist"),
        ("quantize a.mlmodel none/b.mlmodel", "the folder does not exist"),
        ("quantize a.mlmodel b.mlmodel --plan-out folder", "is a folder"),
        ("quantize a.mlmodel folder", "is a folder"),
    ] {
        let message = place.refused(1, words);
        assert!(message.contains(expected) && !message.contains(".coreml-quant-"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fs::write(place.path("old.mlmodel"), "old").unwrap();
    fs::set_permissions(place.path("old.mlmodel"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("old.mlmodel", place.path("link.mlmodel")).unwrap();
    place.ok("quantize a.mlmodel link.mlmodel --quiet");
    assert!(fs::symlink_metadata(place.path("link.mlmodel")).unwrap().is_symlink());
    assert_eq!(fs::metadata(place.path("old.mlmodel")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(place.len("old.mlmodel") > 10_000);
}

// ---------------------------------------------------------------- streams and signals

#[test]
fn standard_input_and_output() {
    let place = Place::new();
    let mut command = tool();
    command.current_dir(place.folder.path()).args(["quantize", "-", "-", "--nbits", "4"]);
    command.stdin(File::open(place.path("a.mlmodel")).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    place.ok("quantize a.mlmodel b.mlmodel --nbits 4");
    assert!(output.stdout == fs::read(place.path("b.mlmodel")).unwrap());
    // The report goes aside.
    assert!(String::from_utf8(output.stderr).unwrap().contains("wrote -: 154,554 ->"));
    let plan = place.ok("plan a.mlmodel --target-bits 4 --output -");
    assert!(serde_json::from_str::<Value>(&plan).unwrap()["weights"].is_array());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    for words in ["inspect a.mlmodel --json", "completions bash", "quantize a.mlmodel b.mlmodel --json"] {
        let mut command = tool();
        command.current_dir(place.folder.path()).args(words.split_whitespace());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{words}: {output:?}");
    }
    assert!(place.path("b.mlmodel").exists());
}

/// A job that waits for its input is interrupted: the old output stays, and nothing unfinished is left.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_the_old_file_and_nothing_else() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        fs::write(place.path("b.mlmodel"), "old").unwrap();
        let mut command = tool();
        command.current_dir(place.folder.path()).args(["quantize", "-", "b.mlmodel"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&fs::read(place.path("a.mlmodel")).unwrap()[..1000]).unwrap();
        // The unfinished file's folder tells that the job runs.
        let running = || {
            let names = fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.into_iter().any(|name| name.to_string_lossy().starts_with(".coreml-quant-"))
        };
        while !running() {
            std::thread::yield_now();
        }
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{signal}");
        drop(stdin);
        place.nothing_unfinished();
        assert_eq!(fs::read(place.path("b.mlmodel")).unwrap(), b"old");
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert_eq!(lines.count(), 0);
    }
}

#[test]
fn messages_have_no_colours_in_a_pipe() {
    let place = Place::new();
    for words in ["quantize a.mlmodel b.mlmodel", "quantize", "inspect a.mlmodel"] {
        let output = place.command(words.split_whitespace());
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{words}: {output:?}");
    }
}

#[test]
fn compiled_models_are_named() {
    let place = Place::new();
    fs::create_dir(place.path("x.mlmodelc")).unwrap();
    assert!(place.refused(1, "inspect x.mlmodelc").contains("compiled"));
}
