//! Checks a peer's bytes before the codec decodes them. protobuf 2.28 recurses into unknown groups
//! without a bound (RUSTSEC-2024-0437). So groups, which no message of raft has, are refused here.
//! All other fields nest only as deep as the schema, four levels. The entries are counted, because
//! their memory depends on their number, not on their bytes.

/// The fields of each message that contain messages.
#[derive(Clone, Copy)]
enum Schema {
    Message,
    Snapshot,
    SnapshotMetadata,
    Entry,
    Leaf,
}

/// The maximum number of entries per message. An empty entry takes two bytes on the wire and a
/// hundred in memory.
const ENTRIES_MAX: u32 = 1 << 17;

/// eraftpb's numbers of MsgReadIndex and MsgReadIndexResp.
const READ_INDEX_KINDS: [u64; 2] = [15, 16];

impl Schema {
    fn child(self, field: u64) -> Option<Schema> {
        match (self, field) {
            (Schema::Message, 7) => Some(Schema::Entry),
            (Schema::Message, 9) => Some(Schema::Snapshot),
            (Schema::Snapshot, 2) => Some(Schema::SnapshotMetadata),
            (Schema::SnapshotMetadata, 1) => Some(Schema::Leaf),
            _ => None,
        }
    }
}

/// Refuses bytes that the codec cannot decode in bounded stack.
pub fn check_message(bytes: &[u8]) -> Result<(), String> {
    check(bytes, Schema::Message)
}

fn check(mut rest: &[u8], schema: Schema) -> Result<(), String> {
    let mut entries = 0u32;
    // The entry of a message that asks for a read index has only data.
    let mut asks_for_index = false;
    let (mut term, mut index) = (0, 0);
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let field = tag >> 3;
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if matches!(schema, Schema::Message) && field == 1 {
                    let asks = READ_INDEX_KINDS.contains(&value);
                    if entries > 0 && asks != asks_for_index {
                        return Err("its kind stands behind its entries".to_string());
                    }
                    asks_for_index = asks;
                }
                match field {
                    2 => term = value,
                    3 => index = value,
                    _ => {}
                }
            }
            1 => skip(&mut rest, 8)?,
            2 => {
                let length = varint(&mut rest)?;
                let length = usize::try_from(length).map_err(|_| "length overflows".to_string())?;
                if length > rest.len() {
                    return Err(format!("field {field} ends behind the message"));
                }
                let (inner, tail) = rest.split_at(length);
                if let Some(child) = schema.child(field) {
                    if matches!(child, Schema::Entry) {
                        entries += 1;
                        if entries > ENTRIES_MAX {
                            return Err(format!("more than {ENTRIES_MAX} entries"));
                        }
                    }
                    let child = match child {
                        Schema::Entry if asks_for_index => Schema::Leaf,
                        other => other,
                    };
                    check(inner, child)?;
                }
                rest = tail;
            }
            5 => skip(&mut rest, 4)?,
            other => {
                return Err(format!(
                    "field {field} has wire type {other}, which raft never uses"
                ))
            }
        }
    }
    if matches!(schema, Schema::Entry) && (term == 0 || index == 0) {
        return Err("an entry has no term or no index".to_string());
    }
    Ok(())
}

fn skip(rest: &mut &[u8], count: usize) -> Result<(), String> {
    if rest.len() < count {
        return Err("the message is cut short".to_string());
    }
    *rest = &rest[count..];
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or("the message is cut short")?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number has more than ten bytes".to_string())
}
