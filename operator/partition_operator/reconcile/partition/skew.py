"""Which versions of replicas may run in one group: the same, or two neighbouring ones. Pure.

Replicas report their version. That of an image is known by its tag, if the tag is a semantic
version, or else by the first pod that runs it.
"""

import re
from dataclasses import dataclass
from typing import Final

from partition_operator.api import names
from partition_operator.reconcile.observed.partition import ObservedPartition

_SEMANTIC: Final = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:[-+][0-9A-Za-z.+-]*)?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def may_join(self, other: "Version") -> bool:
        """Whether both may run in one group. A major version follows the last minor one before it,
        whose number is not known here."""
        older, newer = sorted((self, other))
        if older.major == newer.major:
            return newer.minor - older.minor <= 1
        return newer.major - older.major == 1 and newer.minor == 0

    @property
    def neighbours(self) -> str:
        """Which minor versions may join it, in words."""
        first = f"{self.major}.{max(self.minor - 1, 0)}"
        return f"{first} to {self.major}.{self.minor + 1}"


def parse(text: str) -> Version | None:
    """Returns None if the text is no semantic version, with or without a "v" in front."""
    found = _SEMANTIC.fullmatch(text)
    return Version(*map(int, found.groups())) if found else None


def of_image(image: str) -> Version | None:
    """Returns the version in an image's tag; None if it has no tag, or one of another scheme."""
    repository, _, tag = image.partition("@")[0].rpartition(":")
    return parse(tag) if repository else None


def refusal(observed: ObservedPartition, image: str, revision: str) -> str:
    """Returns why no other pod may get the newest template; "" if one may. image: in that
    template; revision: of it.

    The way back is never refused: to the image that all pods had when the last rollout was
    complete, and to the version with which most pods run."""
    if image == observed.partition.status.get("image"):
        return ""
    newest = {pod.ordinal for pod in observed.pods if pod.revision == revision}
    reported = {r.ordinal: found for r in observed.replicas if (found := parse(r.version))}
    told = {n: version for n, version in reported.items() if n in newest}
    wanted = next(iter(told.values()), None) or of_image(image)
    if wanted is None:
        return ""
    apart = {n: version for n, version in reported.items() if not version.may_join(wanted)}
    if not apart or 2 * len(apart) < len(reported):
        return ""
    ordinal, former = next(iter(apart.items()))
    if len(observed.pods) == 1 and wanted > former:
        return ""  # nobody is beside it, and every version reads what earlier ones wrote
    return _message(observed, told, wanted, ordinal, former, image)


def _message(
    observed: ObservedPartition,
    told: dict[int, Version],
    wanted: Version,
    ordinal: int,
    former: Version,
    image: str,
) -> str:
    def pod(number: int) -> str:
        return names.pod(observed.partition.name, number)

    who = f"{pod(next(iter(told)))} runs" if told else f"image {image} has"
    before = observed.partition.status.get("image", "")
    back = f", or back to {before}" if before else ""
    return (
        f"{who} version {wanted}, and {pod(ordinal)} version {former}. Beside {former} only "
        f"versions {former.neighbours} may run, so no other pod is replaced: set spec.image to "
        f"one of these first{back}"
    )
