#!/usr/bin/env python3
"""Times coremltools' quantize_weights and the command-line tool on the same synthetic model, against a copy of the file.

    against_coremltools.py TARGET [--weights N]

TARGET is the folder of the built examples (target/release/examples). Packages: tests/conformance/requirements.txt.
Both jobs are whole: read a file, quantize, write a file. The interpreter's start is not counted for coremltools. A mode
that coremltools 9.0 fails in is timed until it fails.
"""
import argparse
import contextlib
import io
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import coremltools
from coremltools.models.neural_network import quantization_utils

# coremltools' names of the modes: (mode, nbits) -> (mode, nbits).
MODES = {
    ("float16", 16): ("linear", 16),
    ("linear", 8): ("linear", 8),
    ("linear", 4): ("linear", 4),
    ("linear_symmetric", 8): ("linear_symmetric", 8),
    ("linear_lut", 4): ("linear_lut", 4),
    ("kmeans_lut", 4): ("kmeans_lut", 4),
}


def timed(job):
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--weights", default="200k")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, copy, output = (Path(folder) / name for name in ("in.mlmodel", "copy.mlmodel", "out.mlmodel"))
        subprocess.run([options.target / "synthesize", source, "--weights", options.weights, "--layers", "2"], check=True)
        copied = statistics.median(timed(lambda: shutil.copyfile(source, copy)) for _ in range(20))
        print(f"{source.stat().st_size} bytes, copied in {1e3 * copied:.2f} ms")
        print(f"{'mode':20} {'ours, ms':>10} {'coremltools, ms':>16} {'ratio':>8}")
        for (mode, nbits), (their_mode, their_nbits) in MODES.items():
            command = [options.target.parent / "coreml-quant", "quantize", source, output, "--mode", mode, "--quiet"]
            if mode != "float16":
                command += ["--nbits", str(nbits)]
            ours = statistics.median(timed(lambda: subprocess.run(command, check=True)) for _ in range(9))

            def theirs():
                spec = coremltools.utils.load_spec(str(source))
                with contextlib.redirect_stdout(io.StringIO()):
                    quantized = quantization_utils.quantize_weights(
                        coremltools.models.MLModel(spec, skip_model_load=True), their_nbits, their_mode
                    )
                spec = quantized.get_spec() if hasattr(quantized, "get_spec") else quantized
                coremltools.utils.save_spec(spec, str(output))

            failed = ""
            start = time.perf_counter()
            try:
                theirs()
            except Exception as error:  # Whatever it is, it is what a user would see.
                failed = f"  fails: {type(error).__name__}: {error}"
            their_time = time.perf_counter() - start
            print(f"{mode + ' ' + str(nbits):20} {1e3 * ours:10.2f} {1e3 * their_time:16.1f} {their_time / ours:8.0f}{failed}")


if __name__ == "__main__":
    main()
