#!/usr/bin/env python3
"""Shows that compare.py finds what it should: right files pass, and each of many small faults is found.

    test_compare.py

The right files come from coremltools and kmeans1d. No Rust is involved.
"""
import sys

import compare
import coreml_weights as cw
import kmeans1d
import numpy as np
import reference

GOLDEN = compare.FIXTURES / "golden" / "models"
DIGITS = compare.FIXTURES / "digits" / "digits.mlmodel"


def clone(model):
    out = cw.Model_pb2.Model()
    out.CopyFrom(model)
    return out


def set_float32(params, values):
    updatable = params.isUpdatable
    params.Clear()
    params.isUpdatable = updatable
    params.floatValue.extend(np.asarray(values, np.float32))


def kmeans(params, values, nbits):
    best = kmeans1d.cluster(values.tolist(), min(1 << nbits, len(np.unique(values))))
    params.Clear()
    params.quantization.numberOfBits = nbits
    table = best.centroids + [0.0] * ((1 << nbits) - len(best.centroids))
    params.quantization.lookupTableQuantization.floatValue.extend(table)
    # float32 centres may decide near ties the other way
    stored = np.array(params.quantization.lookupTableQuantization.floatValue)[: len(best.centroids)]
    params.rawValue = cw.pack(np.abs(values[:, None] - stored).argmin(1), nbits)


def right(model, mode, nbits):
    """What a correct program writes."""
    out = clone(model)
    for w in cw.weights(out):
        if compare.reason_to_stay(w, mode, nbits):
            continue
        values, source = cw.decode(w), cw.stored_as(w.params)
        set_float32(w.params, values)
        if mode == "dequantize":
            if source == "int8":
                compare.int8_flags_off(out, {w.path})
        elif w.float_only:
            reference.quantize(w.params, 16, reference.MODES["float16"], w.shape, w.axis)
        elif mode == "kmeans_lut":
            kmeans(w.params, values, nbits)
        else:
            reference.quantize(w.params, nbits or 16, reference.MODES[mode], w.shape, w.axis)
            if mode in ("linear", "linear_symmetric", "linear_lut"):
                correct_tiny_channels(w, values, nbits, mode)
    for _, m in cw.models(out):
        m.specificationVersion = max(m.specificationVersion, {"float16": 2, "dequantize": 0}.get(mode, 3))
    return out


def correct_tiny_channels(w, values, nbits, mode):
    """Sets the codes of channels of tiny scale, which coremltools loses, to the nearest ones."""
    shape, axis = (w.shape, w.axis) if w.axis is not None and mode != "linear_lut" else ((1, w.count), 0)
    codes, scale, bias = reference.linear(values.reshape(shape), nbits, axis, mode == "linear_symmetric")
    by_channel, originals = (cw.channels_first(a, axis) for a in (codes, values.reshape(shape)))
    by_channel, originals = (a.reshape(len(scale), -1).copy() for a in (by_channel, originals))
    for c in np.flatnonzero([compare.is_tiny(s) for s in scale]):
        by_channel[c] = np.round((originals[c] - bias[c]) / scale[c])
    w.params.rawValue = cw.pack(cw.channels_back(by_channel, shape, axis), nbits)


def weight(model, path):
    return next(w for w in cw.weights(model) if w.path == path)


def raw(path, index, flip):
    def fault(m):
        data = bytearray(weight(m, path).params.rawValue)
        data[index] ^= flip
        weight(m, path).params.rawValue = bytes(data)
    return fault


def on(path, change):
    return lambda m: change(weight(m, path).params)


def scaled(values, index, factor):
    values[index] *= factor


def first_network(m):
    return getattr(m, m.WhichOneof("Type"))


def poor_table(m):
    """Moves a table entry of DENSE, and every weight to its nearest entry after that."""
    params, values = weight(m, DENSE).params, cw.decode(weight(cw.read_model(DIGITS), DENSE))
    table = np.array(lut(params).floatValue, np.float32)
    table[0] += 0.05 * np.ptp(table)
    lut(params).floatValue[:] = table
    codes = np.abs(values[:, None] - table.astype(np.float64)).argmin(1)
    params.rawValue = cw.pack(codes, params.quantization.numberOfBits)


def lost_channels(m):
    """As coremltools leaves the channels of tiny scale: every weight at the minimum."""
    w = weight(cw.read_model(DIGITS), DENSE)
    reference.quantize(w.params, 8, reference.MODES["linear"], w.shape, w.axis)
    weight(m, DENSE).params.CopyFrom(w.params)


linear = lambda p: p.quantization.linearQuantization  # noqa: E731
lut = lambda p: p.quantization.lookupTableQuantization  # noqa: E731
DENSE, CONV, BIAS = "8:dense_1.weights", "3:conv_2.weights", "8:dense_1.bias"

# model, mode, bits, what is wrong, the fault
FAULTS = [
    ("digits", "linear", 8, "a code", raw(DENSE, 77, 1)),
    ("digits", "linear", 4, "a code", raw(CONV, 5, 0x10)),
    ("digits", "linear", 4, "a scale by one bit", on(DENSE, lambda p: scaled(linear(p).scale, 3, 1.0000001))),
    ("digits", "linear", 8, "a bias by one bit", on(DENSE, lambda p: scaled(linear(p).bias, 3, 1.0000001))),
    ("digits", "linear", 8, "a scale too few", on(DENSE, lambda p: linear(p).scale.pop())),
    ("digits", "linear_symmetric", 8, "asymmetric instead", on(
        DENSE, lambda p: (set_float32(p, np.sin(np.arange(32768))), reference.quantize(p, 8, reference.MODES["linear"], (64, 512), 0)))),
    ("digits", "linear_lut", 6, "a table entry", on(DENSE, lambda p: scaled(lut(p).floatValue, 9, 1.000001))),
    ("digits", "linear_lut", 6, "a code", raw(DENSE, 11, 2)),
    ("digits", "linear_lut", 6, "a long table", on(DENSE, lambda p: lut(p).floatValue.append(1))),
    ("digits", "kmeans_lut", 4, "an empty table", on(DENSE, lambda p: lut(p).ClearField("floatValue"))),
    ("digits", "kmeans_lut", 4, "a weight at the wrong entry", raw(DENSE, 3, 0x80)),
    ("digits", "kmeans_lut", 2, "a poor table", poor_table),
    ("digits", "linear", 8, "channels of tiny scale lost", lost_channels),
    ("digits", "float16", None, "a value", on(DENSE, lambda p: setattr(p, "float16Value", b"\0\1" + p.float16Value[2:]))),
    ("digits", "float16", None, "float32 left", on(BIAS, lambda p: set_float32(p, np.ones(64)))),
    ("digits", "float16", None, "the version", lambda m: setattr(m, "specificationVersion", 1)),
    ("digits", "linear", 4, "the version", lambda m: setattr(m, "specificationVersion", 2)),
    ("digits", "linear", 4, "a weight not quantized", on(DENSE, lambda p: set_float32(p, np.ones(32768)))),
    ("digits", "linear", 4, "the other number of bits", on(DENSE, lambda p: setattr(p.quantization, "numberOfBits", 8))),
    ("digits", "linear", 4, "bytes missing", on(DENSE, lambda p: setattr(p, "rawValue", p.rawValue[:-1]))),
    ("digits", "linear", 4, "a layer renamed", lambda m: setattr(first_network(m).layers[5], "name", "x")),
    ("digits", "linear", 4, "a layer gone", lambda m: first_network(m).layers.pop(6)),
    ("digits", "linear", 4, "the kernel size", lambda m: scaled(first_network(m).layers[3].convolution.kernelSize, 0, 2)),
    ("digits", "linear", 4, "the metadata", lambda m: setattr(m.description.metadata, "author", "x")),
    ("digits", "linear", 4, "a class label", lambda m: m.neuralNetworkClassifier.int64ClassLabels.vector.append(11)),
    ("digits", "linear", 4, "an unknown field gained", lambda m: m.MergeFromString(b"\xb2\x09\x01x")),
    ("digits", "kmeans_lut", 8, "grown", on("8:dense_1.bias", lambda p: kmeans(p, np.array(p.floatValue), 8))),
    ("gru", "linear", 1, "padding", raw("0:with_bias.updateGateWeightMatrix", -1, 1)),
    ("convolution3d", "linear", 4, "quantized, though rejected", on(
        "0:plain.weights", lambda p: (set_float32(p, np.frombuffer(p.float16Value, "<f2")), reference.quantize(
            p, 4, reference.MODES["linear"], (len(p.floatValue),), 0)))),
    ("convolution3d", "linear", 4, "left in float32", on(
        "0:plain.weights", lambda p: set_float32(p, np.frombuffer(p.float16Value, "<f2")))),
    ("updatable", "linear", 4, "an updatable weight", on(
        "1:trained.weights", lambda p: reference.quantize(p, 4, reference.MODES["linear"], (3, 8), 0))),
    ("quantized", "linear", 4, "quantized again", raw("0:linear8.weights", 0, 1)),
    ("quantized", "dequantize", None, "a value", on("0:linear8.weights", lambda p: scaled(p.floatValue, 4, 1.0000001))),
    ("quantized", "dequantize", None, "still quantized", on("0:linear8.weights", lambda p: setattr(p.quantization, "numberOfBits", 8))),
    ("int8_dynamic", "dequantize", None, "the flag left", lambda m: setattr(m.neuralNetwork.layers[0].batchedMatmul, "int8DynamicQuantize", True)),
    ("never_quantized", "float16", None, "layerNormalization", lambda m: scaled(
        m.neuralNetwork.layers[0].layerNormalization.gamma.floatValue, 0, 2)),
    ("pipeline", "linear", 4, "a nested weight", raw("models[2]/models[1]/0:third.weights", 0, 1)),
    ("pipeline", "float16", None, "the outer version", lambda m: setattr(m, "specificationVersion", 1)),
    ("control_flow", "linear", 4, "a nested weight", raw("1:repeat.bodyNetwork/0:body.weights", 0, 1)),
    ("deconvolution", "linear", 8, "the channel axis", on(
        "0:deconv.weights", lambda p: (set_float32(p, np.sin(np.arange(120))), reference.quantize(p, 8, reference.MODES["linear"], (4, 5, 2, 3), 0)))),
]


def load(name):
    return cw.read_model(DIGITS if name == "digits" else GOLDEN / f"{name}.mlmodel")


def main():
    wrong = 0
    kmeans_check = compare.KMeans(50_000)
    names = ["digits", *sorted(p.stem for p in GOLDEN.glob("*.mlmodel"))]
    for name in names:
        before = load(name)
        for mode, nbits in [("dequantize", None), *compare.COMBINATIONS]:
            after = right(before, mode, nbits)
            pairs = [(before, after, mode)] + ([(after, right(after, "dequantize", None), "dequantize")] if mode != "dequantize" else [])
            for x, y, m in pairs:
                findings = compare.check_model(x, y, m, nbits, kmeans_check)[0]
                if findings:
                    wrong += 1
                    print(f"{name} {mode} {nbits}: right, but found: {findings[0]}")
    for name, mode, nbits, what, fault in FAULTS:
        before = load(name)
        after = right(before, mode, nbits)
        fault(after)
        try:
            findings = compare.check_model(before, after, mode, nbits, kmeans_check)[0]
        except ValueError as error:  # as in a weight stored twice
            findings = [str(error)]
        if not findings:
            wrong += 1
        print(f"{'found' if findings else 'MISSED'}: {name} {mode} {nbits or ''} {what}" + (f" - {findings[0]}" if findings else ""))
    print(f"{len(names)} models, {len(FAULTS)} faults, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
