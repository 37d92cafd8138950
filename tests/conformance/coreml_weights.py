"""Where the weights of a Core ML neural-network model are, and how their bytes are read.

Written for the tests only, from the format's documentation; it knows nothing of the Rust code.
"""
import logging
import warnings
from dataclasses import dataclass
from math import prod

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)  # coremltools warns about packages that are not needed here

from coremltools.proto import Model_pb2  # noqa: E402

NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
NESTED = {"branch": ("ifBranch", "elseBranch"), "loop": ("conditionNetwork", "bodyNetwork")}
GATES = {
    "gru": ("updateGate", "resetGate", "outputGate"),
    "lstm": ("inputGate", "forgetGate", "blockInput", "outputGate"),
}
PEEPHOLES = ("inputGatePeepholeVector", "forgetGatePeepholeVector", "outputGatePeepholeVector")


@dataclass
class Weight:
    """One quantizable weight of a layer."""

    path: str  # network path, layer index and name, field: `models[0]/2:dense.weights`
    layer: object  # NeuralNetworkLayer
    field: str  # `weights`, `weightParams[1].inputGateBiasVector`, ...
    params: object  # WeightParams
    shape: tuple  # row-major
    axis: object  # the axis or axes of the channels of linear quantization, None where one scale holds for all
    float_only: bool = False  # Core ML takes float32 and float16 here, not n bits

    @property
    def count(self):
        return prod(self.shape)


def read_model(path):
    model = Model_pb2.Model()
    with open(path, "rb") as f:
        model.ParseFromString(f.read())
    return model


def submodels(model):
    """The models of a pipeline of any of the three kinds; none for other models."""
    kind = model.WhichOneof("Type")
    if kind == "pipeline":
        return list(model.pipeline.models)
    if kind in ("pipelineClassifier", "pipelineRegressor"):
        return list(getattr(model, kind).pipeline.models)
    return []


def models(model, path=""):
    """(path, model) of a model and everything in it, outermost first."""
    yield path, model
    for n, sub in enumerate(submodels(model)):
        yield from models(sub, f"{path}models[{n}]/")


def layers(network, path=""):
    """(path, layer) of a network, nested networks included."""
    for n, layer in enumerate(network.layers):
        here = f"{path}{n}:{layer.name}"
        yield here, layer
        kind = layer.WhichOneof("layer")
        for field in NESTED.get(kind, ()):
            yield from layers(getattr(getattr(layer, kind), field), f"{here}.{field}/")


def all_layers(model):
    for path, m in models(model):
        kind = m.WhichOneof("Type")
        if kind in NETWORKS:
            yield from layers(getattr(m, kind), path)


def _matrix(p, rows, columns, bias):
    yield "weights", p.weights, (rows, columns), 0
    if bias:
        yield "bias", p.bias, (rows,), None


def _recurrent(p, prefix, gates, h, i, biases):
    for gate in gates:
        yield f"{prefix}{gate}WeightMatrix", getattr(p, gate + "WeightMatrix"), (h, i), 0
        yield f"{prefix}{gate}RecursionMatrix", getattr(p, gate + "RecursionMatrix"), (h, h), 0
        if biases:
            yield f"{prefix}{gate}BiasVector", getattr(p, gate + "BiasVector"), (h,), None


def fields(layer):
    """(field, WeightParams, shape, channel axis) of one layer, stored or not."""
    kind = layer.WhichOneof("layer")
    if kind is None:
        return
    p = getattr(layer, kind)
    if kind in ("convolution", "batchedMatmul") and len(layer.input) > 1:
        return  # the weights come in as the second input
    if kind == "convolution":
        kernel, groups = tuple(p.kernelSize) or (3, 3), p.nGroups or 1
        if not p.isDeconvolution:
            yield "weights", p.weights, (p.outputChannels, p.kernelChannels, *kernel), 0
        else:
            inputs, outputs = p.kernelChannels, p.outputChannels // groups
            if groups == 1:
                yield "weights", p.weights, (inputs, outputs, *kernel), 1
            elif inputs % groups:
                yield "weights", p.weights, (inputs, outputs, *kernel), None
            else:
                # Each group has output channels of its own, so the channels lie along two axes.
                yield "weights", p.weights, (groups, inputs // groups, outputs, *kernel), (0, 2)
        if p.hasBias:
            yield "bias", p.bias, (p.outputChannels,), None
    elif kind == "convolution3d":
        first, second = (p.inputChannels, p.outputChannels) if p.isDeconvolution else (p.outputChannels, p.inputChannels)
        kernel = (p.kernelDepth, p.kernelHeight, p.kernelWidth)
        yield "weights", p.weights, (first, second // (p.nGroups or 1), *kernel), None
        if p.hasBias:
            yield "bias", p.bias, (p.outputChannels,), None
    elif kind == "innerProduct":
        yield from _matrix(p, p.outputChannels, p.inputChannels, p.hasBias)
    elif kind == "batchedMatmul":
        yield from _matrix(p, p.weightMatrixSecondDimension, p.weightMatrixFirstDimension, p.hasBias)
    elif kind == "embedding":
        yield from _matrix(p, p.outputChannels, p.inputDim, p.hasBias)
    elif kind == "embeddingND":
        yield from _matrix(p, p.embeddingSize, p.vocabSize, p.hasBias)
    elif kind == "batchnorm":
        for field in ("gamma", "beta", "mean", "variance"):
            yield field, getattr(p, field), (p.channels,), None
    elif kind == "scale":
        yield "scale", p.scale, (prod(p.shapeScale),), None
        if p.hasBias:
            yield "bias", p.bias, (prod(p.shapeBias),), None
    elif kind == "bias":
        yield "bias", p.bias, (prod(p.shape),), None
    elif kind in ("loadConstant", "loadConstantND"):
        yield "data", p.data, (prod(p.shape),), None
    elif kind == "simpleRecurrent":
        h = p.outputVectorSize
        yield "weightMatrix", p.weightMatrix, (h, p.inputVectorSize), 0
        yield "recursionMatrix", p.recursionMatrix, (h, h), 0
        if p.hasBiasVector:
            yield "biasVector", p.biasVector, (h,), None
    elif kind == "gru":
        yield from _recurrent(p, "", GATES["gru"], p.outputVectorSize, p.inputVectorSize, p.hasBiasVectors)
    elif kind in ("uniDirectionalLSTM", "biDirectionalLSTM"):
        h = p.outputVectorSize
        sets = {"weightParams.": p.weightParams} if kind == "uniDirectionalLSTM" else {
            f"weightParams[{n}].": w for n, w in enumerate(p.weightParams)}
        for prefix, w in sets.items():
            yield from _recurrent(w, prefix, GATES["lstm"], h, p.inputVectorSize, p.params.hasBiasVectors)
            if p.params.hasPeepholeVectors:
                for field in PEEPHOLES:
                    yield prefix + field, getattr(w, field), (h,), None


def weights(model):
    """Every weight that may be quantized, in the order of the file. Empty ones are left out."""
    for path, layer in all_layers(model):
        float_only = layer.WhichOneof("layer") == "convolution3d"
        for field, params, shape, axis in fields(layer):
            if stored_as(params) != "empty":
                shape = tuple(int(s) for s in shape)
                yield Weight(f"{path}.{field}", layer, field, params, shape, axis, float_only)


def stored_as(params):
    """empty, float32, float16, nbit or int8."""
    held = [name for name, value in (("float32", params.floatValue), ("float16", params.float16Value),
                                     ("nbit", params.rawValue), ("int8", params.int8RawValue)) if len(value)]
    if len(held) > 1:
        raise ValueError("a weight is stored twice: " + " and ".join(held))
    return held[0] if held else "empty"


def unpack(raw, count, nbits):
    """The codes of a packed blob, most significant bit first."""
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count * nbits).reshape(count, nbits)
    return bits @ (1 << np.arange(nbits - 1, -1, -1))


def pack(codes, nbits):
    bits = np.asarray(codes, np.uint8).reshape(-1, 1) >> np.arange(nbits - 1, -1, -1, dtype=np.uint8) & 1
    return np.packbits(bits.ravel()).tobytes()


def decode(weight):
    """The values that a stored weight stands for: flat, float64."""
    p, kind = weight.params, stored_as(weight.params)
    if kind == "float32":
        return np.array(p.floatValue, np.float64)
    if kind == "float16":
        return np.frombuffer(p.float16Value, "<f2").astype(np.float64)
    linear = p.quantization.linearQuantization
    if kind == "int8":
        return np.frombuffer(p.int8RawValue, np.int8).astype(np.float64) * linear.scale[0]
    codes = unpack(p.rawValue, weight.count, p.quantization.numberOfBits)
    if p.quantization.WhichOneof("QuantizationType") == "lookupTableQuantization":
        return np.array(p.quantization.lookupTableQuantization.floatValue, np.float64)[codes]
    scale = np.array(linear.scale, np.float64)
    bias = np.array(linear.bias, np.float64) if len(linear.bias) else np.zeros(len(scale))
    if len(scale) == 1:
        return codes * scale[0] + bias[0]
    by_channel = channels_first(codes.reshape(weight.shape), weight.axis or 0)
    scale, bias = (x.reshape(by_channel.shape[:-1])[..., None] for x in (scale, bias))
    return channels_back(by_channel * scale + bias, weight.shape, weight.axis or 0).ravel()


def axes(axis):
    """The axes of the channels, of which there are two in a deconvolution in groups."""
    return axis if isinstance(axis, tuple) else (axis,)


def channels_first(array, axis):
    """The values with the channels along the first axes, and all others along the last."""
    first = np.moveaxis(array, axes(axis), range(len(axes(axis))))
    return first.reshape(*first.shape[:len(axes(axis))], -1)


def channels_back(array, shape, axis):
    """What `channels_first` made in its old order."""
    rest = [size for at, size in enumerate(shape) if at not in axes(axis)]
    full = array.reshape(*(shape[at] for at in axes(axis)), *rest)
    return np.moveaxis(full, range(len(axes(axis))), axes(axis))
