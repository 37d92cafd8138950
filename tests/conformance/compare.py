#!/usr/bin/env python3
"""Holds the command-line tool against coremltools 9.0, weight by weight.

    compare.py TOOL [--models DIR]...

TOOL is the built coreml-quant. Every model of the fixtures, and every .mlmodel in the directories given, is
quantized in every mode, without folding, and the result is dequantized again. Demanded are
  * float16, linear, linear_symmetric, linear_lut: the bits of coremltools' arithmetic, weight by weight. Channels
    whose scale is above zero and at most 1e-6, where coremltools loses every weight, are held to half a step;
  * kmeans_lut: every weight at its nearest table entry, the squared error at most 0.1 % above the least
    possible (kmeans1d; weights of at most --kmeans-limit values);
  * dequantize: the decoded values, bit by bit;
  * the right weights left alone: those that Core ML does not take in this precision, updatable layers, weights
    already quantized, weights that would not shrink;
  * nothing else changed, and specificationVersion high enough on every level.
One line for each model and mode, then the total. Exit 1 when anything was found.
"""
import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from math import ceil, prod
from pathlib import Path

import kmeans1d

import coreml_weights as cw
import numpy as np
import reference

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
COMBINATIONS = [("float16", None), ("linear", 8), ("linear", 4), ("linear", 1), ("linear_symmetric", 8), ("linear_lut", 6),
                ("kmeans_lut", 8), ("kmeans_lut", 4), ("kmeans_lut", 2), ("kmeans_lut", 1)]
KMEANS_TOLERANCE = 1.001
HALF_MAX = 65504.0
EXACT = "conditionNetwork/0:limit.data"  # of the model control_flow


# ---------------------------------------------------------------- one weight

def quantized_bytes(weight, mode, nbits):
    """Bytes of the whole message: codes, scales, biases and table, and what is around them."""
    p = type(weight.params)(isUpdatable=weight.params.isUpdatable)
    if mode == "float16":
        p.float16Value = bytes(2 * weight.count)
        return p.ByteSize()
    channels = prod(weight.shape[at] for at in cw.axes(weight.axis)) if weight.axis is not None else 1
    p.rawValue = bytes(ceil(weight.count * nbits / 8))
    p.quantization.numberOfBits = nbits
    if mode.endswith("lut"):
        p.quantization.lookupTableQuantization.floatValue.extend([0.0] * (1 << nbits))
    else:
        p.quantization.linearQuantization.scale.extend([0.0] * channels)
        p.quantization.linearQuantization.bias.extend([0.0] * channels)
    return p.ByteSize()


def mode_of(weight, mode):
    """The mode of a weight: where Core ML takes no codes, fewer bits mean float16 (coremltools leaves float32)."""
    return "float16" if weight.float_only and mode != "dequantize" else mode


def reason_to_stay(weight, mode, nbits):
    """Why a weight must come out as it went in, or None."""
    source, mode = cw.stored_as(weight.params), mode_of(weight, mode)
    if mode == "dequantize":
        return "already float32" if source == "float32" else None
    if weight.layer.isUpdatable or weight.params.isUpdatable:
        return "updatable"
    if weight.path.endswith(EXACT) and mode == "float16":
        return "a loop's limit, which float16 does not hold"
    if source in ("nbit", "int8"):
        return "already quantized"
    if quantized_bytes(weight, mode, nbits) >= weight.params.ByteSize():
        return "would not shrink"
    return None


def first_unequal(ours, theirs):
    """Text about the first index at which two arrays differ, or None. Zeros are equal whatever their sign:
    which of them is the minimum of a channel is an accident of numpy's instructions."""
    ours, theirs = np.ravel(ours), np.ravel(theirs)
    if len(ours) != len(theirs):
        return f"{len(ours)} values, {len(theirs)} expected"
    unequal = np.flatnonzero(ours != theirs)
    if not len(unequal):
        return None
    i = unequal[0]
    return f"{len(unequal)} of {len(ours)} differ, first at {i}: {ours[i]!r}, expected {theirs[i]!r}"


def stored_codes(out, nbits, table):
    """(codes, complaint) of an n-bit weight whose form is checked first."""
    p = out.params
    kind = "lookupTableQuantization" if table else "linearQuantization"
    if cw.stored_as(p) != "nbit":
        return None, f"stored as {cw.stored_as(p)}, {nbits} bits expected"
    if p.quantization.numberOfBits != nbits or p.quantization.WhichOneof("QuantizationType") != kind:
        return None, f"{p.quantization.numberOfBits} bits, {p.quantization.WhichOneof('QuantizationType')}; {nbits}, {kind} expected"
    if table and len(p.quantization.lookupTableQuantization.floatValue) != 1 << nbits:
        return None, f"{len(p.quantization.lookupTableQuantization.floatValue)} table entries, {1 << nbits} expected"
    if len(p.rawValue) != ceil(out.count * nbits / 8):
        return None, f"{len(p.rawValue)} raw bytes, {ceil(out.count * nbits / 8)} expected"
    codes = cw.unpack(p.rawValue, out.count, nbits)
    if cw.pack(codes, nbits) != p.rawValue:
        return None, "padding bits are set"
    return codes, None


def check_float16(values, out, nbits):
    if cw.stored_as(out.params) != "float16":
        return f"stored as {cw.stored_as(out.params)}, float16 expected"
    return first_unequal(np.frombuffer(out.params.float16Value, "<f2"), np.frombuffer(reference.float16(values), "<f2"))


def half_a_step(values, codes, scale, bias):
    """Complaint unless decoding one channel comes within half a step, float32's precision aside."""
    error = np.abs(codes * scale + bias - values).max()
    bound = 0.5 * scale + np.finfo(np.float32).eps * (abs(bias) + codes.max() * scale)
    return f"off by {error:.3g}, half a step is {scale / 2:.3g}" if error > bound else None


def is_tiny(scale):
    return 0 < scale <= reference.TINY_SCALE


def check_linear(values, out, nbits, symmetric=False):
    codes, complaint = stored_codes(out, nbits, table=False)
    if complaint:
        return complaint
    shape, axis = (out.shape, out.axis) if out.axis is not None else ((1, out.count), 0)
    array = values.reshape(shape)
    expected, scale, bias = reference.linear(array, nbits, axis, symmetric)
    stored = out.params.quantization.linearQuantization
    for name, ours, theirs in (("scale", stored.scale, scale), ("bias", stored.bias, bias)):
        complaint = first_unequal(np.array(ours, np.float32), theirs.astype(np.float32))
        if complaint:
            return f"{name}: {complaint}"
    by_channel = [cw.channels_first(a.reshape(shape), axis).reshape(len(scale), -1) for a in (codes, expected, array)]
    for c, (ours, theirs, original) in enumerate(zip(*by_channel)):
        if is_tiny(scale[c]):
            complaint = half_a_step(original, ours, scale[c], bias[c])
        else:
            complaint = first_unequal(ours, theirs.astype(np.int64))
        if complaint:
            return f"codes of channel {c}: {complaint}"
    return None


def check_linear_symmetric(values, out, nbits):
    return check_linear(values, out, nbits, symmetric=True)


def check_linear_lut(values, out, nbits):
    codes, complaint = stored_codes(out, nbits, table=True)
    if complaint:
        return complaint
    table, expected = reference.linear_lut(values, nbits)
    complaint = first_unequal(np.array(out.params.quantization.lookupTableQuantization.floatValue, np.float32), table.astype(np.float32))
    if complaint:
        return f"table: {complaint}"
    scale = (values.max() - values.min()) / ((1 << nbits) - 1)
    if is_tiny(scale):
        return half_a_step(values, codes, scale, values.min())
    complaint = first_unequal(codes, expected.astype(np.int64))
    return f"codes: {complaint}" if complaint else None


class KMeans:
    """Compares squared errors with the least possible ones, which it remembers."""

    def __init__(self, limit):
        self.limit, self.known, self.worst, self.passed_over = limit, {}, 1.0, 0

    def optimum(self, values, nbits):
        key = hash((nbits, values.tobytes()))
        if key not in self.known:
            unit = 2.0 ** np.floor(np.log2(np.abs(values).max() or 1.0))  # exact; keeps squares in range
            k = min(1 << nbits, len(np.unique(values)))
            clusters = np.array(kmeans1d.cluster((values / unit).tolist(), k).clusters)
            sizes = np.bincount(clusters, minlength=k)
            centres = np.bincount(clusters, values, minlength=k) / np.maximum(sizes, 1)
            self.known[key] = float(((values - centres[clusters]) ** 2).sum())
        return self.known[key]

    def check(self, values, out, nbits):
        codes, complaint = stored_codes(out, nbits, table=True)
        if complaint:
            return complaint
        table = np.array(out.params.quantization.lookupTableQuantization.floatValue, np.float64)
        if not np.isfinite(table).all():
            return "the table is not finite"
        ordered = np.sort(table)
        above = np.searchsorted(ordered, values).clip(1, len(ordered) - 1)
        nearest = np.minimum(np.abs(values - ordered[above - 1]), np.abs(values - ordered[above]))
        error = np.abs(table[codes] - values)
        # "Nearest" is decided in float32 at best.
        far = np.flatnonzero(error > nearest + np.finfo(np.float32).eps * np.abs(values))
        if len(far):
            i = far[0]
            return f"{len(far)} of {len(values)} not at the nearest table entry, first at {i}: off by {error[i]:.6g} instead of {nearest[i]:.6g}"
        if len(values) > self.limit:
            self.passed_over += 1
            return None
        # A table entry is rounded to float32: half a unit in the last place of the largest value at most.
        rounding = len(values) * float(np.spacing(np.float32(np.abs(values).max())) / 2) ** 2
        best, ours = self.optimum(values, nbits) + rounding, float((error ** 2).sum())
        ratio = ours / best if best else 1.0 if ours == 0 else np.inf
        self.worst = max(self.worst, ratio)
        return f"squared error {ratio:.5f} times the optimum" if ratio > KMEANS_TOLERANCE else None


def check_dequantized(values, out, nbits):
    if cw.stored_as(out.params) != "float32":
        return f"stored as {cw.stored_as(out.params)}, float32 expected"
    if out.params.HasField("quantization"):
        return "float32, but with a quantization beside it"
    return first_unequal(np.array(out.params.floatValue, np.float32), values.astype(np.float32))


# ---------------------------------------------------------------- one model

def blanked(model):
    """A copy with neither weights nor versions: what quantization must not touch."""
    out = cw.Model_pb2.Model()
    out.CopyFrom(model)
    for w in cw.weights(out):
        updatable = w.params.isUpdatable
        w.params.Clear()
        w.params.isUpdatable = updatable
    for _, m in cw.models(out):
        m.ClearField("specificationVersion")
    return out


def int8_flags_off(model, paths):
    """Switches the int8 arithmetic off in the layers of some weights, as dequantization must."""
    for w in cw.weights(model):
        if w.path in paths:
            getattr(w.layer, w.layer.WhichOneof("layer")).int8DynamicQuantize = False


def first_difference(a, b, path="model"):
    """Where two messages differ, or None."""
    if a == b:
        return None
    fields_a, fields_b = ({f.name: (f, v) for f, v in m.ListFields()} for m in (a, b))
    for name in sorted(fields_a.keys() | fields_b.keys()):
        if name not in fields_a or name not in fields_b:
            return f"{path}.{name}"
        field, x = fields_a[name]
        y = fields_b[name][1]
        if x == y:
            continue
        if field.type != field.TYPE_MESSAGE or (field.message_type.GetOptions().map_entry):
            return f"{path}.{name}"
        if field.label != field.LABEL_REPEATED:
            return first_difference(x, y, f"{path}.{name}")
        if len(x) != len(y):
            return f"{path}.{name}: {len(x)} of them, {len(y)} before"
        for n, (one, other) in enumerate(zip(x, y)):
            if one != other:
                return first_difference(one, other, f"{path}.{name}[{n}]")
    return f"{path} (fields outside the schema)"


def check_versions(before, after, mode):
    """Complaints about specificationVersion: never lower, and high enough for what each model holds."""
    for (path, old), (_, new) in zip(cw.models(before), cw.models(after)):
        held = Counter(cw.stored_as(w.params) for w in cw.weights(new))
        changed = any(a.params != b.params for a, b in zip(cw.weights(old), cw.weights(new)))
        need = 3 if held["nbit"] else 2 if held["float16"] else 0
        need = max(need, 5) if held["int8"] else need
        need = max(old.specificationVersion, need if changed else 0)
        if new.specificationVersion < need:
            yield f"{path or 'model'}: specificationVersion {new.specificationVersion}, {need} needed"


def check_model(before, after, mode, nbits, kmeans):
    """(findings, how many weights were compared, how many stayed)."""
    checks = {"float16": check_float16, "linear": check_linear, "linear_symmetric": check_linear_symmetric,
              "linear_lut": check_linear_lut, "kmeans_lut": kmeans.check, "dequantize": check_dequantized}
    findings, compared, stayed = [], 0, 0
    source, results = list(cw.weights(before)), {w.path: w for w in cw.weights(after)}
    for w in source:
        out = results.pop(w.path, None)
        if out is None:
            findings.append(f"{w.path}: gone")
            continue
        reason = reason_to_stay(w, mode, nbits)
        if reason:
            stayed += 1
            if out.params != w.params:
                findings.append(f"{w.path}: changed, although {reason}")
            continue
        compared += 1
        # The shape as it came out must be the source's; the rest of the layer is compared below.
        complaint = checks[mode_of(w, mode)](cw.decode(w), cw.Weight(out.path, out.layer, out.field, out.params, w.shape, w.axis), nbits)
        if complaint:
            findings.append(f"{w.path}: {complaint}")
    findings += [f"{path}: a new weight" for path in results]
    expected, actual = blanked(before), blanked(after)
    if mode == "dequantize":
        int8 = {w.path for w in source if cw.stored_as(w.params) == "int8"}
        if int8:
            copy = cw.Model_pb2.Model()
            copy.CopyFrom(before)
            int8_flags_off(copy, int8)
            expected = blanked(copy)
    where = first_difference(actual, expected)
    if where:
        findings.append(f"besides the weights something changed: {where}")
    findings += check_versions(before, after, mode)
    return findings, compared, stayed


# ---------------------------------------------------------------- running

def run(binary, source, target, mode, nbits):
    """Error text of the program, or None when it did its work."""
    command = [binary, "quantize", source, target, "--mode", mode, "--no-fold", "--biases", "as-weights", "--quiet"]
    command += ["--nbits", str(nbits)] if nbits else []
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    # 3: done, and nothing in the model changed.
    if done.returncode in (0, 3):
        return None
    return f"exit status {done.returncode}: {done.stderr.strip()}"


def beyond_half(model):
    """Whether a weight that float16 would be asked for does not fit into it."""
    return any(np.abs(cw.decode(w)).max() >= HALF_MAX for w in cw.weights(model) if not reason_to_stay(w, "float16", None))


class Runner:
    def __init__(self, binary, kmeans, shown):
        self.binary, self.kmeans, self.shown = binary, kmeans, shown
        self.passed = self.failed = 0

    def report(self, name, what, findings, text=""):
        ok = not findings
        self.passed, self.failed = self.passed + ok, self.failed + (not ok)
        print(f"{'ok  ' if ok else 'FAIL'} {name} {what}{text}", flush=True)
        for line in findings[: self.shown]:
            print(f"       {line}")
        if len(findings) > self.shown:
            print(f"       and {len(findings) - self.shown} more")

    def compare(self, name, what, source, before, target, mode, nbits):
        """Quantizes one file and checks it; the model that came out, or None."""
        error = run(self.binary, source, target, mode, nbits)
        if error and mode == "float16" and beyond_half(before) and "exit status 1: error:" in error:
            self.report(name, what, [], ": refused, a weight is beyond float16")
            return None
        if error:
            self.report(name, what, [error])
            return None
        try:
            after = cw.read_model(target)
            findings, compared, stayed = check_model(before, after, mode, nbits, self.kmeans)
        except Exception as problem:  # a file that cannot be read as a model is a finding, not the end of the run
            self.report(name, what, [f"{type(problem).__name__}: {problem}"])
            return None
        self.report(name, what, findings, f": {compared} weights compared, {stayed} stayed")
        return after

    def model(self, path, name):
        before = cw.read_model(path)
        if not any(m.WhichOneof("Type") in cw.NETWORKS for _, m in cw.models(before)):
            print(f"skip {name}: no neural network in it")
            return
        with tempfile.TemporaryDirectory() as folder:
            once, twice = Path(folder) / "quantized.mlmodel", Path(folder) / "dequantized.mlmodel"
            self.compare(name, "dequantize", path, before, once, "dequantize", None)
            for mode, nbits in COMBINATIONS:
                what = f"{mode} {nbits}" if nbits else mode
                after = self.compare(name, what, path, before, once, mode, nbits)
                if after is not None:
                    self.compare(name, f"{what}, dequantize", once, after, twice, "dequantize", None)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tool", type=Path, help="the built coreml-quant")
    arguments.add_argument("--models", type=Path, action="append", default=[], metavar="DIR", help="more models")
    arguments.add_argument("--kmeans-limit", type=int, default=50_000, help="number of values up to which the optimum is computed")
    arguments.add_argument("--shown", type=int, default=5, help="findings printed for each model and mode")
    given = arguments.parse_args()
    if not given.tool.is_file():
        arguments.error(f"no such file: {given.tool}")
    paths = sorted((FIXTURES / "digits").glob("*.mlmodel")) + sorted((FIXTURES / "golden" / "models").glob("*.mlmodel"))
    for folder in given.models:
        found = sorted(folder.glob("*.mlmodel"))
        if not found:
            arguments.error(f"no .mlmodel in {folder}")
        paths += found
    kmeans = KMeans(given.kmeans_limit)
    runner = Runner(given.tool.resolve(), kmeans, given.shown)
    for path in paths:
        runner.model(path, path.stem)
    print(f"kmeans_lut: worst error {kmeans.worst:.6f} times the optimum, {kmeans.passed_over} weights too large to compute it")
    print(f"{runner.passed} passed, {runner.failed} failed")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
