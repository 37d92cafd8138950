//! Names that users type: modes, methods, types and layers, with the nearest one suggested for those that do not exist.

use coreml_quant::{AdvancedSelector, ConfigError, Method, Mode};

/// A mode, under its own name or one of coremltools'.
pub fn mode(text: &str) -> Result<Mode, String> {
    if text == "custom_lut" {
        return Err("custom_lut needs a function; it can be used from Rust only".to_owned());
    }
    canonical(text).parse().map_err(|_| {
        let known = modes();
        format!("there is no mode \"{text}\"{}; the modes are {}", suggestion(text, &known), known.join(", "))
    })
}

/// The names of the modes that the command line takes.
fn modes() -> Vec<&'static str> {
    Mode::all().iter().filter(|&&mode| mode != Mode::CustomLut).map(|mode| mode.name()).collect()
}

/// Names that coremltools has besides.
fn canonical(mode: &str) -> &str {
    match mode {
        "kmeans" => "kmeans_lut",
        "dequantization" => "dequantize",
        mode => mode,
    }
}

/// A method, as `kmeans_lut:4`.
pub fn method(text: &str) -> Result<Method, String> {
    let (mode, rest) = text.find(':').map_or((text, ""), |at| text.split_at(at));
    format!("{}{rest}", canonical(mode)).parse().map_err(|error: ConfigError| {
        let names = ["keep", "float16", "linear", "linear_symmetric", "linear_lut", "kmeans_lut"];
        let hint = if names.contains(&canonical(mode)) { String::new() } else { suggestion(mode, &names) };
        format!("{error}{hint}")
    })
}

/// A layer type that is quantized, `bias`, `depthwiseConv`, `branch` or `loop`; with what selects all but it.
pub fn layer_type(name: &str) -> Result<AdvancedSelector, String> {
    let all_but = AdvancedSelector::new([name]).map_err(|error| match &error {
        ConfigError::UnknownLayerType { known, .. } => {
            let hint = suggestion(name, known);
            format!("there is no quantizable layer type \"{name}\"{hint}; the types are {}", known.join(", "))
        }
        error => error.to_string(),
    })?;
    Ok(all_but.minimum_conv_kernel_channels(0).minimum_conv_weight_count(0))
}

/// The name that was probably meant, as the end of a message; empty if none is near.
pub fn suggestion(name: &str, known: &[impl AsRef<str>]) -> String {
    /// Below it names have nothing to do with each other.
    const NEAR: f64 = 0.7;
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase());
    known
        .iter()
        .map(|known| (known.as_ref(), likeness(known.as_ref())))
        .filter(|(_, likeness)| *likeness >= NEAR)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or_else(String::new, |(nearest, _)| format!("; did you mean \"{nearest}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_coremltools_are_understood() {
        assert_eq!(mode("kmeans"), Ok(Mode::KmeansLut));
        assert_eq!(mode("dequantization"), Ok(Mode::Dequantize));
        assert_eq!(method("kmeans:4").unwrap().to_string(), "kmeans_lut:4");
        assert!(mode("kmean_lut").unwrap_err().contains("did you mean \"kmeans_lut\"?"));
        assert!(method("liner:4").unwrap_err().contains("did you mean \"linear\"?"));
        assert!(layer_type("innerproduct").unwrap_err().contains("did you mean \"innerProduct\"?"));
    }
}
