"""What was measured, as a table for people and as JSON for programs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One figure of ours and, where there is one, the same of a peer; a number for every round."""

    what: str
    unit: str
    ours: Sequence[float]
    peers: Sequence[float] = field(default=())
    peer: str = ""
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better ours is, by the medians."""
        if not self.peers:
            return None
        ours, peers = statistics.median(self.ours), statistics.median(self.peers)
        return ours / peers if self.more_is_better else peers / ours

    def as_json(self) -> dict[str, object]:
        """Everything there is to it."""
        medians = {"ours": statistics.median(self.ours)}
        if self.peers:
            medians["peer"] = statistics.median(self.peers)
        rounds = {"ours": list(self.ours), "peer": list(self.peers)}
        told = {"what": self.what, "unit": self.unit, "peer": self.peer, "medians": medians}
        return told | {"rounds": rounds, "ratio": self.ratio}


HEADER = ("what", "ours", "peer", "ratio", "peer is")


def table(rows: Sequence[Row]) -> str:
    """Returns the medians as a table in Markdown."""
    lines = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    ours = f"{_shown(statistics.median(row.ours))} {row.unit}"
    if row.ratio is None:
        return row.what, ours, "", "", ""
    peers = f"{_shown(statistics.median(row.peers))} {row.unit}"
    return row.what, ours, peers, f"{row.ratio:.2f}×", row.peer


def _shown(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
