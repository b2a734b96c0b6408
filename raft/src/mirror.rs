//! The storage that raft-rs reads: the entry cache, a copy of the log's tail. With it, a proposal
//! needs no call into Python (74 calls without it).
//!
//! It mirrors Python's store, including entries that are not durable yet: these enter at `advance`,
//! as raft-rs's asynchronous append requires. Entries at or below `applied` may be trimmed to stay
//! within the byte limit. Reads of trimmed entries are cold: they call Python.

use std::cell::RefCell;
use std::collections::VecDeque;

use pyo3::prelude::*;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::errors::Compacted;
use crate::types;

pub struct Mirror {
    /// The initial state only; later raft-rs keeps its own.
    pub hard_state: HardState,
    pub conf_state: ConfState,
    /// (index, term) below and at which the log is compacted.
    pub boundary: (u64, u64),
    /// (index, term) of the last entry, or the boundary where the log is empty.
    pub last: (u64, u64),
    /// A contiguous tail ending at `last`; may be shorter than the log, or empty.
    pub entries: VecDeque<Entry>,
    pub bytes: usize,
    pub bytes_max: usize,
    /// Python: `entries(lo, hi, max_bytes)`, `term(index)`, `snapshot(request_index, to)`.
    pub cold: Py<PyAny>,
    /// The exception of a cold call. The node turns it into a fatal error after the engine returns.
    pub failure: RefCell<Option<PyErr>>,
    pub cold_reads: RefCell<u64>,
}

impl Mirror {
    pub fn mirror_first(&self) -> u64 {
        self.last.0 + 1 - self.entries.len() as u64
    }

    /// Puts `entries`; drops existing entries from the first one's index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let first_index = first.get_index();
        assert!(
            first_index > self.boundary.0,
            "append at or below the boundary"
        );
        assert!(first_index <= self.last.0 + 1, "append leaves a hole");
        while self.last.0 >= first_index {
            match self.entries.pop_back() {
                Some(dropped) => {
                    self.bytes -= cost(&dropped);
                    self.last.0 -= 1;
                }
                // The overwritten entries are already trimmed, so there are none to drop.
                None => self.last.0 = first_index - 1,
            }
        }
        for entry in entries {
            self.bytes += cost(entry);
            self.last = (entry.get_index(), entry.get_term());
            self.entries.push_back(entry.clone());
        }
    }

    /// Replaces the whole log by a snapshot's boundary.
    pub fn restore(&mut self, index: u64, term: u64) {
        self.boundary = (index, term);
        self.last = (index, term);
        self.entries.clear();
        self.bytes = 0;
    }

    /// Moves the boundary up; the caller has checked that `index` is applied.
    pub fn compact(&mut self, index: u64, term: u64) {
        self.boundary = (index, term);
        while self.entries.front().is_some_and(|e| e.get_index() <= index) {
            self.pop_front();
        }
    }

    /// Trims the first entries, never above `applied`, until the rest is within the byte limit.
    pub fn trim(&mut self, applied: u64) {
        while self.bytes > self.bytes_max
            && self
                .entries
                .front()
                .is_some_and(|e| e.get_index() <= applied)
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= cost(&entry);
        }
    }

    fn fail(&self, error: PyErr, asked: &str) -> raft::Error {
        let text = format!("{asked}: {error}");
        self.failure.borrow_mut().get_or_insert(error);
        StorageError::Other(text.into()).into()
    }

    fn cold_entries(&self, lo: u64, hi: u64, max_bytes: u64) -> raft::Result<Vec<Entry>> {
        *self.cold_reads.borrow_mut() += 1;
        Python::attach(|py| {
            let answer: PyResult<Vec<Entry>> = (|| {
                let list = self
                    .cold
                    .bind(py)
                    .call_method1("entries", (lo, hi, max_bytes))?;
                let mut entries = Vec::new();
                for item in list.try_iter()? {
                    entries.push(item?.cast::<types::Entry>()?.borrow().inner.clone());
                }
                Ok(entries)
            })();
            match answer {
                Ok(entries) if entries.first().is_some_and(|e| e.get_index() == lo) => Ok(entries),
                Ok(_) => Err(StorageError::Unavailable.into()),
                Err(error) if error.is_instance_of::<Compacted>(py) => {
                    Err(StorageError::Compacted.into())
                }
                Err(error) => Err(self.fail(error, "entries")),
            }
        })
    }
}

fn cost(entry: &Entry) -> usize {
    entry.get_data().len() + entry.get_context().len() + std::mem::size_of::<Entry>()
}

impl Storage for Mirror {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            high <= self.last.0 + 1,
            "entries asked for behind the last index"
        );
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let hot_first = self.mirror_first();
        if low < hot_first {
            let cold_end = high.min(hot_first);
            let mut entries = self.cold_entries(low, cold_end, max_bytes)?;
            // With a limit, a partial answer is allowed: raft-rs reads the rest later. Without one,
            // raft-rs takes the answer as complete. For example, a campaign searches it for
            // configuration changes that are not applied.
            if max_bytes == u64::MAX {
                while low + (entries.len() as u64) < cold_end {
                    let next = low + entries.len() as u64;
                    entries.extend(self.cold_entries(next, cold_end, max_bytes)?);
                }
                let count = high.saturating_sub(cold_end) as usize;
                entries.extend(self.entries.iter().take(count).cloned());
            }
            return Ok(entries);
        }
        let skip = (low - hot_first) as usize;
        let count = high.saturating_sub(low) as usize;
        let mut size = 0u64;
        let mut entries = Vec::new();
        for entry in self.entries.iter().skip(skip).take(count) {
            size += u64::from(protobuf::Message::compute_size(entry));
            if !entries.is_empty() && size > max_bytes {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.boundary.0 {
            return Ok(self.boundary.1);
        }
        if index < self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last.0 {
            return Err(StorageError::Unavailable.into());
        }
        if index == self.last.0 {
            return Ok(self.last.1);
        }
        let hot_first = self.mirror_first();
        if index >= hot_first {
            return Ok(self.entries[(index - hot_first) as usize].get_term());
        }
        *self.cold_reads.borrow_mut() += 1;
        Python::attach(|py| {
            self.cold
                .bind(py)
                .call_method1("term", (index,))
                .and_then(|term| term.extract::<u64>())
                .map_err(|error| {
                    if error.is_instance_of::<Compacted>(py) {
                        StorageError::Compacted.into()
                    } else {
                        self.fail(error, "term")
                    }
                })
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.boundary.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        Python::attach(|py| {
            let answer = self
                .cold
                .bind(py)
                .call_method1("snapshot", (request_index, to));
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Err(self.fail(error, "snapshot")),
            };
            if answer.is_none() {
                return Err(StorageError::SnapshotTemporarilyUnavailable.into());
            }
            match answer.cast::<types::Snapshot>() {
                Ok(snapshot) => Ok(snapshot.borrow().to_raft()),
                Err(error) => Err(self.fail(error.into(), "snapshot")),
            }
        })
    }
}
