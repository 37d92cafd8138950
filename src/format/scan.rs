//! A look at the bytes of a model before they are decoded: what would be lost, and what it would cost.
//!
//! prost drops fields it does not know, and builds a large struct for every empty message of two bytes. So one pass
//! over the structure comes first. It reads keys and lengths, steps over payloads without touching them, allocates
//! nothing but a stack of at most [`MAX_DEPTH`] levels, and takes a fraction of the time of decoding.

/// The deepest nesting of messages that is read; that of protobuf's official parsers.
pub(crate) const MAX_DEPTH: usize = 100;

/// One message of the format.
struct MessageType {
    name: &'static str,
    /// Sorted by number.
    fields: &'static [Field],
}

/// One field of a message.
struct Field {
    number: u32,
    name: &'static str,
    repeated: bool,
    kind: Kind,
    /// The bytes that a value takes outside of the struct of its message: elements of vectors and boxes.
    memory: usize,
}

/// How a value lies in the file.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    /// A string or bytes.
    Bytes,
    /// A message, by its index in [`MESSAGES`].
    Message(usize),
}

/// Every message of the schema.
static MESSAGES: &[MessageType] = &include!("generated/wire_table.rs");

/// The message of a whole file.
const ROOT: &str = "Model";

/// What a pass over the bytes found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The first field that the schema does not know.
    pub unknown: Option<Unknown>,
    /// About how many bytes the decoded model takes, without what it shares with the file.
    pub memory: u64,
}

/// A field that the schema does not know.
#[derive(Debug, PartialEq)]
pub(crate) struct Unknown {
    /// The way to the message: `neuralNetwork.layers[3].convolution`; empty for the model itself.
    pub path: String,
    /// The message's type.
    pub message: &'static str,
    /// The field's number.
    pub number: u32,
}

/// Bytes that are no protobuf message of the schema.
#[derive(Debug, PartialEq)]
pub(crate) struct Damage {
    /// The way to the message, as in [`Unknown`].
    pub path: String,
    /// Where in the file.
    pub offset: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// A message that is being read.
struct Level {
    message: &'static MessageType,
    /// Where its fields start and end.
    start: usize,
    end: usize,
    /// Where its own key is in the message around it.
    key: usize,
}

/// Reads the structure of a whole file.
pub(crate) fn scan(bytes: &[u8]) -> Result<Findings, Damage> {
    let mut scan = Scan { bytes, at: 0, levels: Vec::with_capacity(MAX_DEPTH), unknown: None, memory: 0 };
    match scan.run() {
        Ok(()) => Ok(Findings { unknown: scan.unknown, memory: scan.memory }),
        Err(what) => Err(Damage { path: scan.path(), offset: scan.at, what }),
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    levels: Vec<Level>,
    unknown: Option<Unknown>,
    memory: u64,
}

const TRUNCATED: &str = "the end is missing";
const END_GROUP: &str = "an end of a group that was not started";

impl Scan<'_> {
    fn run(&mut self) -> Result<(), &'static str> {
        let Some(message) = MESSAGES.iter().find(|message| message.name == ROOT) else { return Ok(()) };
        self.levels.push(Level { message, start: 0, end: self.bytes.len(), key: 0 });
        while let Some(&Level { message, end, .. }) = self.levels.last() {
            if self.at == end {
                self.levels.pop();
                continue;
            }
            let start = self.at;
            let (number, wire_type) = self.key(end)?;
            match message.field(number) {
                Some(field) if field.kind.accepts(wire_type, field.repeated) => {
                    self.value(field, wire_type, start, end)?
                }
                _ => {
                    self.skip(number, wire_type, end)?;
                    if self.unknown.is_none() {
                        self.unknown = Some(Unknown { path: self.path(), message: message.name, number });
                    }
                }
            }
        }
        Ok(())
    }

    /// A value of a known field: enters messages, steps over everything else.
    fn value(&mut self, field: &Field, wire_type: u8, key: usize, end: usize) -> Result<(), &'static str> {
        if wire_type != wire_type::LEN {
            self.add(field, 1);
            return self.step(wire_type, end);
        }
        let len = self.len(end)?;
        match field.kind {
            Kind::Message(index) => {
                if self.levels.len() > MAX_DEPTH {
                    return Err("messages are nested too deep");
                }
                self.add(field, 1);
                self.levels.push(Level { message: &MESSAGES[index], start: self.at, end: self.at + len, key });
                return Ok(());
            }
            Kind::Bytes => self.add(field, 1),
            Kind::Varint => self.add(field, len),
            Kind::Fixed32 => self.add(field, len / 4),
            Kind::Fixed64 => self.add(field, len / 8),
        }
        self.at += len;
        Ok(())
    }

    /// Counts the memory of some values. Vectors grow by doubling, so up to half of theirs is unused.
    fn add(&mut self, field: &Field, values: usize) {
        self.memory = self.memory.saturating_add(2 * field.memory as u64 * values as u64);
    }

    /// Steps over a field of any content.
    fn skip(&mut self, number: u32, wire_type: u8, end: usize) -> Result<(), &'static str> {
        if wire_type != wire_type::START_GROUP {
            return self.step(wire_type, end);
        }
        let mut groups = vec![number];
        while let Some(&group) = groups.last() {
            match self.key(end)? {
                (number, wire_type::END_GROUP) if number == group => _ = groups.pop(),
                (_, wire_type::END_GROUP) => return Err(END_GROUP),
                (number, wire_type::START_GROUP) if self.levels.len() + groups.len() <= MAX_DEPTH => {
                    groups.push(number)
                }
                (_, wire_type::START_GROUP) => return Err("groups are nested too deep"),
                (_, wire_type) => self.step(wire_type, end)?,
            }
        }
        Ok(())
    }

    /// Steps over a value that is no group.
    fn step(&mut self, wire_type: u8, end: usize) -> Result<(), &'static str> {
        let len = match wire_type {
            wire_type::VARINT => return self.varint(end, 10).map(drop),
            wire_type::FIXED64 => 8,
            wire_type::LEN => self.len(end)?,
            wire_type::FIXED32 => 4,
            wire_type::END_GROUP => return Err(END_GROUP),
            _ => return Err("a wire type that does not exist"),
        };
        if len > end - self.at {
            return Err(TRUNCATED);
        }
        self.at += len;
        Ok(())
    }

    /// The number and wire type of a field.
    fn key(&mut self, end: usize) -> Result<(u32, u8), &'static str> {
        let key = u32::try_from(self.varint(end, 5)?).map_err(|_| "a field number that is too large")?;
        if key >> 3 == 0 { Err("a field with number 0") } else { Ok((key >> 3, (key & 7) as u8)) }
    }

    /// The length of a value, which is there.
    fn len(&mut self, end: usize) -> Result<usize, &'static str> {
        let len = self.varint(end, 10)?;
        usize::try_from(len).ok().filter(|&len| len <= end - self.at).ok_or(TRUNCATED)
    }

    /// A varint of at most `max_len` bytes.
    fn varint(&mut self, end: usize, max_len: usize) -> Result<u64, &'static str> {
        let rest = &self.bytes[self.at..end];
        if let Some(&byte) = rest.first().filter(|&&byte| byte < 0x80) {
            self.at += 1;
            return Ok(byte.into());
        }
        let mut value = 0_u64;
        for (index, &byte) in rest.iter().take(max_len).enumerate() {
            // The last of ten bytes has room for one bit.
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(if rest.len() < max_len { TRUNCATED } else { "a varint that is too long" })
    }

    /// The way to the message that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for (outer, inner) in self.levels.iter().zip(self.levels.iter().skip(1)) {
            let Some((field, index)) = self.find(outer, inner) else { continue };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(field.name);
            if field.repeated {
                path.push_str(&format!("[{index}]"));
            }
        }
        path
    }

    /// The field that a message is in, and which of its values it is: only an error needs to know, so it is counted
    /// again from the start of the message around it.
    fn find(&self, outer: &Level, inner: &Level) -> Option<(&'static Field, usize)> {
        let at = |at| Scan { bytes: self.bytes, at, levels: Vec::new(), unknown: None, memory: 0 };
        let (number, _) = at(inner.key).key(outer.end).ok()?;
        let (mut again, mut index) = (at(outer.start), 0);
        while again.at < inner.key {
            let (before, wire_type) = again.key(outer.end).ok()?;
            again.skip(before, wire_type, outer.end).ok()?;
            index += usize::from(before == number);
        }
        Some((outer.message.field(number)?, index))
    }
}

/// The ways in which a value lies in the file, the low three bits of its key.
mod wire_type {
    pub(super) const VARINT: u8 = 0;
    pub(super) const FIXED64: u8 = 1;
    pub(super) const LEN: u8 = 2;
    pub(super) const START_GROUP: u8 = 3;
    pub(super) const END_GROUP: u8 = 4;
    pub(super) const FIXED32: u8 = 5;
}

impl MessageType {
    fn field(&self, number: u32) -> Option<&'static Field> {
        let index = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(&self.fields[index])
    }
}

impl Kind {
    /// Whether a value may have a wire type. Another one makes the field unknown, as in protobuf's official parsers;
    /// repeated numbers may be packed or not.
    fn accepts(self, wire_type: u8, repeated: bool) -> bool {
        let single = match self {
            Self::Varint => wire_type::VARINT,
            Self::Fixed32 => wire_type::FIXED32,
            Self::Fixed64 => wire_type::FIXED64,
            Self::Bytes | Self::Message(_) => wire_type::LEN,
        };
        wire_type == single || (repeated && wire_type == wire_type::LEN)
    }
}

#[cfg(test)]
mod tests;
