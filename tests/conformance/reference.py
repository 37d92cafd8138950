"""coremltools' own arithmetic on single weights, and on networks without its folding step."""
import contextlib
import io
from math import prod

import coreml_weights as cw
import coremltools
import numpy as np
from coremltools.models.neural_network import quantization_utils

MODES = {
    "linear": coremltools.models._QUANTIZATION_MODE_LINEAR_QUANTIZATION,
    "linear_symmetric": coremltools.models._QUANTIZATION_MODE_LINEAR_SYMMETRIC,
    "linear_lut": coremltools.models._QUANTIZATION_MODE_LOOKUP_TABLE_LINEAR,
    "float16": coremltools.models._QUANTIZATION_MODE_LINEAR_QUANTIZATION,  # with 16 bits
    "dequantize": coremltools.models._QUANTIZATION_MODE_DEQUANTIZE,
}
TINY_SCALE = 1e-6  # at or below it coremltools sends every weight of the channel to the minimum


def quantize(params, nbits, mode, shape, axis):
    """Quantizes one WeightParams in place. Without a channel axis the weight is one channel."""
    if isinstance(axis, tuple):
        if mode in (MODES["linear"], MODES["linear_symmetric"]) and nbits <= 8:
            return by_channels(params, nbits, mode, shape, axis)
        axis = None
    shape, axis = (tuple(shape), axis) if axis is not None else ((prod(shape),), 0)
    quantization_utils._quantize_wp_field(params, nbits, mode, shape, axis)


def by_channels(params, nbits, mode, shape, axis):
    """As `quantize`, for channels along several axes: in their order, and back."""
    values = np.array(params.floatValue, np.float32).reshape(shape)
    first = cw.channels_first(values, axis)
    params.floatValue[:] = first.ravel()
    flat = (prod(first.shape[:-1]), first.shape[-1])
    quantization_utils._quantize_wp_field(params, nbits, mode, flat, 0)
    codes = cw.unpack(params.rawValue, values.size, nbits)
    params.rawValue = cw.pack(cw.channels_back(codes, shape, axis).ravel(), nbits)


def quantize_model(model, nbits, mode):
    """A quantized copy of a model by coremltools' own walk through it, nothing folded."""
    out = cw.Model_pb2.Model()
    out.CopyFrom(model)
    fold, quantization_utils._optimize_nn = quantization_utils._optimize_nn, lambda layers: None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return quantization_utils._quantize_spec_weights(out, nbits, MODES[mode])
    finally:
        quantization_utils._optimize_nn = fold


def linear(values, nbits, axis, symmetric):
    """(codes, scales, biases) of an array; codes in its shape, scales and biases in float64."""
    if isinstance(axis, tuple):
        first = cw.channels_first(values, axis)
        codes, scale, bias = linear(first.reshape(-1, first.shape[-1]), nbits, 0, symmetric)
        return cw.channels_back(codes, values.shape, axis), scale, bias
    return quantization_utils._quantize_channelwise_linear(values, nbits, axis, symmetric)


def linear_lut(values, nbits):
    """(table in float64, flat codes)."""
    table, codes = quantization_utils._get_linear_lookup_table_and_weight(nbits, values)
    return table, codes.ravel()


def float16(values):
    return np.float16(values).tobytes()
