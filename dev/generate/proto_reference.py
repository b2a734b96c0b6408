"""Generates docs/reference/*.md of the gRPC services from the comments in their .proto files."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2 as descriptors

from dev.generate import proto
from dev.generate.pages import Row, generated, table, text_lines

FOLDER = "docs/reference"
PACKAGE = "partition_proto/v1"
PAGES = {
    "log_store": "The service LogStore",
    "replica_admin": "The service ReplicaAdmin",
    "inspection": "The service Inspection",
    "peer": "The service Peer",
    "types": "Messages that services share",
}
"""The page's title by .proto file. The other files describe the on-disk format (on_disk_format.md).
"""

Field = descriptors.FieldDescriptorProto
SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in Field.Type.items()}
MESSAGES, ENUMS, SERVICES = 4, 5, 6
"""Field numbers in FileDescriptorProto, with which the path of a comment begins."""
MEMBERS = 2
"""The field number of a message's fields, an enum's values and a service's methods."""


class Comments:
    """The comment before each element of a file, by its path."""

    def __init__(self, file: descriptors.FileDescriptorProto) -> None:
        self._by_path = {
            tuple(found.path): found.leading_comments or found.trailing_comments
            for found in file.source_code_info.location
        }
        syntax = next(f for f in file.source_code_info.location if tuple(f.path) == (12,))
        self.file = _dedented(syntax.leading_comments)

    def at(self, *path: int) -> str:
        return _dedented(self._by_path.get(path, ""))


def write(target: Path) -> None:
    """Writes every page below `target`."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "descriptors"
        proto.compile_all("--include_source_info", f"--descriptor_set_out={found}")
        files = descriptors.FileDescriptorSet.FromString(found.read_bytes()).file
    by_name = {Path(file.name).stem: file for file in files}
    homes = {name: stem for stem in PAGES for name in _names(by_name[stem])}
    pages = target / FOLDER
    pages.mkdir(parents=True, exist_ok=True)
    for stem, title in PAGES.items():
        (pages / f"{stem}.md").write_text(page(by_name[stem], stem, title, homes))


def page(
    file: descriptors.FileDescriptorProto, stem: str, title: str, homes: dict[str, str]
) -> str:
    """Returns a page. homes: the page of each message and enum."""
    comments = Comments(file)
    lines = [f"# {title}", "", *text_lines(comments.file), ""]
    lines += [generated(f"proto/{PACKAGE}/{stem}.proto"), ""]
    for number, service in enumerate(file.service):
        lines += [*text_lines(comments.at(SERVICES, number)), "", "## Calls", ""]
        for place, method in enumerate(service.method):
            asked, answered = (
                ("stream of " if streams else "") + _link(name, stem, homes)
                for streams, name in (
                    (method.client_streaming, method.input_type),
                    (method.server_streaming, method.output_type),
                )
            )
            lines += [f"### {method.name}", "", f"{asked} → {answered}", ""]
            lines += [*text_lines(comments.at(SERVICES, number, MEMBERS, place)), ""]
    lines += ["## Messages", ""] if file.service else []
    for number, message in enumerate(file.message_type):
        lines += [f"### {message.name}", "", *text_lines(comments.at(MESSAGES, number)), ""]
        rows = list(_fields(comments, number, message, stem, homes))
        lines += [*table(("type",), rows), ""] if rows else ["No fields.", ""]
    lines += ["## Enums", ""] if file.enum_type else []
    for number, enum in enumerate(file.enum_type):
        lines += [f"### {enum.name}", "", *text_lines(comments.at(ENUMS, number)), ""]
        rows = [
            Row(value.name, (str(value.number),), comments.at(ENUMS, number, MEMBERS, place))
            for place, value in enumerate(enum.value)
        ]
        lines += [*table(("number",), rows, first="value"), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _fields(
    comments: Comments,
    number: int,
    message: descriptors.DescriptorProto,
    stem: str,
    homes: dict[str, str],
) -> Iterator[Row]:
    for place, field in enumerate(message.field):
        entry = next((n for n in message.nested_type if field.type_name.endswith(n.name)), None)
        if field.type_name and entry is not None:
            word = f"map of {' to '.join(SCALARS[part.type] for part in entry.field)}"
        else:
            word = _link(field.type_name, stem, homes) if field.type_name else SCALARS[field.type]
            if field.label == Field.LABEL_REPEATED:
                word = f"repeated {word}"
        if field.proto3_optional:
            word = f"optional {word}"
        elif field.HasField("oneof_index"):
            word += f", one of `{message.oneof_decl[field.oneof_index].name}`"
        yield Row(field.name, (word,), comments.at(MESSAGES, number, MEMBERS, place))


def _names(file: descriptors.FileDescriptorProto) -> list[str]:
    return [found.name for found in (*file.message_type, *file.enum_type)]


def _link(name: str, stem: str, homes: dict[str, str]) -> str:
    short = name.rpartition(".")[2]
    home = homes[short]
    page = "" if home == stem else f"{home}.md"
    return f"[{short}]({page}#{short.lower()})"


def _dedented(comment: str) -> str:
    """Removes the blank that protoc keeps after each `//`."""
    return "\n".join(line.removeprefix(" ") for line in comment.rstrip("\n").splitlines())
