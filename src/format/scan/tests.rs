use prost::Message;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::*;

/// A field of a message as it lies in the file.
#[derive(Clone)]
struct Raw {
    number: u32,
    wire_type: u8,
    /// Without key and length.
    content: Vec<u8>,
}

fn message_type(name: &str) -> &'static MessageType {
    MESSAGES.iter().find(|message| message.name == name).unwrap()
}

fn split(bytes: &[u8]) -> Vec<Raw> {
    let mut scan = Scan { bytes, at: 0, levels: Vec::new(), unknown: None, memory: 0 };
    let mut fields = Vec::new();
    while scan.at < bytes.len() {
        let (number, wire_type) = scan.key(bytes.len()).unwrap();
        let mut start = scan.at;
        scan.step(wire_type, bytes.len()).unwrap();
        if wire_type == wire_type::LEN {
            let mut header = Scan { bytes, at: start, levels: Vec::new(), unknown: None, memory: 0 };
            header.len(bytes.len()).unwrap();
            start = header.at;
        }
        fields.push(Raw { number, wire_type, content: bytes[start..scan.at].to_vec() });
    }
    fields
}

fn varint(mut value: u64, min_len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 || bytes.len() + 1 < min_len {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

impl Raw {
    fn new(number: u32, wire_type: u8, content: impl Into<Vec<u8>>) -> Self {
        Self { number, wire_type, content: content.into() }
    }

    /// `longer` asks for more bytes in the key and the length than they need.
    fn write(&self, longer: usize, out: &mut Vec<u8>) {
        let key = u64::from(self.number) << 3 | u64::from(self.wire_type);
        out.extend(varint(key, if longer > 0 { 5 } else { 0 }));
        if self.wire_type == wire_type::LEN {
            out.extend(varint(self.content.len() as u64, longer));
        }
        out.extend(&self.content);
    }
}

fn join(fields: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|field| field.write(0, &mut out));
    out
}

fn models() -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/models");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let models: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(models.len() > 10);
    models
}

/// Every way to put a field into one of the messages of a file: the new file, the message's path and type.
fn with_field_anywhere(
    bytes: &[u8],
    message: &'static MessageType,
    path: &str,
    new: &Raw,
) -> Vec<(Vec<u8>, String, &'static str)> {
    let fields = split(bytes);
    let mut found = Vec::new();
    for at in [0, fields.len()] {
        let mut fields = fields.clone();
        fields.insert(at, new.clone());
        found.push((join(&fields), path.to_owned(), message.name));
    }
    for (at, field) in fields.iter().enumerate() {
        let known = message.field(field.number).unwrap();
        let Kind::Message(inner) = known.kind else { continue };
        let index = fields[..at].iter().filter(|before| before.number == field.number).count();
        let index = if known.repeated { format!("[{index}]") } else { String::new() };
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}{index}", known.name);
        for (content, path, message) in with_field_anywhere(&field.content, &MESSAGES[inner], &path, new) {
            let mut fields = fields.clone();
            fields[at].content = content;
            found.push((join(&fields), path, message));
        }
    }
    found
}

#[test]
fn unknown_fields_are_found_anywhere() {
    let group = [
        Raw::new(1, wire_type::VARINT, [1]),
        Raw::new(7, wire_type::LEN, [1, 2]),
        Raw::new(4242, wire_type::END_GROUP, []),
    ];
    let unknown = [
        Raw::new(4242, wire_type::VARINT, [0]),
        Raw::new(4242, wire_type::LEN, []),
        Raw::new(4242, wire_type::FIXED32, [0; 4]),
        Raw::new(4242, wire_type::FIXED64, [0; 8]),
        Raw::new(4242, wire_type::START_GROUP, join(&group)),
    ];
    let mut cases = 0;
    for (index, model) in models().into_iter().enumerate() {
        let new = &unknown[index % unknown.len()];
        for (bytes, path, message) in with_field_anywhere(&model, message_type(ROOT), "", new) {
            let found = scan(&bytes).unwrap().unknown;
            assert_eq!(found, Some(Unknown { path, message, number: 4242 }));
            // prost would have dropped it without a word.
            assert!(crate::format::proto::Model::decode(&bytes[..]).is_ok());
            cases += 1;
        }
    }
    assert!(cases > 1000, "{cases}");
}

#[test]
fn another_wire_type_makes_a_field_unknown() {
    // specificationVersion as a string.
    let unknown = Unknown { path: String::new(), message: ROOT, number: 1 };
    assert_eq!(scan(&[0x0a, 1, b'A']).unwrap().unknown, Some(unknown));
}

/// Writes a message in another way that protobuf allows for the same content.
fn rewrite(bytes: &[u8], message: &MessageType, rng: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut fields = Vec::new();
    for mut raw in split(bytes) {
        let field = message.field(raw.number).unwrap();
        match field.kind {
            Kind::Message(inner) => {
                raw.content = rewrite(&raw.content, &MESSAGES[inner], rng);
                // A single message may come in parts, which are merged.
                if !field.repeated && rng.random_bool(0.5) {
                    let mut parts = split(&raw.content);
                    let second = parts.split_off(rng.random_range(0..=parts.len()));
                    fields.push(Raw { content: join(&parts), ..raw });
                    raw.content = join(&second);
                }
            }
            Kind::Varint | Kind::Fixed32 | Kind::Fixed64 if field.repeated && raw.wire_type == wire_type::LEN => {
                fields.append(&mut unpack(&raw, field.kind, rng));
                continue;
            }
            // The last value counts.
            Kind::Varint if !field.repeated && rng.random_bool(0.3) => {
                fields.push(Raw { content: varint(rng.random(), 0), ..raw });
            }
            Kind::Bytes if !field.repeated && rng.random_bool(0.3) => {
                fields.push(Raw { content: b"something else".to_vec(), ..raw });
            }
            _ => {}
        }
        fields.push(raw);
    }
    // The order between different fields is free.
    if rng.random_bool(0.5) {
        let rank: Vec<u64> = (0..MAX_RANK).map(|_| rng.random()).collect();
        fields.sort_by_key(|field| rank[field.number as usize % MAX_RANK]);
    }
    let mut out = Vec::new();
    fields.iter().for_each(|field| field.write(rng.random_range(0..8), &mut out));
    out
}

const MAX_RANK: usize = 64;

/// Packed numbers as runs and single values.
fn unpack(raw: &Raw, kind: Kind, rng: &mut Xoshiro256PlusPlus) -> Vec<Raw> {
    let mut scan = Scan { bytes: &raw.content, at: 0, levels: Vec::new(), unknown: None, memory: 0 };
    let single = match kind {
        Kind::Varint => wire_type::VARINT,
        Kind::Fixed32 => wire_type::FIXED32,
        _ => wire_type::FIXED64,
    };
    let mut fields: Vec<Raw> = Vec::new();
    while scan.at < raw.content.len() {
        let start = scan.at;
        scan.step(single, raw.content.len()).unwrap();
        let value = &raw.content[start..scan.at];
        match fields.last_mut() {
            Some(run) if run.wire_type == wire_type::LEN && rng.random_bool(0.8) => run.content.extend(value),
            _ => fields.push(Raw::new(raw.number, if rng.random() { single } else { wire_type::LEN }, value)),
        }
    }
    fields
}

#[test]
fn every_way_to_write_a_model_is_read_alike() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    for bytes in models() {
        let model = crate::format::proto::Model::decode(&bytes[..]).unwrap();
        for _ in 0..20 {
            let other = rewrite(&bytes, message_type(ROOT), &mut rng);
            assert_ne!(other, bytes);
            assert_eq!(scan(&other).unwrap().unknown, None);
            assert_eq!(crate::format::proto::Model::decode(&other[..]).unwrap(), model);
        }
    }
}

/// What prost accepts has no damage, and damage is not accepted by prost, with one exception: as in protobuf's own
/// parsers, a key has at most five bytes.
#[test]
fn agrees_with_prost_on_damaged_files() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    let (mut accepted, mut refused) = (0, 0);
    for bytes in models() {
        for _ in 0..400 {
            let mut damaged = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..damaged.len());
                match rng.random_range(0..3) {
                    0 => damaged[at] = rng.random(),
                    1 => _ = damaged.remove(at),
                    _ => damaged.insert(at, rng.random()),
                }
            }
            let decoded = crate::format::proto::Model::decode(&damaged[..]);
            // Values are not looked at, and neither is UTF-8: decoding may refuse what this accepts.
            if let Err(damage) = scan(&damaged) {
                assert!(decoded.is_err(), "{damage:?}");
            }
            if decoded.is_ok() { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 500 && refused > 500, "{accepted} accepted, {refused} refused");
}

#[test]
fn names_where_the_damage_is() {
    let layers = [Raw::new(1, wire_type::LEN, [0x0a, 1, b'a']), Raw::new(1, wire_type::LEN, [0x0a, 9, b'b'])];
    let bytes = join(&[Raw::new(500, wire_type::LEN, join(&layers))]);
    let path = "neuralNetwork.layers[1]".to_owned();
    assert_eq!(scan(&bytes).unwrap_err(), Damage { path, offset: bytes.len() - 1, what: TRUNCATED });
}

#[test]
fn depth_is_limited_as_in_prost() {
    // A pipeline in a pipeline, each with one model: two messages a level.
    let nest = |levels: usize| {
        let mut bytes = Vec::new();
        for level in 0..levels {
            let number = if level % 2 == 0 { 1 } else { 202 };
            bytes = join(&[Raw::new(number, wire_type::LEN, bytes)]);
        }
        bytes
    };
    for levels in [MAX_DEPTH - 2, MAX_DEPTH, MAX_DEPTH + 2] {
        let bytes = nest(levels);
        assert_eq!(scan(&bytes).is_ok(), levels <= MAX_DEPTH);
        assert_eq!(crate::format::proto::Model::decode(&bytes[..]).is_ok(), levels <= MAX_DEPTH);
    }
}
