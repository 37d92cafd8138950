#!/usr/bin/env python3
"""Measures what the modes cost: file size, error, and the accuracy of the digits model. The README's tables.

    measure.py TOOL [MODEL]...

TOOL is the built coreml-quant; every MODEL (the digits model if none is given) is quantized in every mode with the
tool's default options. The error is the signal-to-noise ratio over all weights of the model, each weight's relative
error counted by its size: -10 log10(sum(N |w - w'|^2 / |w|^2) / sum(N)) in dB. With folding the weights cannot be
paired, so the error is measured without it. Accuracy is that of a float64 forward pass on samples.csv.
"""
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import coreml_weights as cw
import numpy as np

DIGITS = Path(__file__).resolve().parents[1] / "fixtures" / "digits"
MODES = ["float16", "linear 8", "linear_symmetric 8", "linear_lut 8", "kmeans_lut 8", "linear 6", "kmeans_lut 6",
         "linear 4", "linear_symmetric 4", "linear_lut 4", "kmeans_lut 4", "linear 2", "kmeans_lut 2", "kmeans_lut 1"]


def weights(model):
    return {weight.path: cw.decode(weight) for weight in cw.weights(model)}


def error_db(full, quantized):
    cost = count = 0
    for path, w in full.items():
        power = (w**2).sum()
        if power > 0:
            cost += w.size * ((w - quantized[path]) ** 2).sum() / power
        count += w.size
    return -10 * np.log10(cost / count) if cost else np.inf


def forward(model, images):
    """The digits network, layer by layer, in float64."""
    x = images.reshape(-1, 1, 8, 8)
    for layer in model.neuralNetworkClassifier.layers:
        kind = layer.WhichOneof("layer")
        w = {weight.field: cw.decode(weight).reshape(weight.shape) for weight in stored_weights(layer)}
        if kind == "convolution":
            p = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            patches = np.lib.stride_tricks.sliding_window_view(p, (3, 3), (2, 3))
            x = np.einsum("nchwij,ocij->nohw", patches, w["weights"])
            if "bias" in w:
                x = x + w["bias"][None, :, None, None]
        elif kind == "batchnorm":
            shape = (1, -1, 1, 1)
            factor = w["gamma"] / np.sqrt(w["variance"] + layer.batchnorm.epsilon)
            x = (x - w["mean"].reshape(shape)) * factor.reshape(shape) + w["beta"].reshape(shape)
        elif kind == "activation":
            x = np.maximum(x, 0)
        elif kind == "pooling":
            x = x.reshape(x.shape[0], x.shape[1], 4, 2, 4, 2).max((3, 5))
        elif kind == "flatten":
            x = x.reshape(len(x), -1)
        elif kind == "innerProduct":
            x = x @ w["weights"].T + w["bias"]
        elif kind != "softmax":
            raise ValueError(f"the digits model has no {kind}")
    return x.argmax(1)


def stored_weights(layer):
    for field, params, shape, axis, *_ in cw.fields(layer):
        if cw.stored_as(params):
            yield cw.Weight(field, layer, field, params, shape, axis)


def main():
    tool, *paths = sys.argv[1:]
    with open(DIGITS / "samples.csv") as f:
        rows = np.array([[float(cell) for cell in row] for row in list(csv.reader(f))[1:]])
    for path in map(Path, paths or [DIGITS / "digits.mlmodel"]):
        size, full = path.stat().st_size, cw.read_model(path)
        digits = path.name == "digits.mlmodel"
        print(f"\n{path.name}: {size} bytes")
        with tempfile.TemporaryDirectory() as folder:
            for entry in MODES:
                mode, *nbits = entry.split()
                options = ["--mode", mode, *(["--nbits", *nbits] if nbits else []), "--biases", "as-weights", "--quiet"]
                folded, plain = Path(folder, "folded"), Path(folder, "plain")
                try:
                    subprocess.run([tool, "quantize", path, folded, *options], check=True, capture_output=True, text=True)
                    subprocess.run([tool, "quantize", path, plain, *options, "--no-fold"], check=True, capture_output=True)
                except subprocess.CalledProcessError as error:
                    print(f"| {entry} | {error.stderr} |")
                    continue
                small = folded.stat().st_size
                line = f"| {entry:20} | {small:8} | {100 * small / size:5.1f} % | {error_db(weights(full), weights(cw.read_model(plain))):5.1f} dB |"
                if digits:
                    hits = (forward(cw.read_model(folded), rows[:, 1:]) == rows[:, 0]).sum()
                    line += f" {hits} of {len(rows)} |"
                print(line, flush=True)


if __name__ == "__main__":
    main()
