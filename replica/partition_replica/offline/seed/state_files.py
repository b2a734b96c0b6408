"""The seed's hard state and configuration state, in files of raftpb form. Pure: translates between
their content and our values."""

from google.protobuf.message import DecodeError
from partition_proto.v1 import seed_pb2 as seed

from partition_replica.core.model import Configuration, HardState
from partition_replica.errors import ImportRefused
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.offline.seed.layout import LSN_MAX


def parse_hard_state(name: str, content: bytes) -> HardState:
    """`name`: the file's name in messages. Raises ImportRefused."""
    state = seed.HardState()
    try:
        state.ParseFromString(content)
    except DecodeError as error:
        raise ImportRefused(
            f"{name} does not decode as raftpb.HardState ({error}): use another copy of the file, "
            "or import without it"
        ) from error
    for needed in ("term", "commit"):
        if not state.HasField(needed):
            raise ImportRefused(
                f"{name} lacks its {needed}, which is required: use another copy of the file, or "
                "import without it"
            )
    if max(state.term, state.commit) > LSN_MAX:
        raise ImportRefused(
            f"{name} has a term or commit above 2^63 - 1, so it is damaged: use another copy of "
            "the file, or import without it"
        )
    return HardState(Term(state.term), MemberID(state.vote), LSN(state.commit))


def parse_conf_state(name: str, content: bytes) -> Configuration:
    """`name`: the file's name in messages. Raises ImportRefused."""
    state = seed.ConfState()
    try:
        state.ParseFromString(content)
    except DecodeError as error:
        raise ImportRefused(
            f"{name} does not decode as raftpb.ConfState ({error}): use another copy of the file, "
            "or import without it"
        ) from error
    everybody = [*state.voters, *state.learners]
    if not state.voters or 0 in everybody or len(set(everybody)) < len(everybody):
        raise ImportRefused(
            f"{name} has voters {list(state.voters)} and learners {list(state.learners)}; allowed "
            "are at least one voter, no member twice, and no member 0: use another copy of the "
            "file, or import without it"
        )
    return Configuration(
        tuple(state.voters),
        tuple(state.learners),
        tuple(state.voters_outgoing),
        tuple(state.learners_next),
        state.auto_leave,
    )


def encode_hard_state(state: HardState) -> bytes:
    message = seed.HardState(term=state.term, vote=state.vote, commit=state.commit)
    return message.SerializeToString(deterministic=True)


def encode_conf_state(configuration: Configuration) -> bytes:
    message = seed.ConfState(
        voters=configuration.voters,
        learners=configuration.learners,
        voters_outgoing=configuration.voters_outgoing,
        learners_next=configuration.learners_next,
        auto_leave=configuration.auto_leave,
    )
    return message.SerializeToString(deterministic=True)
