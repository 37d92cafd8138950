//! `Manifest.json`, the table of contents of an `.mlpackage` folder.
//!
//! A package lists its items: files or folders below `Data/`, each under an identifier, with the author who put it there.
//! One of them is the root model. Everything of a manifest that is not understood is kept.

use serde_json::{Map, Value};

use crate::error::ManifestError;

/// The file's name, at the top of the package.
pub(crate) const MANIFEST: &str = "Manifest.json";

/// The folder that the paths of items are relative to.
pub(crate) const DATA: &str = "Data";

/// The author of what Core ML itself puts into a package, and the name of its folder.
const APPLE: &str = "com.apple.CoreML";

/// The newest version of packages that is known.
const NEWEST: [u64; 3] = [1, 0, 0];

/// Identifiers of packages that are made here: always the same, so that the same model gives the same bytes.
const MODEL_IDENTIFIER: &str = "5E0F1E6A-3C1B-4C55-9A57-6D6F64656C00";
const WEIGHTS_IDENTIFIER: &str = "5E0F1E6A-3C1B-4C55-9A57-776569676874";

/// A manifest that obeys the format's rules.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    json: Map<String, Value>,
    /// The root model's path, relative to the package: `Data/com.apple.CoreML/model.mlmodel`.
    root: String,
    /// The paths of all items, relative to the package.
    items: Vec<String>,
}

impl Manifest {
    /// Reads the file's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let json = match serde_json::from_slice(bytes) {
            Ok(Value::Object(json)) => json,
            Ok(_) => return Err(key("the file", "an object")),
            Err(error) => return Err(ManifestError::Json(error.to_string())),
        };
        let version = string(&json, "fileFormatVersion", "fileFormatVersion")?;
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        match [numbers.next(), numbers.next(), numbers.next(), numbers.next()] {
            [Some(Some(a)), Some(Some(b)), Some(Some(c)), None] if [a, b, c] <= NEWEST => {}
            _ => return Err(ManifestError::Version { found: version.to_owned() }),
        }
        let root_identifier = string(&json, "rootModelIdentifier", "rootModelIdentifier")?;
        let Some(Value::Object(entries)) = json.get("itemInfoEntries") else {
            return Err(key("itemInfoEntries", "an object"));
        };
        let (mut root, mut items) = (None, Vec::with_capacity(entries.len()));
        for (identifier, entry) in entries {
            let Value::Object(entry) = entry else {
                return Err(key(&format!("itemInfoEntries.{identifier}"), "an object"));
            };
            for field in ["author", "description", "name"] {
                string(entry, field, &format!("itemInfoEntries.{identifier}.{field}"))?;
            }
            let path = string(entry, "path", &format!("itemInfoEntries.{identifier}.path"))?;
            if !is_inside(path) {
                return Err(ManifestError::Path { identifier: identifier.clone(), path: path.to_owned() });
            }
            let path = format!("{DATA}/{}", path.trim_end_matches('/'));
            if identifier == root_identifier {
                root = Some(path.clone());
            }
            items.push(path);
        }
        let Some(root) = root else {
            return Err(ManifestError::NoRoot { identifier: root_identifier.to_owned() });
        };
        Ok(Self { root, items, json })
    }

    /// The manifest of a new package with a model, and with weights if there are any.
    pub(crate) fn new() -> Self {
        let item = |name: &str, description: &str| {
            serde_json::json!({
                "author": APPLE, "description": description, "name": name, "path": format!("{APPLE}/{name}"),
            })
        };
        let mut entries = Map::new();
        entries.insert(MODEL_IDENTIFIER.to_owned(), item("model.mlmodel", "CoreML Model Specification"));
        let mut json = Map::new();
        json.insert("fileFormatVersion".to_owned(), "1.0.0".into());
        json.insert("itemInfoEntries".to_owned(), entries.into());
        json.insert("rootModelIdentifier".to_owned(), MODEL_IDENTIFIER.into());
        let root = format!("{DATA}/{APPLE}/model.mlmodel");
        Self { json, items: vec![root.clone()], root }
    }

    /// The root model's path, relative to the package.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// The paths of all items, relative to the package.
    pub(crate) fn items(&self) -> &[String] {
        &self.items
    }

    /// Adds an item for a folder of weights, unless one covers it. `path` is relative to the package.
    pub(crate) fn cover_weights(&mut self, path: &str) {
        let covered = |item: &String| path == item || path.strip_prefix(item).is_some_and(|rest| rest.starts_with('/'));
        if self.items.iter().any(covered) {
            return;
        }
        let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
        let Some(inside) = folder.strip_prefix(DATA).and_then(|rest| rest.strip_prefix('/')) else { return };
        let name = inside.rsplit('/').next().unwrap_or(inside);
        let item = serde_json::json!({
            "author": APPLE, "description": "CoreML Model Weights", "name": name, "path": inside,
        });
        if let Some(Value::Object(entries)) = self.json.get_mut("itemInfoEntries") {
            entries.insert(WEIGHTS_IDENTIFIER.to_owned(), item);
            self.items.push(folder.to_owned());
        }
    }

    /// The file's bytes, keys in alphabetical order.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Strings and maps into memory: nothing of it can fail.
        serde_json::to_vec_pretty(&self.json).unwrap_or_default()
    }
}

fn key(key: &str, expected: &'static str) -> ManifestError {
    ManifestError::Key { key: key.to_owned(), expected }
}

fn string<'j>(json: &'j Map<String, Value>, field: &str, path: &str) -> Result<&'j str, ManifestError> {
    json.get(field).and_then(Value::as_str).ok_or_else(|| key(path, "a string"))
}

/// Whether a path has nothing in it that leads out of the folder it is relative to.
pub(crate) fn is_inside(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    !path.is_empty()
        && !path.contains(['\\', '\0', ':'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut json: Value = serde_json::from_slice(&Manifest::new().to_bytes()).unwrap();
        change(&mut json);
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn a_new_manifest_is_read_back() {
        let mut made = Manifest::new();
        made.cover_weights("Data/com.apple.CoreML/weights/weight.bin");
        made.cover_weights("Data/com.apple.CoreML/weights/1-weight.bin");
        let read = Manifest::parse(&made.to_bytes()).unwrap();
        assert_eq!(read.root(), "Data/com.apple.CoreML/model.mlmodel");
        let mut items = read.items().to_vec();
        items.sort();
        assert_eq!(items, ["Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights"]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        type Case = (fn(&mut Value), fn(&ManifestError) -> bool);
        let cases: [Case; 7] = [
            (|json| json["fileFormatVersion"] = "1.0.1".into(), |e| matches!(e, ManifestError::Version { .. })),
            (|json| json["fileFormatVersion"] = "1.0".into(), |e| matches!(e, ManifestError::Version { .. })),
            (|json| json["rootModelIdentifier"] = "X".into(), |e| matches!(e, ManifestError::NoRoot { .. })),
            (|json| json["itemInfoEntries"] = 1.into(), |e| matches!(e, ManifestError::Key { .. })),
            (
                |json| json["itemInfoEntries"][MODEL_IDENTIFIER]["path"] = "../../x".into(),
                |e| matches!(e, ManifestError::Path { .. }),
            ),
            (
                |json| json["itemInfoEntries"][MODEL_IDENTIFIER]["path"] = "/etc/passwd".into(),
                |e| matches!(e, ManifestError::Path { .. }),
            ),
            (
                |json| json["itemInfoEntries"][MODEL_IDENTIFIER]["author"] = Value::Null,
                |e| matches!(e, ManifestError::Key { .. }),
            ),
        ];
        for (index, (change, expected)) in cases.into_iter().enumerate() {
            let error = Manifest::parse(&manifest(change)).unwrap_err();
            assert!(expected(&error), "case {index}: {error}");
        }
    }
}
