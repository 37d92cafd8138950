//! Holds the sources against the order of the rooms: imports point down, so there is no circle.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top, as CONTRIBUTING.md draws it. A room imports only from those before it.
const ROOMS: [&str; 16] = [
    "format",
    "error",
    "kernels",
    "weight",
    "model",
    "network",
    "program",
    "quantizer",
    "predict",
    "fold",
    "quantize",
    "calibrate",
    "planner",
    "evaluate",
    "inspect",
    "lib",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "bin" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The first part of a path below `src`, without its extension.
fn room(path: &Path) -> String {
    Path::new(path.iter().next().unwrap()).with_extension("").to_str().unwrap().to_owned()
}

/// What code imports with `crate::`: comments and tests aside.
fn imports(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    let mut found = Vec::new();
    for line in lines {
        for after in line.split("crate::").skip(1) {
            found.push(after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 50, "the sources are there");
    let level = |room: &str| ROOMS.iter().position(|known| *known == room);
    let mut wrong = Vec::new();
    for path in paths {
        let below = path.strip_prefix(&root).unwrap();
        let from = room(below);
        let here = level(&from).unwrap_or_else(|| panic!("{from} has no place in the order"));
        if from == "lib" || below.ends_with("tests.rs") {
            continue;
        }
        for to in imports(&fs::read_to_string(&path).unwrap()) {
            if to != from && level(&to).is_none_or(|there| there > here) {
                wrong.push(format!("{} imports {to}", below.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
