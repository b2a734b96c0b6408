//! The values that Python and Rust exchange: plain frozen objects. Bytes stay as encoded.

use bytes::Bytes;
use protobuf::{CodedOutputStream, Message as _};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};
use raft::eraftpb;

use crate::errors::InvalidMessage;
use crate::{rows, wire};

fn invalid(why: impl std::fmt::Debug) -> PyErr {
    InvalidMessage::new_err(format!("not a raft message: {why:?}"))
}

#[pyclass(frozen, get_all, eq, module = "partition_raft")]
#[derive(Clone, PartialEq)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

#[pymethods]
impl HardState {
    #[new]
    fn new(term: u64, vote: u64, commit: u64) -> Self {
        HardState { term, vote, commit }
    }

    fn __repr__(&self) -> String {
        format!(
            "HardState(term={}, vote={}, commit={})",
            self.term, self.vote, self.commit
        )
    }
}

impl HardState {
    pub fn from_raft(hs: &eraftpb::HardState) -> Self {
        HardState {
            term: hs.term,
            vote: hs.vote,
            commit: hs.commit,
        }
    }

    pub fn to_raft(&self) -> eraftpb::HardState {
        eraftpb::HardState {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            ..Default::default()
        }
    }
}

#[pyclass(frozen, get_all, eq, module = "partition_raft")]
#[derive(Clone, Default, PartialEq)]
pub struct ConfState {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub voters_outgoing: Vec<u64>,
    pub learners_next: Vec<u64>,
    pub auto_leave: bool,
}

#[pymethods]
impl ConfState {
    #[new]
    #[pyo3(signature = (voters=vec![], learners=vec![], voters_outgoing=vec![], learners_next=vec![], auto_leave=false))]
    fn new(
        voters: Vec<u64>,
        learners: Vec<u64>,
        voters_outgoing: Vec<u64>,
        learners_next: Vec<u64>,
        auto_leave: bool,
    ) -> Self {
        let mut conf = ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        };
        conf.sort();
        conf
    }

    fn __repr__(&self) -> String {
        format!(
            "ConfState(voters={:?}, learners={:?}, voters_outgoing={:?}, learners_next={:?}, auto_leave={})",
            self.voters, self.learners, self.voters_outgoing, self.learners_next, self.auto_leave
        )
    }
}

impl ConfState {
    /// raft-rs returns members in no particular order; ours is ascending.
    fn sort(&mut self) {
        for ids in [
            &mut self.voters,
            &mut self.learners,
            &mut self.voters_outgoing,
            &mut self.learners_next,
        ] {
            ids.sort_unstable();
        }
    }

    pub fn from_raft(cs: &eraftpb::ConfState) -> Self {
        let mut conf = ConfState {
            voters: cs.get_voters().to_vec(),
            learners: cs.get_learners().to_vec(),
            voters_outgoing: cs.get_voters_outgoing().to_vec(),
            learners_next: cs.get_learners_next().to_vec(),
            auto_leave: cs.auto_leave,
        };
        conf.sort();
        conf
    }

    pub fn to_raft(&self) -> eraftpb::ConfState {
        let mut cs = eraftpb::ConfState::default();
        cs.set_voters(self.voters.clone());
        cs.set_learners(self.learners.clone());
        cs.set_voters_outgoing(self.voters_outgoing.clone());
        cs.set_learners_next(self.learners_next.clone());
        cs.auto_leave = self.auto_leave;
        cs
    }
}

/// A log entry. `kind`: 0 normal, 1 configuration change, 2 configuration change v2.
#[pyclass(frozen, eq, module = "partition_raft")]
#[derive(Clone, PartialEq)]
pub struct Entry {
    pub inner: eraftpb::Entry,
}

type EntryRow<'py> = (u64, u64, i32, Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pymethods]
impl Entry {
    #[new]
    #[pyo3(signature = (index, term, data=vec![], kind=0, context=vec![]))]
    fn new(index: u64, term: u64, data: Vec<u8>, kind: i32, context: Vec<u8>) -> PyResult<Self> {
        let mut inner = eraftpb::Entry {
            index,
            term,
            data: data.into(),
            context: context.into(),
            ..Default::default()
        };
        inner.set_entry_type(entry_type(kind)?);
        Ok(Entry { inner })
    }

    /// (index, term, kind, data, context): all fields in one crossing of the boundary.
    fn row<'py>(&self, py: Python<'py>) -> EntryRow<'py> {
        (
            self.inner.index,
            self.inner.term,
            self.kind(),
            self.data(py),
            self.context(py),
        )
    }

    #[getter]
    fn index(&self) -> u64 {
        self.inner.index
    }

    #[getter]
    fn term(&self) -> u64 {
        self.inner.term
    }

    #[getter]
    fn kind(&self) -> i32 {
        self.inner.get_entry_type() as i32
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.data)
    }

    #[getter]
    fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.context)
    }

    fn __repr__(&self) -> String {
        format!(
            "Entry(index={}, term={}, kind={}, {} bytes)",
            self.inner.index,
            self.inner.term,
            self.inner.get_entry_type() as i32,
            self.inner.data.len()
        )
    }
}

fn entry_type(kind: i32) -> PyResult<eraftpb::EntryType> {
    match kind {
        0 => Ok(eraftpb::EntryType::EntryNormal),
        1 => Ok(eraftpb::EntryType::EntryConfChange),
        2 => Ok(eraftpb::EntryType::EntryConfChangeV2),
        _ => Err(PyValueError::new_err(format!(
            "entry kind {kind}: allowed are 0, 1 and 2"
        ))),
    }
}

/// A snapshot's header; `data` is the store's own description of the place of the bytes.
#[pyclass(frozen, get_all, eq, module = "partition_raft")]
#[derive(Clone, PartialEq)]
pub struct Snapshot {
    pub index: u64,
    pub term: u64,
    pub conf_state: ConfState,
    pub data: Vec<u8>,
}

#[pymethods]
impl Snapshot {
    #[new]
    fn new(index: u64, term: u64, conf_state: &ConfState, data: Vec<u8>) -> Self {
        Snapshot {
            index,
            term,
            conf_state: conf_state.clone(),
            data,
        }
    }

    fn __repr__(&self) -> String {
        format!("Snapshot(index={}, term={})", self.index, self.term)
    }
}

impl Snapshot {
    pub fn from_raft(snapshot: &eraftpb::Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Snapshot {
            index: metadata.index,
            term: metadata.term,
            conf_state: ConfState::from_raft(metadata.get_conf_state()),
            data: snapshot.data.to_vec(),
        }
    }

    pub fn to_raft(&self) -> eraftpb::Snapshot {
        let mut snapshot = eraftpb::Snapshot {
            data: self.data.clone().into(),
            ..Default::default()
        };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.index;
        metadata.term = self.term;
        metadata.set_conf_state(self.conf_state.to_raft());
        snapshot
    }
}

/// A message between members. `kind` is eraftpb's MessageType.
#[pyclass(frozen, module = "partition_raft")]
pub struct Message {
    pub inner: eraftpb::Message,
}

#[pymethods]
impl Message {
    /// Decodes a peer's bytes. Refuses bytes that the codec cannot decode in bounded stack.
    #[staticmethod]
    fn decode(data: PyBackedBytes) -> PyResult<Self> {
        wire::check_message(&data).map_err(invalid)?;
        // The entries share the caller's bytes.
        let data = Bytes::from_owner(data);
        let inner = eraftpb::Message::parse_from_carllerche_bytes(&data).map_err(invalid)?;
        Ok(Message { inner })
    }

    fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        // Into the object itself: a message may have megabytes of entries.
        let size = self.inner.compute_size() as usize;
        PyBytes::new_with(py, size, |place| {
            self.inner
                .write_to_with_cached_sizes(&mut CodedOutputStream::bytes(place))
                .map_err(invalid)
        })
    }

    #[getter]
    fn kind(&self) -> i32 {
        self.inner.get_msg_type() as i32
    }

    #[getter]
    fn to(&self) -> u64 {
        self.inner.to
    }

    #[getter]
    fn sender(&self) -> u64 {
        self.inner.from
    }

    #[getter]
    fn term(&self) -> u64 {
        self.inner.term
    }

    #[getter]
    fn index(&self) -> u64 {
        self.inner.index
    }

    #[getter]
    fn commit(&self) -> u64 {
        self.inner.commit
    }

    #[getter]
    fn reject(&self) -> bool {
        self.inner.reject
    }

    /// Whether it carries the context of a read index.
    #[getter]
    fn has_context(&self) -> bool {
        !self.inner.context.is_empty()
    }

    #[getter]
    fn entry_count(&self) -> usize {
        self.inner.get_entries().len()
    }

    #[getter]
    fn entries(&self) -> Vec<Entry> {
        self.inner
            .get_entries()
            .iter()
            .map(|e| Entry { inner: e.clone() })
            .collect()
    }

    /// The digests of the blobs that the entries name. None if a search can't know for certain.
    fn blob_digests<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        rows::blobs_of_entries(self.inner.get_entries())
            .map(|found| rows::digests(py, found))
            .transpose()
    }

    #[getter]
    fn snapshot(&self) -> Option<Snapshot> {
        let snapshot = self.inner.get_snapshot();
        (!snapshot.is_empty()).then(|| Snapshot::from_raft(snapshot))
    }

    fn __repr__(&self) -> String {
        format!(
            "Message({:?}, {} -> {}, term={}, index={}, {} entries)",
            self.inner.get_msg_type(),
            self.inner.from,
            self.inner.to,
            self.inner.term,
            self.inner.index,
            self.inner.get_entries().len()
        )
    }
}

/// The leader, and this member's role: "follower", "candidate", "leader" or "precandidate".
#[pyclass(frozen, get_all, eq, module = "partition_raft")]
#[derive(Clone, PartialEq)]
pub struct SoftState {
    pub leader_id: u64,
    pub role: &'static str,
}

pub fn role_name(role: raft::StateRole) -> &'static str {
    match role {
        raft::StateRole::Follower => "follower",
        raft::StateRole::Candidate => "candidate",
        raft::StateRole::Leader => "leader",
        raft::StateRole::PreCandidate => "precandidate",
    }
}

/// One batch of work from the engine; `partition_raft/__init__.py` has the order of its steps.
#[pyclass(frozen, get_all, module = "partition_raft")]
pub struct Ready {
    pub number: u64,
    pub soft_state: Option<SoftState>,
    pub hard_state: Option<HardState>,
    pub entries: Vec<Py<Entry>>,
    pub snapshot: Option<Snapshot>,
    pub messages: Vec<Py<Message>>,
    pub persisted_messages: Vec<Py<Message>>,
    pub committed_entries: Vec<Py<Entry>>,
    pub read_states: Vec<(u64, Py<PyBytes>)>,
    pub must_sync: bool,
    pub term_or_vote_changed: bool,
}

/// A leader's progress of a member.
#[pyclass(frozen, get_all, module = "partition_raft")]
#[derive(Clone)]
pub struct PeerProgress {
    pub id: u64,
    pub matched: u64,
    pub next_index: u64,
    pub state: &'static str,
    pub recent_active: bool,
}

#[pyclass(frozen, get_all, module = "partition_raft")]
pub struct Status {
    pub id: u64,
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    pub applied: u64,
    pub leader_id: u64,
    pub role: &'static str,
    pub first_index: u64,
    pub last_index: u64,
    pub lead_transferee: Option<u64>,
    pub progress: Vec<PeerProgress>,
    pub mirror_first: u64,
    pub mirror_bytes: usize,
    pub cold_reads: u64,
}

/// Encodes a configuration change. `changes`: (kind, member), kind 0 voter, 1 remove, 2 learner.
#[pyfunction]
#[pyo3(signature = (changes, joint=false))]
pub fn encode_conf_change<'py>(
    py: Python<'py>,
    changes: Vec<(i32, u64)>,
    joint: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = conf_change(&changes, joint)?
        .write_to_bytes()
        .map_err(invalid)?;
    Ok(PyBytes::new(py, &bytes))
}

/// The (kind, member) pairs of a configuration change entry; empty if it leaves a joint
/// configuration.
#[pyfunction]
pub fn decode_conf_change(entry: &Entry) -> PyResult<Vec<(i32, u64)>> {
    let change = parse_conf_change(&entry.inner)?;
    Ok(change
        .get_changes()
        .iter()
        .map(|c| (c.get_change_type() as i32, c.node_id))
        .collect())
}

pub fn conf_change(changes: &[(i32, u64)], joint: bool) -> PyResult<eraftpb::ConfChangeV2> {
    let mut change = eraftpb::ConfChangeV2::default();
    change.set_transition(if joint {
        eraftpb::ConfChangeTransition::Implicit
    } else {
        eraftpb::ConfChangeTransition::Auto
    });
    for &(kind, node_id) in changes {
        if node_id == 0 {
            return Err(PyValueError::new_err(
                "member 0 does not exist: IDs are 1 and above",
            ));
        }
        let mut single = eraftpb::ConfChangeSingle {
            node_id,
            ..Default::default()
        };
        single.set_change_type(match kind {
            0 => eraftpb::ConfChangeType::AddNode,
            1 => eraftpb::ConfChangeType::RemoveNode,
            2 => eraftpb::ConfChangeType::AddLearnerNode,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "change kind {kind}: allowed are 0 voter, 1 remove, 2 learner"
                )))
            }
        });
        change.mut_changes().push(single);
    }
    Ok(change)
}

pub fn parse_conf_change(entry: &eraftpb::Entry) -> PyResult<eraftpb::ConfChangeV2> {
    use raft::eraftpb::EntryType::*;
    match entry.get_entry_type() {
        EntryConfChange => {
            let mut v1 = eraftpb::ConfChange::default();
            v1.merge_from_bytes(&entry.data).map_err(invalid)?;
            Ok(raft_proto::ConfChangeI::into_v2(v1))
        }
        EntryConfChangeV2 => {
            let mut v2 = eraftpb::ConfChangeV2::default();
            v2.merge_from_bytes(&entry.data).map_err(invalid)?;
            Ok(v2)
        }
        EntryNormal => Err(PyValueError::new_err(
            "a normal entry changes no configuration",
        )),
    }
}
