#!/usr/bin/env python3
"""Holds the library's decoder against protobuf's own, on damaged and rewritten models.

    differential.py VERDICT [--models DIR]... [--mutations N] [--seed N]

VERDICT is the built example of that name. The models of the fixtures, and the .mlmodel files of the directories
given, are changed at random: bytes flipped, put in, taken out; ends cut off; fields dropped, doubled, moved, put in
from elsewhere, given other numbers, wire types and values; numbers written longer than needed; fields from the
future, at any depth. Demanded of each
  * accepted by both, and the library's own encoding means the same to protobuf; or refused by both;
  * or refused by the library alone, for a reason that it states and that is true: a field that protobuf does not
    know either, a specificationVersion above 10, no model type, no bytes at all, a varint of more than 64 bits
    (where protobuf drops the bits without a word).
Prints the counts. Exit 1 when anything else was found; what was found is written to the working directory.
"""
import argparse
import math
import random
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import coremltools.proto.Model_pb2 as model_pb2
from google.protobuf.message import DecodeError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
# Longer models take longer to compare, and are changed in as many ways as short ones: they come less often.
USUAL_LENGTH = 4000
VARINT, FIXED64, LEN, START_GROUP, END_GROUP, FIXED32 = range(6)


# ---------------------------------------------------------------- the wire format

def varint(value, longer=0):
    out = bytearray()
    while value >= 0x80 or len(out) < longer:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """[number, wire type, content] of each field of a well-formed message."""
    found, at = [], 0
    while at < len(data):
        key, at = read_varint(data, at)
        wire_type, start = key & 7, at
        if wire_type == VARINT:
            _, at = read_varint(data, at)
        elif wire_type == LEN:
            length, start = read_varint(data, at)
            at = start + length
        else:
            at += 8 if wire_type == FIXED64 else 4
        found.append([key >> 3, wire_type, data[start:at]])
    return found


def join(message, rng=None):
    out = bytearray()
    for number, wire_type, content in message:
        longer = rng.choice([0, 0, 0, 1, 2, 4]) if rng else 0
        out += varint(number << 3 | wire_type, longer)
        if wire_type == LEN:
            out += varint(len(content), longer)
        out += content
    return bytes(out)


def descend(data, descriptor, rng, change):
    """Changes one message of a file, at any depth, and mends the lengths around it."""
    message = fields(data)
    inner = [(index, descriptor.fields_by_number[number].message_type)
             for index, (number, wire_type, _) in enumerate(message)
             if wire_type == LEN and descriptor.fields_by_number[number].message_type]
    if inner and rng.random() < 0.85:
        index, child = rng.choice(inner)
        message[index][2] = descend(message[index][2], child, rng, change)
        return join(message)
    return change(message, descriptor, rng)


def wire_types(field):
    """Those that a field may have, that of a single value first."""
    if field.type in (field.TYPE_MESSAGE, field.TYPE_STRING, field.TYPE_BYTES):
        return [LEN]
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FIXED64, field.TYPE_SFIXED64):
        single = FIXED64
    elif field.type in (field.TYPE_FLOAT, field.TYPE_FIXED32, field.TYPE_SFIXED32):
        single = FIXED32
    else:
        single = VARINT
    return [single, LEN] if field.label == field.LABEL_REPEATED else [single]


# ---------------------------------------------------------------- mutations

def content(wire_type, rng):
    if wire_type == VARINT and rng.random() < 0.03:
        return b"\xff" * 9 + rng.choice([b"\1", b"\2", b"\x7f"])
    if wire_type == VARINT:
        return varint(rng.choice([0, 1, 2, 127, 128, 1 << 31, 1 << 32, (1 << 64) - 1, rng.getrandbits(rng.randint(1, 64))]),
                      rng.choice([0, 0, 0, 3, 9]))
    if wire_type == LEN:
        return rng.randbytes(rng.choice([0, 1, 2, 4, 8, 16]))
    if rng.random() < 0.2:
        return struct.pack("<d" if wire_type == FIXED64 else "<f", rng.choice([0.0, -0.0, 1.0, math.nan, math.inf]))
    return rng.randbytes(8 if wire_type == FIXED64 else 4)


def nest(message, descriptor, rng):
    """A pipeline in a pipeline, around the model, about as deep as protobuf reads."""
    data = join(message)
    if descriptor.name != "Model" or rng.random() < 0.5:
        return data
    for _ in range(rng.randint(40, 51)):
        data = join([[202, LEN, join([[1, LEN, data]])]])
    return data


def flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        out[rng.randrange(len(out))] = rng.choice([rng.randrange(256), 0, 0x7F, 0x80, 0xFF])
    return bytes(out)


def cut(data, rng):
    return data[:rng.randrange(len(data))]


def drop(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 8):]


def insert(data, rng):
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]


def double(data, rng):
    at = rng.randrange(len(data))
    piece = data[at:at + rng.randint(1, 40)]
    to = rng.randrange(len(data))
    return data[:to] + piece + data[to:]


def any_field(message, descriptor, rng):
    wire_type = rng.choice([VARINT, LEN, FIXED32, FIXED64])
    number = rng.choice([*descriptor.fields_by_number] or [1]) if rng.random() < 0.5 else rng.randint(1, 1 << rng.randint(1, 28))
    message.insert(rng.randint(0, len(message)), [number, wire_type, content(wire_type, rng)])
    return join(message)


def from_the_future(message, _, rng):
    wire_type = rng.choice([VARINT, LEN, FIXED32, FIXED64, START_GROUP])
    body = join([[1, VARINT, b"\1"], [9000, END_GROUP, b""]]) if wire_type == START_GROUP else content(wire_type, rng)
    message.insert(rng.randint(0, len(message)), [9000, wire_type, body])
    return join(message)


def known_field(message, descriptor, rng):
    """A field as the schema has it, with any value of its type: written twice, perhaps, or a default."""
    numbers = [*descriptor.fields_by_number]
    if not numbers:
        return join(message)
    field = descriptor.fields_by_number[rng.choice(numbers)]
    wire_type = wire_types(field)[0]
    if field.message_type:
        value = rng.choice([b"", join([])])
    elif field.type == field.TYPE_STRING:
        value = rng.choice([b"", b"text", "größer".encode(), b"\xff"])
    else:
        value = content(wire_type, rng)
        if field.label == field.LABEL_REPEATED and rng.random() < 0.5:
            value = b"".join(content(wire_type, rng) for _ in range(rng.randint(0, 5)))
            wire_type = LEN
    message.insert(rng.randint(0, len(message)), [field.number, wire_type, value])
    return join(message)


def reorder(message, _, rng):
    rng.shuffle(message)
    return join(message, rng)


def repeat(message, _, rng):
    if message:
        message.insert(rng.randint(0, len(message)), rng.choice(message))
    return join(message)


def remove(message, _, rng):
    if message:
        message.pop(rng.randrange(len(message)))
    return join(message)


def other_wire_type(message, _, rng):
    if message:
        field = rng.choice(message)
        field[1] = rng.choice([VARINT, LEN, FIXED32, FIXED64])
        field[2] = content(field[1], rng)
    return join(message)


def unpack(message, descriptor, rng):
    """Packed numbers one by one, or in runs."""
    out = []
    for number, wire_type, data in message:
        field = descriptor.fields_by_number[number]
        width = {field.TYPE_FLOAT: 4, field.TYPE_DOUBLE: 8}.get(field.type)
        packed = wire_type == LEN and width and field.label == field.LABEL_REPEATED and len(data) < 10_000
        if not packed:
            out.append([number, wire_type, data])
            continue
        while data:
            count = rng.randint(1, 4)
            if rng.random() < 0.5:
                out.append([number, LEN, data[:width * count]])
            else:
                out += [[number, FIXED32 if width == 4 else FIXED64, data[at:at + width]]
                        for at in range(0, min(width * count, len(data)), width)]
            data = data[width * count:]
    return join(out, rng)


RAW = [flip, cut, drop, insert, double]
STRUCTURED = [any_field, from_the_future, known_field, known_field, reorder, repeat, remove, other_wire_type, unpack,
              nest]


def mutate(data, rng):
    """Changes that keep the structure, then sometimes one that does not."""
    names = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice(STRUCTURED)
        try:
            data = descend(data, model_pb2.Model.DESCRIPTOR, rng, change)
        except (KeyError, IndexError, AttributeError):
            break  # An earlier change left something that is no longer the schema's.
        names.append(change.__name__)
    if data and rng.random() < 0.4:
        change = rng.choice(RAW)
        data = change(data, rng)
        names.append(change.__name__)
    return data, "+".join(names)


# ---------------------------------------------------------------- verdicts

def protobuf(data):
    """The model that protobuf reads, or None."""
    model = model_pb2.Model()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return None
    return model


def has_unknown_fields(model):
    known = model_pb2.Model()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    return known.ByteSize() != model.ByteSize()


def mentions_unknown(data, descriptor):
    """Whether there is an unknown field in the bytes of a message."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        field, wire_type = descriptor.fields_by_number.get(key >> 3), key & 7
        if field is None or wire_type not in wire_types(field):
            return True
        if wire_type == VARINT:
            _, at = read_varint(data, at)
        elif wire_type == LEN:
            length, at = read_varint(data, at)
            if field.message_type and mentions_unknown(data[at:at + length], field.message_type):
                return True
            at += length
        else:
            at += 8 if wire_type == FIXED64 else 4
    return False


def versions(model):
    yield model.specificationVersion
    kind = model.WhichOneof("Type")
    pipeline = {"pipeline": lambda: model.pipeline, "pipelineClassifier": lambda: model.pipelineClassifier.pipeline,
                "pipelineRegressor": lambda: model.pipelineRegressor.pipeline}.get(kind)
    for member in pipeline().models if pipeline else []:
        yield from versions(member)


def plus_zeros(message):
    """Sets -0.0 to 0.0 in single float fields, where the library does not keep the sign."""
    for field, value in message.ListFields():
        repeated = field.label == field.LABEL_REPEATED
        if field.message_type and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type:
                for inner in value.values():
                    plus_zeros(inner)
        elif field.message_type:
            for inner in value if repeated else [value]:
                plus_zeros(inner)
        elif not repeated and field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE) and value == 0:
            if field.containing_oneof is None:
                message.ClearField(field.name)


def judge(data, verdict, detail, encoded):
    """The class of a case, and whether it is as it should be."""
    model = protobuf(data)
    if verdict == "accepted":
        if model is None:
            return "accepted, refused by protobuf", False
        if has_unknown_fields(model):
            return "accepted in spite of an unknown field", False
        ours = protobuf(encoded)
        if ours is None:
            return "our encoding is refused by protobuf", False
        if ours.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True):
            return "accepted by both, same meaning", True
        plus_zeros(model), plus_zeros(ours)
        if ours.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True):
            return "accepted by both, same meaning but for the sign of a zero", True
        return "accepted by both, another meaning", False
    if verdict == "empty":
        return "refused by us alone: empty", len(data) == 0
    if model is None:
        # Which fault is named first is open.
        return "refused by both", True
    if verdict == "unknown":
        if has_unknown_fields(model):
            return "refused by us alone: unknown field", True
        # A later value of the same oneof replaced the message that had it.
        return "refused by us alone: unknown field in a value that is replaced", mentions_unknown(data, model.DESCRIPTOR)
    if verdict == "newer":
        return "refused by us alone: newer version", any(version > 10 for version in versions(model))
    if verdict == "no-type":
        return "refused by us alone: no type", model.WhichOneof("Type") is None
    if verdict == "damaged" and ("a varint that is too long" in detail or "invalid varint" in detail):
        return "refused by us alone: varint of more than 64 bits", True
    return f"refused by us alone: {verdict} {detail}", False


def answers(program, cases):
    """What the library says to each case."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told:
        for data, _ in cases:
            given.write(struct.pack("<I", len(data)) + data)
        given.seek(0)
        subprocess.run([program], stdin=given, stdout=told, check=True)
        told.seek(0)
        for _ in cases:
            verdict, _, detail = told.readline().decode().rstrip("\n").partition(" ")
            yield verdict, detail, told.read(int(detail)) if verdict == "accepted" else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verdict", type=Path)
    parser.add_argument("--models", type=Path, action="append", default=[])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    rng = random.Random(options.seed)
    directories = [FIXTURES / "golden/models", FIXTURES / "digits", *options.models]
    paths = sorted(path for directory in directories for path in directory.glob("*.mlmodel"))
    models = [path.read_bytes() for path in paths]
    weights = [min(1.0, USUAL_LENGTH / len(model)) for model in models]
    cases = []
    for _ in range(options.mutations):
        cases.append(mutate(rng.choices(models, weights)[0], rng))

    counts, failures = Counter(), 0
    for (data, mutation), answer in zip(cases, answers(options.verdict.resolve(), cases)):
        outcome, fine = judge(data, *answer)
        counts[outcome] += 1
        if not fine:
            failures += 1
            if failures <= 20:
                name = f"differential-{failures}.mlmodel"
                Path(name).write_bytes(data)
                print(f"{name}: {mutation}: {outcome}")
    for outcome, count in counts.most_common():
        print(f"{count:8} {outcome}")
    print(f"{len(cases)} mutations of {len(models)} models, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
