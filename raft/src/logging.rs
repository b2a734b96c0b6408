//! Collects raft-rs's log records during a call. The node passes them to Python's `logging` after
//! the call, because Python code that runs inside the engine could call it again.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use slog::{Drain, Key, OwnedKVList, Record, Serializer, KV};

/// The maximum number of records per call. More are counted and dropped.
const RECORDS_MAX: usize = 256;

#[derive(Clone, Default)]
pub struct Buffer(Arc<Mutex<Vec<(u8, String)>>>);

struct KeyValues(String);

impl Serializer for KeyValues {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(|_| slog::Error::Other)
    }
}

impl Drain for Buffer {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            slog::Level::Critical => 50,
            slog::Level::Error => 40,
            slog::Level::Warning => 30,
            slog::Level::Info => 20,
            slog::Level::Debug | slog::Level::Trace => return Ok(()),
        };
        let mut text = KeyValues(record.msg().to_string());
        // If a value does not serialize, only its text is lost.
        let _ = record.kv().serialize(record, &mut text);
        if let Ok(mut records) = self.0.lock() {
            if records.len() < RECORDS_MAX {
                records.push((level, text.0));
            }
        }
        Ok(())
    }
}

impl Buffer {
    pub fn logger(&self) -> slog::Logger {
        slog::Logger::root(self.clone(), slog::o!())
    }

    pub fn take(&self) -> Vec<(u8, String)> {
        self.0
            .lock()
            .map(|mut records| std::mem::take(&mut *records))
            .unwrap_or_default()
    }
}
