"""The executor beside onnxruntime on the networks of benches/predict.rs: the same sizes, other random weights.

    pip install onnxruntime onnx numpy
    python benches/against_onnxruntime.py [--threads 1]

Runs `cargo bench --bench predict` with so many threads, and onnxruntime before and after it; prints Markdown. The smallest
times are compared: on a busy machine they are the least wrong.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent


class Network:
    def __init__(self):
        self.nodes, self.weights, self.random = [], [], np.random.default_rng(1)

    def node(self, kind, inputs, **attributes):
        name = f"blob_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, shape, inputs):
        name = f"weight_{len(self.weights)}"
        limit = (6 / inputs) ** 0.5
        values = self.random.uniform(-limit, limit, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def relu(self, blob):
        return self.node("Relu", [blob])

    def convolution(self, blob, inputs, outputs, groups, kernel, stride):
        of_one = inputs // groups * kernel * kernel
        weight = self.weight((outputs, inputs // groups, kernel, kernel), of_one)
        pads = [kernel // 2] * 4
        return self.node(
            "Conv", [blob, weight, self.weight((outputs,), 600)], group=groups, strides=[stride] * 2, pads=pads
        )

    def finish(self, blob, channels):
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [blob])])
        output = self.node("Gemm", [pooled, self.weight((1000, channels), channels)], transB=1)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
        scores = helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 1000])
        graph = helper.make_graph(self.nodes, "network", [image], [scores], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return model.SerializeToString()


def mobilenet():
    network, channels = Network(), 32
    blob = network.relu(network.convolution("image", 3, 32, 1, 3, 2))
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for outputs, stride in blocks:
        blob = network.relu(network.convolution(blob, channels, channels, channels, 3, stride))
        blob = network.relu(network.convolution(blob, channels, outputs, 1, 1, 1))
        channels = outputs
    return network.finish(blob, channels)


def resnet():
    network, channels = Network(), 64
    blob = network.relu(network.convolution("image", 3, 64, 1, 7, 4))
    for outputs, stride in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
        around = blob if stride == 1 else network.convolution(blob, channels, outputs, 1, 1, stride)
        one = network.relu(network.convolution(blob, channels, outputs, 1, 3, stride))
        two = network.convolution(one, outputs, outputs, 1, 3, 1)
        blob = network.relu(network.node("Add", [two, around]))
        channels = outputs
    return network.finish(blob, channels)


def milliseconds(model, threads, runs=40):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(2).uniform(size=(1, 3, 224, 224)).astype(np.float32)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {"image": image})
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def ours(name):
    """The smallest time of a run in criterion's samples."""
    sample = json.loads((ROOT / "target/criterion" / name / "predict/new/sample.json").read_text())
    return min(time / iterations for time, iterations in zip(sample["times"], sample["iters"])) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-bench", action="store_true", help="take the bench's last results")
    arguments = parser.parse_args()
    models = {"mobilenet": mobilenet(), "resnet": resnet()}
    before = {name: milliseconds(model, arguments.threads) for name, model in models.items()}
    if not arguments.no_bench:
        environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
        subprocess.run(["cargo", "bench", "--bench", "predict", "--", "predict"], cwd=ROOT, env=environment, check=True)
    print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, {arguments.threads} threads\n")
    print("| network | onnxruntime, ms | coreml-quant, ms | ratio |\n|---|---|---|---|")
    for name, model in models.items():
        theirs = min(before[name], milliseconds(model, arguments.threads))
        print(f"| {name} | {theirs:.1f} | {ours(name):.1f} | {ours(name) / theirs:.2f} |")


if __name__ == "__main__":
    main()
