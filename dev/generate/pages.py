"""Parts of a reference page in Markdown: tables, descriptions too long for a cell, escapes."""

import re
from dataclasses import dataclass

CELL_WORDS_MAX = 25
"""The limit of dev/prose.py."""


@dataclass(frozen=True)
class Row:
    """A field or a value. cells: the columns between its name and its description."""

    name: str
    cells: tuple[str, ...]
    text: str


def generated(source: str) -> str:
    """Returns the line about the source of a generated page."""
    return f"This page is generated from `{source}` by `make generate`."


def table(columns: tuple[str, ...], rows: list[Row], *, first: str = "field") -> list[str]:
    """Returns the lines of a table, then a list of the descriptions that are too long for a cell.
    Columns that are empty in every row are left out."""
    used = [n for n in range(len(columns)) if any(row.cells[n] for row in rows)]
    texts = any(row.text for row in rows)
    heads = [first, *(columns[n] for n in used), *(["description"] if texts else [])]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    long = []
    for row in rows:
        paragraphs = text_lines(row.text)
        short = paragraphs[0] if len(paragraphs) == 1 else ""
        if row.text and (not short or len(short.split()) > CELL_WORDS_MAX):
            short = "see below"
            long.append(f"- `{row.name}`: " + "\n  ".join(line for line in paragraphs if line))
        cells = [f"`{row.name}`", *(row.cells[n] for n in used), *([short] if texts else [])]
        lines.append(_line(cells))
    return [*lines, *(["", *long] if long else [])]


def text_lines(comment: str) -> list[str]:
    """Returns prose as lines of Markdown, one per paragraph and list item. An indented paragraph
    that is not a list becomes a block of code."""
    lines: list[str] = []
    for block in filter(str.strip, re.split(r"\n[ ]*\n", comment.strip("\n"))):
        found = block.splitlines()
        listed = found[0].lstrip().startswith("- ")
        if not listed and all(line.startswith("  ") for line in found):
            least = min(len(line) - len(line.lstrip()) for line in found)
            shown = ["```text", *(line[least:] for line in found), "```"]
        else:
            items = re.split(r"\n\s*- ", "\n" + block) if listed else [block]
            shown = [escaped(" ".join(item.split())) for item in items if item.strip()]
            shown = [f"- {item}" for item in shown] if listed else shown
        lines += ["", *shown] if lines else shown
    return lines


def escaped(text: str) -> str:
    """Escapes characters that Markdown would interpret. Code stays as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([<*|])", r"\\\1", part) for part in parts
    )


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
