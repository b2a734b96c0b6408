//! The node: one member's step machine. It enforces the order of calls.

use std::collections::VecDeque;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use raft::eraftpb::{self, EntryType, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

use crate::errors::{from_raft, EngineMisuse, FatalEngineError, InvalidConfig, InvalidMessage};
use crate::guard;
use crate::logging::Buffer;
use crate::mirror::Mirror;
use crate::types::{
    self, ConfState, Entry, HardState, Message, PeerProgress, Ready, SoftState, Status,
};

/// Ticks and limits of a member. Sizes are in bytes of encoded entries.
#[pyclass(frozen, get_all, module = "partition_raft")]
#[derive(Clone)]
pub struct Config {
    pub id: u64,
    pub election_tick: usize,
    pub heartbeat_tick: usize,
    pub min_election_tick: usize,
    pub max_election_tick: usize,
    pub max_size_per_msg: u64,
    pub max_inflight_msgs: usize,
    pub max_uncommitted_size: u64,
    pub max_committed_size_per_ready: u64,
    pub mirror_bytes_max: usize,
}

#[pymethods]
impl Config {
    #[new]
    #[pyo3(signature = (id, *, election_tick=10, heartbeat_tick=1, min_election_tick=0,
        max_election_tick=0, max_size_per_msg=1<<20, max_inflight_msgs=256,
        max_uncommitted_size=64<<20, max_committed_size_per_ready=16<<20,
        mirror_bytes_max=64<<20))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        id: u64,
        election_tick: usize,
        heartbeat_tick: usize,
        min_election_tick: usize,
        max_election_tick: usize,
        max_size_per_msg: u64,
        max_inflight_msgs: usize,
        max_uncommitted_size: u64,
        max_committed_size_per_ready: u64,
        mirror_bytes_max: usize,
    ) -> PyResult<Self> {
        let config = Config {
            id,
            election_tick,
            heartbeat_tick,
            min_election_tick,
            max_election_tick,
            max_size_per_msg,
            max_inflight_msgs,
            max_uncommitted_size,
            max_committed_size_per_ready,
            mirror_bytes_max,
        };
        config
            .to_raft(0)
            .validate()
            .map_err(|e| InvalidConfig::new_err(e.to_string()))?;
        Ok(config)
    }
}

impl Config {
    fn to_raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id,
            election_tick: self.election_tick,
            heartbeat_tick: self.heartbeat_tick,
            min_election_tick: self.min_election_tick,
            max_election_tick: self.max_election_tick,
            applied,
            max_size_per_msg: self.max_size_per_msg,
            max_inflight_msgs: self.max_inflight_msgs,
            max_uncommitted_size: self.max_uncommitted_size,
            max_committed_size_per_ready: self.max_committed_size_per_ready,
            pre_vote: true,
            check_quorum: true,
            // The next append carries the commit index, or `announce_commit` sends it.
            skip_bcast_commit: true,
            ..Default::default()
        }
    }
}

/// A member of a Raft group. Not thread-safe: one thread, or the event loop, owns it.
#[pyclass(unsendable, module = "partition_raft")]
pub struct Node {
    raw: RawNode<Mirror>,
    /// Between `ready` and `advance_append_async`.
    pending: Option<raft::Ready>,
    poison: Option<String>,
    log: Buffer,
    logger: Py<PyAny>,
}

impl Node {
    /// Runs one call of the engine. Refuses it if the node is poisoned. A panic or a failure of the
    /// cold storage is a fatal error, which poisons the node.
    fn call<T>(
        &mut self,
        py: Python<'_>,
        body: impl FnOnce(&mut Self) -> raft::Result<T>,
    ) -> PyResult<T> {
        if let Some(why) = &self.poison {
            return Err(FatalEngineError::new_err(format!(
                "the engine stopped before: {why}"
            )));
        }
        let outcome = guard::catch(|| body(self));
        for (level, text) in self.log.take() {
            self.logger.bind(py).call_method1("log", (level, text))?;
        }
        let failure = self.raw.store().failure.borrow_mut().take();
        if let Some(cause) = failure {
            let fatal =
                FatalEngineError::new_err(format!("storage failed under the engine: {cause}"));
            self.poison = Some(fatal.value(py).to_string());
            fatal.set_cause(py, Some(cause));
            return Err(fatal);
        }
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let error = from_raft(error);
                if error.is_instance_of::<FatalEngineError>(py) {
                    self.poison = Some(error.value(py).to_string());
                }
                Err(error)
            }
            Err(panic) => {
                self.poison = Some(panic.clone());
                Err(FatalEngineError::new_err(format!(
                    "the engine panicked: {panic}"
                )))
            }
        }
    }

    /// Checks a peer's message for values at which raft-rs would panic, or which it would accept
    /// although they are wrong.
    fn check_message(&self, m: &eraftpb::Message) -> Result<(), String> {
        let raft = &self.raw.raft;
        if m.to != raft.id {
            return Err(format!("it is meant for {:x}, this is {:x}", m.to, raft.id));
        }
        let asks = m.get_msg_type() == MessageType::MsgReadIndex;
        if asks != (m.term == 0) {
            return Err(format!(
                "its term is {}; it is 0 in a request for a read index, and in no other message",
                m.term
            ));
        }
        if asks || m.get_msg_type() == MessageType::MsgReadIndexResp {
            return check_read_index(m, raft.prs().get(m.from).is_some());
        }
        if m.get_msg_type() == MessageType::MsgHeartbeat && m.commit > raft.raft_log.last_index() {
            return Err(format!(
                "it claims commit {}, the log ends at {}",
                m.commit,
                raft.raft_log.last_index()
            ));
        }
        for (entry, expected) in m.get_entries().iter().zip(m.index.saturating_add(1)..) {
            if entry.index != expected || entry.term == 0 || entry.term > m.term {
                return Err(format!(
                    "entry ({}, term {}) stands where index {expected} of a term up to {} belongs",
                    entry.index, entry.term, m.term
                ));
            }
        }
        Ok(())
    }

    fn not_pending(&self, what: &str) -> PyResult<()> {
        if self.pending.is_some() {
            return Err(EngineMisuse::new_err(format!(
                "{what} between ready and advance_append_async is not allowed"
            )));
        }
        Ok(())
    }
}

/// The size of the context by which a request for a read index and its answer find each other.
const READ_CONTEXT_BYTES_MAX: usize = 64;

/// A request of a follower for a read index, or the leader's answer to it.
fn check_read_index(m: &eraftpb::Message, known: bool) -> Result<(), String> {
    match m.get_entries() {
        [one] if (1..=READ_CONTEXT_BYTES_MAX).contains(&one.data.len()) => {}
        _ => {
            return Err(format!(
                "it has no context of 1 to {READ_CONTEXT_BYTES_MAX} bytes for a read index"
            ))
        }
    }
    if !known {
        return Err("it asks for a read index and is no member".to_string());
    }
    Ok(())
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (config, *, hard_state, conf_state, boundary, last, applied, entries, storage, logger))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        config: &Config,
        hard_state: &HardState,
        conf_state: &ConfState,
        boundary: (u64, u64),
        last: (u64, u64),
        applied: u64,
        entries: Vec<Py<Entry>>,
        storage: Py<PyAny>,
        logger: Py<PyAny>,
    ) -> PyResult<Self> {
        let entries: VecDeque<eraftpb::Entry> =
            entries.iter().map(|e| e.get().inner.clone()).collect();
        check_start(hard_state, boundary, last, applied, &entries)?;
        let log = Buffer::default();
        let mut mirror = Mirror {
            hard_state: hard_state.to_raft(),
            conf_state: conf_state.to_raft(),
            boundary,
            last: boundary,
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max: config.mirror_bytes_max,
            cold: storage,
            failure: Default::default(),
            cold_reads: Default::default(),
        };
        if let Some(first) = entries.front() {
            mirror.last = (first.get_index() - 1, 0);
            mirror.append(&Vec::from(entries));
        } else {
            mirror.last = last;
        }
        let raft_config = config.to_raft(applied);
        let raw_logger = log.logger();
        let raw = match guard::catch(|| RawNode::new(&raft_config, mirror, &raw_logger)) {
            Ok(Ok(raw)) => raw,
            Ok(Err(error)) => return Err(from_raft(error)),
            Err(panic) => {
                return Err(FatalEngineError::new_err(format!(
                    "the engine panicked: {panic}"
                )))
            }
        };
        let mut node = Node {
            raw,
            pending: None,
            poison: None,
            log,
            logger,
        };
        node.call(py, |_| Ok(()))?;
        Ok(node)
    }

    fn tick(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.not_pending("tick")?;
        self.call(py, |n| Ok(n.raw.tick()))
    }

    fn campaign(&mut self, py: Python<'_>) -> PyResult<()> {
        self.not_pending("campaign")?;
        self.call(py, |n| n.raw.campaign())
    }

    fn step(&mut self, py: Python<'_>, message: &Message) -> PyResult<()> {
        self.not_pending("step")?;
        use MessageType::*;
        match message.inner.get_msg_type() {
            // A follower would forward a proposal, and no caller would get an answer.
            MsgPropose => {
                return Err(InvalidMessage::new_err(
                    "proposals are made at the leader, not sent",
                ))
            }
            MsgTransferLeader => {
                return Err(InvalidMessage::new_err(
                    "hand-over is asked of the leader by its API",
                ))
            }
            // A follower would forward it. The one that asks hears of another leader, and asks again.
            // So does a leader that was removed: with one voter left, raft-rs would let it confirm
            // reads alone.
            MsgReadIndex
                if self.raw.raft.state != StateRole::Leader || !self.raw.raft.promotable() =>
            {
                return Ok(())
            }
            // A late answer of a higher term to a member that follows a leader. raft-rs would forget
            // the leader, and grant a vote within the time in which the leader's lease relies on
            // this member. The leader learns of the term from its own heartbeats.
            MsgRequestVoteResponse
            | MsgRequestPreVoteResponse
            | MsgAppendResponse
            | MsgHeartbeatResponse
                if self.raw.raft.state == StateRole::Follower
                    && self.raw.raft.leader_id != 0
                    && message.inner.term > self.raw.raft.term =>
            {
                return Ok(())
            }
            _ => {}
        }
        self.check_message(&message.inner)
            .map_err(InvalidMessage::new_err)?;
        self.call(py, |n| n.raw.step(message.inner.clone()))
    }

    /// Proposes `data` as consecutive entries in one message; returns (index of the first, term).
    fn propose(&mut self, py: Python<'_>, data: Vec<PyBackedBytes>) -> PyResult<(u64, u64)> {
        self.not_pending("propose")?;
        let count = data.len() as u64;
        self.call(py, |n| {
            if n.raw.raft.state != StateRole::Leader || count == 0 {
                return Err(raft::Error::ProposalDropped);
            }
            let mut message = eraftpb::Message::default();
            message.set_msg_type(MessageType::MsgPropose);
            message.from = n.raw.raft.id;
            message.set_entries(
                data.into_iter()
                    .map(|bytes| eraftpb::Entry {
                        data: Bytes::from_owner(bytes),
                        ..Default::default()
                    })
                    .collect::<Vec<_>>()
                    .into(),
            );
            n.raw.raft.step(message)?;
            Ok((
                n.raw.raft.raft_log.last_index() + 1 - count,
                n.raw.raft.term,
            ))
        })
    }

    /// At the leader: sends its commit index to the others, with entries that they lack. At other
    /// members it does nothing.
    fn announce_commit(&mut self, py: Python<'_>) -> PyResult<()> {
        self.not_pending("announce_commit")?;
        self.call(py, |n| {
            if n.raw.raft.state == StateRole::Leader {
                n.raw.raft.bcast_append();
            }
            Ok(())
        })
    }

    /// Proposes a configuration change; returns (index, term) of its entry. If another change is
    /// not applied yet, raft-rs replaces it with an empty entry, and this call returns an error.
    #[pyo3(signature = (changes, joint=false, context=vec![]))]
    fn propose_conf_change(
        &mut self,
        py: Python<'_>,
        changes: Vec<(i32, u64)>,
        joint: bool,
        context: Vec<u8>,
    ) -> PyResult<(u64, u64)> {
        self.not_pending("propose_conf_change")?;
        let change = types::conf_change(&changes, joint)?;
        self.call(py, |n| {
            if n.raw.raft.state != StateRole::Leader {
                return Err(raft::Error::ProposalDropped);
            }
            if n.raw.raft.has_pending_conf() {
                return Err(raft::Error::ConfChangeError(
                    "a configuration change is still in progress; wait until it is applied".into(),
                ));
            }
            n.raw.propose_conf_change(context, change)?;
            let index = n.raw.raft.raft_log.last_index();
            let kept = n
                .raw
                .raft
                .raft_log
                .unstable_entries()
                .last()
                .is_some_and(|e| {
                    e.get_index() == index && e.get_entry_type() != EntryType::EntryNormal
                });
            if !kept {
                return Err(raft::Error::ConfChangeError(
                    "the engine refused the change".into(),
                ));
            }
            Ok((index, n.raw.raft.term))
        })
    }

    /// Applies a committed configuration change entry and returns the configuration after it.
    fn apply_conf_change(&mut self, py: Python<'_>, entry: &Entry) -> PyResult<ConfState> {
        self.not_pending("apply_conf_change")?;
        let change = types::parse_conf_change(&entry.inner)?;
        let conf = self.call(py, |n| n.raw.apply_conf_change(&change))?;
        Ok(ConfState::from_raft(&conf))
    }

    fn has_ready(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |n| Ok(n.pending.is_none() && n.raw.has_ready()))
    }

    fn ready(&mut self, py: Python<'_>) -> PyResult<Ready> {
        self.not_pending("ready")?;
        let previous = self.raw.raft.hard_state();
        let mut rd = self.call(py, |n| Ok(n.raw.ready()))?;
        debug_assert_eq!(previous.term, self.raw.raft.term);
        let to_entries = |entries: Vec<eraftpb::Entry>| -> PyResult<Vec<Py<Entry>>> {
            entries
                .into_iter()
                .map(|inner| Py::new(py, Entry { inner }))
                .collect()
        };
        let to_messages = |messages: Vec<eraftpb::Message>| -> PyResult<Vec<Py<Message>>> {
            messages
                .into_iter()
                .map(|inner| Py::new(py, Message { inner }))
                .collect()
        };
        let snapshot = rd.snapshot();
        let ready = Ready {
            number: rd.number(),
            soft_state: rd.ss().map(|ss| SoftState {
                leader_id: ss.leader_id,
                role: types::role_name(ss.raft_state),
            }),
            hard_state: rd.hs().map(HardState::from_raft),
            snapshot: (!snapshot.is_empty()).then(|| types::Snapshot::from_raft(snapshot)),
            // Clones: the mirror takes the originals in `advance_append_async`.
            entries: to_entries(rd.entries().clone())?,
            // With entries or a snapshot must_sync is set too; raft-rs sets it alone for these two.
            must_sync: rd.must_sync(),
            term_or_vote_changed: rd.must_sync() && rd.hs().is_some() && {
                let hs = rd.hs().expect("checked");
                let saved = &self.raw.store().hard_state;
                hs.term != saved.term || hs.vote != saved.vote
            },
            read_states: rd
                .take_read_states()
                .into_iter()
                .map(|state| (state.index, PyBytes::new(py, &state.request_ctx).unbind()))
                .collect(),
            messages: to_messages(rd.take_messages())?,
            persisted_messages: to_messages(rd.take_persisted_messages())?,
            committed_entries: to_entries(rd.take_committed_entries())?,
        };
        self.pending = Some(rd);
        Ok(ready)
    }

    /// Puts the Ready's entries into the mirror. The engine continues while they are persisted.
    fn advance_append_async(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(rd) = self.pending.take() else {
            return Err(EngineMisuse::new_err(
                "advance_append_async without a ready",
            ));
        };
        self.call(py, |n| {
            let store = n.raw.mut_store();
            if !rd.snapshot().is_empty() {
                let metadata = rd.snapshot().get_metadata();
                store.restore(metadata.index, metadata.term);
            }
            store.append(rd.entries());
            if let Some(hs) = rd.hs() {
                store.hard_state = hs.clone();
            }
            n.raw.advance_append_async(rd);
            Ok(())
        })
    }

    fn on_persist_ready(&mut self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.not_pending("on_persist_ready")?;
        self.call(py, |n| {
            n.raw.on_persist_ready(number);
            Ok(())
        })
    }

    fn advance_apply_to(&mut self, py: Python<'_>, index: u64) -> PyResult<()> {
        self.not_pending("advance_apply_to")?;
        self.call(py, |n| {
            n.raw.advance_apply_to(index);
            n.raw.mut_store().trim(index);
            Ok(())
        })
    }

    /// Moves the boundary up to (index, term). The store has compacted the entries at and below it.
    fn compact(&mut self, py: Python<'_>, index: u64, term: u64) -> PyResult<()> {
        self.not_pending("compact")?;
        let applied = self.raw.raft.raft_log.applied;
        if index > applied {
            return Err(EngineMisuse::new_err(format!(
                "compaction to {index} above applied {applied}"
            )));
        }
        if term == 0 {
            return Err(EngineMisuse::new_err("a boundary's term is 1 or above"));
        }
        self.call(py, |n| {
            if index > n.raw.store().boundary.0 {
                n.raw.mut_store().compact(index, term);
            }
            Ok(())
        })
    }

    fn read_index(&mut self, py: Python<'_>, context: Vec<u8>) -> PyResult<()> {
        self.not_pending("read_index")?;
        self.call(py, |n| {
            let raft = &n.raw.raft;
            // As in `step`: a leader that was removed confirms nothing.
            if raft.state != StateRole::Leader || raft.promotable() {
                n.raw.read_index(context);
            }
            Ok(())
        })
    }

    fn transfer_leader(&mut self, py: Python<'_>, member: u64) -> PyResult<()> {
        self.not_pending("transfer_leader")?;
        self.call(py, |n| {
            n.raw.transfer_leader(member);
            Ok(())
        })
    }

    fn report_unreachable(&mut self, py: Python<'_>, member: u64) -> PyResult<()> {
        self.not_pending("report_unreachable")?;
        self.call(py, |n| {
            n.raw.report_unreachable(member);
            Ok(())
        })
    }

    fn report_snapshot(&mut self, py: Python<'_>, member: u64, succeeded: bool) -> PyResult<()> {
        self.not_pending("report_snapshot")?;
        self.call(py, |n| {
            let status = if succeeded {
                SnapshotStatus::Finish
            } else {
                SnapshotStatus::Failure
            };
            n.raw.report_snapshot(member, status);
            Ok(())
        })
    }

    /// The number of ticks until the engine acts by itself, at least 1. All ticks before that one
    /// only count. Any other call may change it.
    fn ticks_to_act(&self) -> usize {
        let raft = &self.raw.raft;
        let timeout = if raft.state == StateRole::Leader {
            let heartbeat = raft
                .heartbeat_timeout()
                .saturating_sub(raft.heartbeat_elapsed());
            // A check of the quorum.
            let check = raft
                .election_timeout()
                .saturating_sub(raft.election_elapsed);
            heartbeat.min(check)
        } else if raft.promotable() {
            raft.randomized_election_timeout()
                .saturating_sub(raft.election_elapsed)
        } else {
            raft.election_timeout()
        };
        timeout.max(1)
    }

    /// Whether the leader would only note that a member lives if it stepped this message now: it is
    /// an answer to a heartbeat, the member has all entries, and no read waits for it.
    fn only_a_sign_of_life(&self, message: &Message) -> bool {
        let (raft, m) = (&self.raw.raft, &message.inner);
        m.get_msg_type() == MessageType::MsgHeartbeatResponse
            && raft.state == StateRole::Leader
            && m.term == raft.term
            && m.context.is_empty()
            && raft.prs().get(m.from).is_some_and(|pr| {
                pr.matched == raft.raft_log.last_index() && pr.pending_request_snapshot == 0
            })
    }

    /// Whether the leader has committed an entry of its own term: reads need it.
    fn committed_to_current_term(&self) -> bool {
        self.raw.raft.commit_to_current_term()
    }

    fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let mut progress: Vec<PeerProgress> = if raft.state == StateRole::Leader {
            raft.prs()
                .iter()
                .map(|(&id, pr)| PeerProgress {
                    id,
                    matched: pr.matched,
                    next_index: pr.next_idx,
                    state: match pr.state {
                        raft::ProgressState::Probe => "probe",
                        raft::ProgressState::Replicate => "replicate",
                        raft::ProgressState::Snapshot => "snapshot",
                    },
                    recent_active: pr.recent_active,
                })
                .collect()
        } else {
            Vec::new()
        };
        progress.sort_unstable_by_key(|p| p.id);
        let store = self.raw.store();
        Status {
            id: raft.id,
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            leader_id: raft.leader_id,
            role: types::role_name(raft.state),
            first_index: store.boundary.0 + 1,
            last_index: raft.raft_log.last_index(),
            lead_transferee: raft.lead_transferee,
            progress,
            mirror_first: store.mirror_first(),
            mirror_bytes: store.bytes,
            cold_reads: *store.cold_reads.borrow(),
        }
    }

    fn conf_state(&self) -> ConfState {
        ConfState::from_raft(&self.raw.raft.prs().conf().to_conf_state())
    }

    /// For tests: the mirrored (index, term) pairs, to compare with the store's.
    fn mirrored(&self) -> Vec<(u64, u64)> {
        self.raw
            .store()
            .entries
            .iter()
            .map(|e| (e.get_index(), e.get_term()))
            .collect()
    }
}

/// Checks for problems that raft-rs would report only by a panic, or not at all.
fn check_start(
    hard_state: &HardState,
    boundary: (u64, u64),
    last: (u64, u64),
    applied: u64,
    entries: &VecDeque<eraftpb::Entry>,
) -> PyResult<()> {
    let refuse = |why: String| Err(InvalidConfig::new_err(why));
    if boundary.0 > 0 && boundary.1 == 0 {
        return refuse(format!(
            "boundary {} has term 0: terms start at 1",
            boundary.0
        ));
    }
    if last.0 < boundary.0 {
        return refuse(format!(
            "last index {} lies below the boundary {}",
            last.0, boundary.0
        ));
    }
    if hard_state.commit > last.0 || hard_state.commit < boundary.0 {
        return refuse(format!(
            "commit index {} lies outside of [{}, {}]",
            hard_state.commit, boundary.0, last.0
        ));
    }
    if applied > hard_state.commit || applied < boundary.0 {
        return refuse(format!(
            "applied index {applied} lies outside of [{}, {}]",
            boundary.0, hard_state.commit
        ));
    }
    for (entry, expected) in entries.iter().rev().zip((boundary.0 + 1..=last.0).rev()) {
        if entry.get_index() != expected || entry.get_term() == 0 {
            return refuse(format!(
                "entry ({}, term {}) stands where index {expected} with a term of 1 or above belongs",
                entry.get_index(),
                entry.get_term()
            ));
        }
    }
    if let Some(entry) = entries.back() {
        if (entry.get_index(), entry.get_term()) != last {
            return refuse("the tail does not end at the last index and term".to_string());
        }
    }
    if entries.len() as u64 > last.0 - boundary.0 {
        return refuse("the tail reaches below the boundary".to_string());
    }
    Ok(())
}
