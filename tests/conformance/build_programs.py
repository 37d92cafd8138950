"""Makes small ML Programs of every kind of weight, with coremltools' builder: `build_programs.py FOLDER`."""

import os
import sys

import numpy as np
import coremltools as ct
from coremltools.converters.mil.mil import Builder as mb, types

TARGETS = {"ios15": ct.target.iOS15, "ios16": ct.target.iOS16, "ios17": ct.target.iOS17, "ios18": ct.target.iOS18}


def layers(target, rng):
    """One of each consumer whose axes are its own, and operations that newer opsets changed."""
    weight = lambda *shape: (rng.standard_normal(shape) * 0.1).astype(np.float32)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 8, 12, 12)), mb.TensorSpec(shape=(1, 6, 64)),
                     mb.TensorSpec(shape=(1, 4), dtype=types.int32)],
        opset_version=target,
    )
    def main(image, rows, tokens):
        conv = mb.conv(x=image, weight=weight(16, 8, 5, 5), bias=weight(16), pad_type="same", name="conv")
        grouped = mb.conv(x=conv, weight=weight(16, 8, 5, 5), groups=2, pad_type="same", name="grouped")
        up = mb.conv_transpose(x=grouped, weight=weight(16, 12, 4, 4), name="up")
        linear = mb.linear(x=rows, weight=weight(96, 64), bias=weight(96), name="linear")
        straight = mb.matmul(x=linear, y=weight(96, 64), name="straight")
        turned = mb.matmul(x=straight, y=weight(80, 64), transpose_y=True, name="turned")
        left = mb.matmul(x=weight(40, 80).reshape(1, 40, 80), y=mb.transpose(x=turned, perm=[0, 2, 1]), name="left")
        table = mb.gather(x=weight(128, 32), indices=tokens, axis=0, name="table")
        added = mb.add(x=turned, y=weight(1, 6, 80), name="small")
        mask = mb.add(x=mb.tile(x=added, reps=[1, 8, 1]), y=weight(1, 48, 80), name="mask")
        best = mb.reduce_argmax(x=mask, axis=2, name="best")
        values, places = mb.topk(x=mask, k=3, axis=2, name="topk")
        return up, left, table, mask, best, values, places

    return main


def recurrent(target, rng):
    weight = lambda *shape: (rng.standard_normal(shape) * 0.1).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(5, 1, 24))], opset_version=target)
    def main(x):
        start = np.zeros((1, 32), np.float32)
        out, h, c = mb.lstm(x=x, initial_h=start, initial_c=start, weight_ih=weight(128, 24), weight_hh=weight(128, 32),
                            bias=weight(128), name="lstm")
        return out

    return main


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name, target in TARGETS.items():
        for precision in ("float16", "float32"):
            for build in (layers, recurrent):
                program = build(target, np.random.default_rng(1))
                model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True,
                                   compute_precision=getattr(ct.precision, precision.upper()))
                model.save(os.path.join(folder, f"{build.__name__}_{name}_{precision}.mlpackage"))


if __name__ == "__main__":
    main()
