"""Checks the prose of the documentation: `python -m dev.prose`.

It finds phrases that are hard to understand, long sentences, long table cells, long lines, and an
architecture page whose sentences are too long on average. It ignores code and the targets of links.
In the changelog and the pages of the tests it checks the length of the lines alone.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dev.cluster.layout import ROOT

NOT_READ = {"CHANGELOG.md"}
GENERATED = "docs/reference"
"""Its pages have a paragraph per line."""
QUOTE_PHRASES = {"docs/glossary.md", "docs/adr/0010-one-word-for-one-thing.md"}
"""These pages quote the phrases that we do not use."""
SENTENCE_WORDS_MAX = 40
CELL_WORDS_MAX = 25
LINE_LENGTH_MAX = 120
AVERAGE_WORDS_BELOW = {"docs/ARCHITECTURE.md": 18}
CODE_INDENTATION = "    "

BANNED = {
    r"where there (is|are) (none|no)\b": "if there is no",
    r"where (it|that|this|one|they) (is|are|has|have|can|does|do) (not|none|no)\b": "if",
    r"\bwho is\b|\bwhoever\b": "the name of the person or program",
    r"\b(what|who|whoever) ends\b": "the name of the thing that ends",
    r"\d[\d,.]* \w+ a (second|minute|hour|day)\b": "per second",
    r"\bsecond after second\b": "once per second",
    r"\b(an?|one) \w+ an? (batch|call|entry|concern|transaction)\b": "per",
    r"\b(let|lets|letting) go\b": "release",
    r"\b(go|goes|went) on by (itself|themselves|himself)\b": "continues on its own",
    r"(?<!there )\b(is|are) none\b": "what is wrong or missing",
    r"\bnobody's\b": "what happens",
    r"\bgone on from\b": "resume",
}
"""Patterns, and what to write instead."""


def paragraphs(text: str) -> Iterator[tuple[int, bool, str]]:
    """Yields (line, whether it is a table's cell, text) of each paragraph, list item and cell."""
    first, lines, fenced = 1, list[str](), False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip()
        fence = bare.startswith("```")
        item = re.match(r"([-*]|\d+\.) ", bare)
        ends = fenced or fence or not bare or item or bare.startswith(("|", "#", "<!--"))
        if ends and lines:
            yield first, False, " ".join(lines)
            lines = []
        fenced ^= fence
        if fenced or fence or not bare or bare.startswith(("#", "<!--")):
            continue
        if bare.startswith("|"):
            yield from ((number, True, cell.strip()) for cell in bare.strip("|").split("|"))
        elif lines or not line.startswith(CODE_INDENTATION):
            first = first if lines else number
            lines.append(bare[item.end() :] if item else bare)


def plain(text: str) -> str:
    """Removes marks and the targets of links, and replaces each piece of code by one word."""
    text = re.sub(r"`[^`]*`", "Code", text)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("*", "").replace("…", "")


def sentences(text: str) -> list[int]:
    """Returns the number of words of each sentence."""
    found = re.split(r"(?<=[.!?])['\")]*\s+(?=[\"'(\[]?[A-Z0-9])", plain(text))
    return [n for part in found if (n := len(re.findall(r"\w[\w'.,/:-]*", part)))]


def check(name: str, text: str) -> list[str]:
    """Returns the problems of a page, each with file:line."""
    found, lengths = list[str](), list[int]()
    for line, cell, prose in paragraphs(text):
        counts = sentences(prose)
        lengths += [] if cell else counts
        what, most = ("cell", CELL_WORDS_MAX) if cell else ("sentence", SENTENCE_WORDS_MAX)
        for count in [sum(counts)] if cell else counts:
            if count > most:
                found.append(f"{name}:{line}: a {what} of {count} words; at most {most}")
        for pattern, better in BANNED.items() if name not in QUOTE_PHRASES else ():
            if wrong := re.search(pattern, plain(prose), re.IGNORECASE):
                found.append(f"{name}:{line}: {wrong.group()!r}; write: {better}")
    below = AVERAGE_WORDS_BELOW.get(name)
    average = sum(lengths) / max(len(lengths), 1)
    if below is not None and average >= below:
        found.append(f"{name}:1: {average:.1f} words per sentence on average; below {below}")
    return found


def long_lines(name: str, text: str) -> list[str]:
    """The lines of a page that are to be wrapped, each as file:line. A heading, a table's row, code
    and the target of a link can't be."""
    found, fenced, inside = list[str](), False, False
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        fence = bare.startswith("```")
        fenced ^= fence
        code = fenced or fence or (not inside and line.startswith(CODE_INDENTATION))
        inside = bool(bare) and not code and not bare.startswith(("|", "#", "<!--"))
        length = len(re.sub(r"\]\([^)]*\)|https?://\S+", "", line))
        if inside and length > LINE_LENGTH_MAX:
            found.append(
                f"{name}:{number}: a line of {length} characters; at most {LINE_LENGTH_MAX}"
            )
    return found


def pages() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(page for page in found if page.name not in NOT_READ)


def wrapped_pages() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    return sorted(page for page in found if page.parent != ROOT / GENERATED)


def main() -> int:
    """Prints the problems of all pages. Returns 1 if there are any, else 0."""
    wrong = [
        problem
        for look, found in ((check, pages()), (long_lines, wrapped_pages()))
        for page in found
        for problem in look(str(page.relative_to(ROOT)), page.read_text())
    ]
    for problem in wrong:
        print(problem)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
