//! Saving replaces a file completely or not at all.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::digits;
use coreml_quant::proto::model::Type;
use coreml_quant::proto::neural_network_layer::Layer;
use coreml_quant::proto::{self, InnerProductLayerParams, NeuralNetwork, NeuralNetworkLayer, WeightParams};
use coreml_quant::{Error, Model, QuantConfig, QuantizeError, SaveOptions, quantize_to_file, quantize_weights};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tempfile::tempdir;

/// A model with weights of about `bytes` bytes, all of the same value.
fn large(bytes: usize, value: f32) -> Model {
    let layers = (0..8).map(|index| NeuralNetworkLayer {
        name: format!("fc{index}"),
        input: vec!["in".to_owned()],
        output: vec!["out".to_owned()],
        layer: Some(Layer::InnerProduct(InnerProductLayerParams {
            input_channels: (bytes / 32) as u64,
            output_channels: 1,
            weights: Some(WeightParams::from_floats(&vec![value; bytes / 32])),
            ..InnerProductLayerParams::default()
        })),
        ..NeuralNetworkLayer::default()
    });
    let network = NeuralNetwork { layers: layers.collect(), ..NeuralNetwork::default() };
    Model::from_proto(proto::Model {
        specification_version: 4,
        r#type: Some(Type::NeuralNetwork(network)),
        ..proto::Model::default()
    })
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_input_may_be_the_output() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    digits().save(&path).unwrap();
    let model = Model::open(&path).unwrap();
    let config = QuantConfig::linear(4).unwrap();
    let expected = quantize_weights(&model, &config).unwrap().model.to_bytes();
    quantize_to_file(&model, &config, &path, &SaveOptions::default()).unwrap();
    assert!(fs::read(&path).unwrap() == expected);
    assert_eq!(names(folder.path()), ["model.mlmodel"]);
}

/// An input that is mapped into memory stays readable while the output takes its name.
#[test]
fn a_mapped_input_may_be_the_output() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    let original = large(1 << 20, 1.0);
    original.save(&path).unwrap();
    // SAFETY: nobody writes into the file; saving replaces it by name.
    let map = unsafe { memmap2::Mmap::map(&fs::File::open(&path).unwrap()) }.unwrap();
    let model = Model::from_bytes(bytes::Bytes::from_owner(map)).unwrap();
    quantize_to_file(&model, &QuantConfig::float16(), &path, &SaveOptions::default()).unwrap();
    assert!(model == original);
    assert!(fs::metadata(&path).unwrap().len() < original.to_bytes().len() as u64 * 6 / 10);
}

#[test]
fn a_quantizer_that_fails_leaves_the_old_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    fs::write(&path, "old").unwrap();
    let fails = || QuantConfig::custom_lut(4, |_, _| Err(QuantizeError::Other("no table".into()))).unwrap();
    let error = quantize_to_file(&digits(), &fails(), &path, &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no table"), "{error}");
    let panics = QuantConfig::custom_lut(4, |_, _| panic!("a quantizer's own fault")).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        quantize_to_file(&digits(), &panics, &path, &SaveOptions::default())
    }));
    assert!(caught.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["model.mlmodel"]);
}

#[test]
fn a_folder_cannot_be_replaced() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.mlmodel");
    fs::create_dir(&path).unwrap();
    assert!(matches!(digits().save(&path), Err(Error::Io { .. })));
    assert!(path.is_dir());
    let missing = folder.path().join("missing/model.mlmodel");
    assert!(matches!(digits().save(&missing), Err(Error::Io { .. })));
    let below_a_file = folder.path().join("file/model.mlmodel");
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(matches!(digits().save(&below_a_file), Err(Error::Io { .. })));
    assert_eq!(names(folder.path()), ["file", "model.mlmodel"]);
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn permissions_are_kept() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("model.mlmodel");
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, "").unwrap();
        digits().save(&path).unwrap();
        assert_eq!(mode(&path), mode(&fresh), "a new file is like any other");
        for permissions in [0o600, 0o640, 0o664, 0o444, 0o755] {
            fs::set_permissions(&path, fs::Permissions::from_mode(permissions)).unwrap();
            digits().save(&path).unwrap();
            assert_eq!(mode(&path), permissions);
        }
    }

    /// What only the owner may read must not be readable by all while it is written.
    #[test]
    fn the_temporary_file_is_as_private_as_the_old_one() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("model.mlmodel");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (watched, modes) = (folder.path().to_owned(), Arc::clone(&seen));
        let config = QuantConfig::linear(8).unwrap().with_progress(move |_| {
            let temporary = names(&watched).into_iter().find(|name| name.starts_with('.'));
            modes.lock().unwrap().extend(temporary.map(|name| mode(&watched.join(name))));
            ControlFlow::Continue(())
        });
        quantize_to_file(&digits(), &config, &path, &SaveOptions::default()).unwrap();
        let seen = seen.lock().unwrap();
        assert!(!seen.is_empty() && seen.iter().all(|&mode| mode == 0o600), "{seen:?}");
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let folder = tempdir().unwrap();
        let target = folder.path().join("real/model.mlmodel");
        fs::create_dir(folder.path().join("real")).unwrap();
        let (link, second) = (folder.path().join("link"), folder.path().join("second"));
        symlink("real/model.mlmodel", &link).unwrap();
        symlink(&link, &second).unwrap();
        // The target does not exist yet at first.
        for path in [&second, &link, &second] {
            let model = digits();
            model.save(path).unwrap();
            assert!(fs::symlink_metadata(path).unwrap().is_symlink());
            assert!(fs::read(&target).unwrap() == model.to_bytes());
            assert_eq!(names(folder.path()), ["link", "real", "second"]);
            assert_eq!(names(&folder.path().join("real")), ["model.mlmodel"]);
            fs::write(&target, "old").unwrap();
        }
        let circle = folder.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert!(matches!(digits().save(&circle), Err(Error::Io { .. })));
    }

    #[test]
    fn only_files_are_replaced() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(digits().save(&path), Err(Error::Io { .. })));
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_its_file() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("model.mlmodel");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let probe = folder.path().join("probe");
        if fs::write(&probe, "").is_ok() {
            // The superuser writes everywhere, except where there is nothing to write to.
            fs::remove_file(probe).unwrap();
            #[cfg(target_os = "linux")]
            assert!(matches!(digits().save("/proc/model.mlmodel"), Err(Error::Io { .. })));
        } else {
            assert!(matches!(digits().save(&path), Err(Error::Io { .. })));
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["model.mlmodel"]);
    }

    /// The path that a child process of this test works on.
    const CHILD_PATH: &str = "SAVING_TEST_PATH";

    /// Runs one of the tests below in a process of its own, behind some shell commands.
    fn child(shell: &str, test: &str, path: &Path) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD_PATH, path);
        command
    }

    fn child_path() -> Option<PathBuf> {
        std::env::var_os(CHILD_PATH).map(PathBuf::from)
    }

    /// A limit on the length of files stands for a full disk: writing fails in the middle.
    #[test]
    fn a_full_disk_leaves_the_old_file() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("model.mlmodel");
        fs::write(&path, "old").unwrap();
        for blocks in [1, 100, 4000] {
            let status = child(&format!("trap '' XFSZ; ulimit -f {blocks};"), "unix::saves_in_vain", &path)
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(names(folder.path()), ["model.mlmodel"]);
        }
    }

    /// Does nothing but in the child process of the test above.
    #[test]
    fn saves_in_vain() {
        let Some(path) = child_path() else { return };
        let model = large(4 << 20, 1.0);
        assert!(matches!(model.save(&path), Err(Error::Io { .. })));
        let config = QuantConfig::dequantize();
        assert!(quantize_to_file(&model, &config, &path, &SaveOptions::default()).is_err());
    }

    const KILLS: usize = 200;

    /// A process that saves one model over the other, again and again, is killed at a random moment: what is left is
    /// one of the two.
    #[test]
    fn a_killed_save_leaves_a_complete_file() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("model.mlmodel");
        let models = both().map(|model| model.to_bytes());
        fs::write(&path, &models[0]).unwrap();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let (mut in_the_middle, mut replaced) = (0, 0);
        for kill in 0..KILLS {
            let before = fs::read(&path).unwrap();
            let mut child = child("", "unix::saves_forever", &path).stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().contains(READY)), "the child process saves");
            std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
            child.kill().unwrap();
            child.wait().unwrap();
            let found = fs::read(&path).unwrap();
            assert!(models.contains(&found), "kill {kill} left {} bytes", found.len());
            replaced += usize::from(found != before);
            // What is left of an unfinished save is a file of another name.
            for name in names(folder.path()).into_iter().filter(|name| name != "model.mlmodel") {
                assert!(name.starts_with(".coreml-quant-") && name.ends_with(".tmp"), "{name}");
                fs::remove_file(folder.path().join(name)).unwrap();
                in_the_middle += 1;
            }
        }
        println!(
            "{KILLS} kills, {in_the_middle} in the middle of a save, the file replaced {replaced} times, none lost"
        );
        assert!(in_the_middle > 0 && replaced > 0, "{in_the_middle} in the middle, {replaced} replaced");
    }

    fn both() -> [Model; 2] {
        [large(1 << 20, 1.0), large(2 << 20, 2.0)]
    }

    const READY: &str = "saving";

    /// Does nothing but in the child process of the test above.
    #[test]
    fn saves_forever() {
        let Some(path) = child_path() else { return };
        let models = both();
        println!("\n{READY}");
        loop {
            for model in models.iter().rev() {
                model.save(&path).unwrap();
            }
        }
    }
}

#[test]
fn a_cancelled_job_writes_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("out.mlmodel");
    fs::write(&path, "old").unwrap();
    let places = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&places);
    let config = QuantConfig::kmeans_lut(4).unwrap().with_progress(move |progress| {
        seen.lock().unwrap().push(progress.place.to_string());
        ControlFlow::Break(())
    });
    let error = quantize_to_file(&digits(), &config, &path, &SaveOptions::default()).unwrap_err();
    assert!(matches!(error, coreml_quant::Error::Cancelled), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(matches!(coreml_quant::quantize_weights(&digits(), &config), Err(coreml_quant::Error::Cancelled)));
    let places = places.lock().unwrap();
    assert!(
        places.iter().all(|place| place.starts_with("folded model: ") || place.starts_with("model: ")),
        "{places:?}"
    );
}
