"""Holds compressed ML Programs against coremltools: every output has to load, and to decompress to the values of ours.

    python programs.py COMPRESS PACKAGE...

COMPRESS is the built example `compress`. For each package and each configuration: `milproto.load` accepts the output, and
what it decompresses to has the constants of the original. Where coremltools compresses the same way, the
weights that it makes have the same bits (linear, pruning), or no less error (tables).
"""

import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import coremltools as ct
import coremltools.optimize.coreml as cto
from coremltools.converters.mil.frontend.milproto import load as milproto
from coremltools.proto import Model_pb2

# name, arguments of `compress`, coremltools' configuration, how alike the values have to be
CONFIGURATIONS = [
    ("int8 per channel", "linear_symmetric 8", lambda: cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8"), "equal"),
    ("int8 asymmetric", "linear 8", lambda: cto.OpLinearQuantizerConfig(mode="linear", dtype="int8"), "equal"),
    ("int8 per tensor", "linear 8 granularity=per_tensor",
     lambda: cto.OpLinearQuantizerConfig(mode="linear", dtype="int8", granularity="per_tensor"), "equal"),
    ("int4 blocks", "linear_symmetric 4 granularity=per_block:32",
     lambda: cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32), "equal"),
    ("int4 least squares", "linear_symmetric 4 granularity=per_channel range=least-squares",
     lambda: cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int4"), "no worse"),
    ("4-bit tables", "kmeans_lut 4", lambda: cto.OpPalettizerConfig(mode="kmeans", nbits=4), "no worse"),
    ("6-bit tables", "kmeans_lut 6", lambda: cto.OpPalettizerConfig(mode="kmeans", nbits=6), "no worse"),
    ("2-bit tables in groups", "kmeans_lut 2 granularity=per_grouped_channel:4",
     lambda: cto.OpPalettizerConfig(mode="kmeans", nbits=2, granularity="per_grouped_channel", group_size=4), "no worse"),
    ("3-bit tables", "kmeans_lut 3", None, None),
    ("1-bit tables", "kmeans_lut 1", None, None),
    ("8-bit tables", "kmeans_lut 8", None, None),
    ("uniform tables", "linear_lut 4", lambda: cto.OpPalettizerConfig(mode="uniform", nbits=4), "no worse"),
    ("sparsity", "prune prune=sparsity:0.5", lambda: cto.OpMagnitudePrunerConfig(target_sparsity=0.5), "equal"),
    ("sparsity 0.75", "prune prune=sparsity:0.75", lambda: cto.OpMagnitudePrunerConfig(target_sparsity=0.75), "equal"),
    ("blocks of 2", "prune prune=blocks:0.5,2,0",
     lambda: cto.OpMagnitudePrunerConfig(target_sparsity=0.5, block_size=2), "equal"),
    ("2 of 4", "prune prune=n_of_m:2,4,1", lambda: cto.OpMagnitudePrunerConfig(n_m_ratio=(2, 4)), "equal"),
    ("threshold", "prune prune=threshold:0.02,0.1",
     lambda: cto.OpThresholdPrunerConfig(threshold=0.02, minimum_sparsity_percentile=0.1), "equal"),
    ("float16", "float16", None, None),
]


def read(package):
    spec = Model_pb2.Model()
    with open(os.path.join(package, "Data/com.apple.CoreML/model.mlmodel"), "rb") as file:
        spec.ParseFromString(file.read())
    return spec, os.path.join(package, "Data/com.apple.CoreML/weights")


def programs(spec):
    if spec.WhichOneof("Type") == "mlProgram":
        yield spec
    for kind in ("pipeline",):
        if spec.WhichOneof("Type") == kind:
            for member in spec.pipeline.models:
                yield from programs(member)


def values(package):
    """Every float constant of a package's programs, decompressed, in the order of the operations."""
    spec, weights = read(package)
    found = []
    for number, program in enumerate(programs(spec)):
        loaded = milproto.load(program, specification_version=program.specificationVersion, file_weights_dir=weights)
        for name, function in loaded.functions.items():
            walk(function, f"{number}/{name}", found)
    return found


def walk(block, path, found):
    for operation in block.operations:
        kind = operation.op_type
        if kind.startswith("constexpr_"):
            taken = [use for output in operation.outputs for use in output.child_ops]
            if any(not use.op_type.startswith("constexpr_") for use in taken) or not taken:
                found.append((f"{path}/{operation.outputs[0].name}", operation.materialized_val_inference()))
        elif kind == "const" and isinstance(operation.val.val, np.ndarray) and operation.val.val.dtype.kind == "f":
            uses = operation.outputs[0].child_ops
            if operation.val.val.size >= 10 and not all(use.op_type.startswith("constexpr_") for use in uses):
                found.append((f"{path}/{operation.outputs[0].name}", operation.val.val))
        for inner in operation.blocks:
            walk(inner, path, found)


def error(original, other):
    return float(np.sum((original.astype(np.float64) - other.astype(np.float64)) ** 2))


def by_coremltools(package, configuration, raised):
    """What coremltools makes of a package of one program."""
    model = ct.models.MLModel(raised or package, skip_model_load=True)
    kind = type(configuration).__name__
    config = cto.OptimizationConfig(global_config=configuration)
    if "Linear" in kind:
        return cto.linear_quantize_weights(model, config)
    if "Palettizer" in kind:
        return cto.palettize_weights(model, config)
    return cto.prune_weights(model, config)


def main():
    compress, *packages = sys.argv[1:]
    failures, compared, loaded = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for package in packages:
            spec, _ = read(package)
            alone = spec.WhichOneof("Type") == "mlProgram"
            originals = dict(values(package))
            for name, arguments, configuration, alike in CONFIGURATIONS:
                where = f"{os.path.basename(package)}: {name}"
                output = os.path.join(folder, "ours.mlpackage")
                shutil.rmtree(output, ignore_errors=True)
                mode, *options = arguments.split()
                run = subprocess.run([compress, package, output, mode, *options], capture_output=True, text=True)
                if run.returncode:
                    failures.append(f"{where}: {run.stderr}")
                    continue
                ours = dict(values(output))
                loaded += 1
                if ours.keys() != originals.keys():
                    failures.append(f"{where}: other constants {ours.keys() ^ originals.keys()}")
                    continue
                changed = [key for key in ours if not np.array_equal(ours[key], originals[key], equal_nan=True)]
                if not alone or configuration is None:
                    continue
                # coremltools does not raise a program far enough: ours, decompressed, is of the opset that is needed.
                raised = os.path.join(folder, "raised.mlpackage")
                shutil.rmtree(raised, ignore_errors=True)
                subprocess.run([compress, output, raised, "dequantize"], check=True, capture_output=True)
                rewritten, _ = read(raised)
                theirs_spec, _ = read(package)
                version = rewritten.specificationVersion
                source = package if version == theirs_spec.specificationVersion or version < 9 else with_values(
                    raised, originals, folder)
                try:
                    made = by_coremltools(source, configuration(), None)
                except Exception as problem:  # coremltools fails on some inputs where ours does not
                    print(f"{where}: coremltools: {type(problem).__name__}: {problem}")
                    continue
                theirs_folder = os.path.join(folder, "theirs.mlpackage")
                shutil.rmtree(theirs_folder, ignore_errors=True)
                made.save(theirs_folder)
                # Its names end in _quantized, _palettized, _sparsified.
                theirs = {}
                for key, value in values(theirs_folder):
                    for suffix in ("_quantized", "_palettized", "_sparsified"):
                        key = key.removesuffix(suffix)
                    theirs[key] = value
                for key in changed:
                    their = theirs.get(key)
                    if their is None or their.shape != ours[key].shape:
                        continue
                    if np.array_equal(their, originals[key]):
                        continue
                    compared += 1
                    if alike == "equal" and not np.array_equal(ours[key], their):
                        failures.append(f"{where}: {key}: {np.sum(ours[key] != their)} of {their.size} values differ")
                    if alike == "no worse" and error(originals[key], ours[key]) > 1.001 * error(originals[key], their) + 1e-12:
                        failures.append(f"{where}: {key}: error {error(originals[key], ours[key])}, theirs {error(originals[key], their)}")
    print(f"{loaded} outputs load, {compared} weights compared with coremltools', {len(failures)} failures")
    for failure in failures:
        print(failure)
    sys.exit(bool(failures) or compared == 0)


def with_values(raised, originals, folder):
    """A copy of a raised package whose constants are the original ones again."""
    copy = os.path.join(folder, "source.mlpackage")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(raised, copy)
    spec, weights = read(copy)
    path = os.path.join(weights, "weight.bin")
    data = bytearray(open(path, "rb").read())
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                value = operation.attributes["val"] if operation.type == "const" else None
                key = f"0/main/{operation.outputs[0].name}" if operation.outputs else None
                if value is not None and value.HasField("blobFileValue") and key in originals:
                    at = int.from_bytes(data[value.blobFileValue.offset + 16:][:8], "little")
                    content = originals[key].tobytes()
                    data[at:at + len(content)] = content
    open(path, "wb").write(data)
    return copy


if __name__ == "__main__":
    main()
