//! The exceptions of the binding. `partition_raft/__init__.py` shows their tree, and what a caller
//! does about each.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(partition_raft, EngineError, PyException);
create_exception!(partition_raft, ProposalDropped, EngineError);
create_exception!(partition_raft, PeerNotFound, EngineError);
create_exception!(partition_raft, InvalidMessage, EngineError);
create_exception!(partition_raft, InvalidConfig, EngineError);
create_exception!(partition_raft, ConfChangeRefused, EngineError);
create_exception!(partition_raft, FatalEngineError, EngineError);
create_exception!(partition_raft, EngineMisuse, FatalEngineError);
create_exception!(partition_raft, Compacted, EngineError);

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("EngineError", py.get_type::<EngineError>())?;
    m.add("ProposalDropped", py.get_type::<ProposalDropped>())?;
    m.add("PeerNotFound", py.get_type::<PeerNotFound>())?;
    m.add("InvalidMessage", py.get_type::<InvalidMessage>())?;
    m.add("InvalidConfig", py.get_type::<InvalidConfig>())?;
    m.add("ConfChangeRefused", py.get_type::<ConfChangeRefused>())?;
    m.add("FatalEngineError", py.get_type::<FatalEngineError>())?;
    m.add("EngineMisuse", py.get_type::<EngineMisuse>())?;
    m.add("Compacted", py.get_type::<Compacted>())?;
    Ok(())
}

/// The Python exception for an error of raft-rs. Errors of its storage are fatal: raft-rs silently
/// stops taking part in elections then.
pub fn from_raft(err: raft::Error) -> PyErr {
    use raft::Error as E;
    match err {
        E::ProposalDropped => ProposalDropped::new_err(
            "the engine dropped the proposal: there is no leader here, leadership is being handed \
             over, or the limit of uncommitted bytes is reached; retry, at the leader",
        ),
        E::StepPeerNotFound => {
            PeerNotFound::new_err("the sender is not a member of this configuration")
        }
        E::ConfigInvalid(why) => InvalidConfig::new_err(why),
        E::CodecError(why) => InvalidMessage::new_err(format!("not a raft message: {why:?}")),
        E::StepLocalMsg => InvalidMessage::new_err("a local message never comes from a peer"),
        E::Exists { .. } | E::NotExists { .. } | E::ConfChangeError(_) => {
            ConfChangeRefused::new_err(err.to_string())
        }
        other => FatalEngineError::new_err(format!("storage failed under the engine: {other}")),
    }
}
