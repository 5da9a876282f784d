"""Candidates of `resources scan` held against what was listed by hand (tests/data/*_resources.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowprof.profiler.scan.candidates import Candidate
from flowprof.profiler.scan.draft import chosen_of

DATA = Path(__file__).parent / "data"
EVENTS = ("wait", "acquire", "release")


@dataclass(frozen=True, slots=True)
class Score:
    """drafted: resources in the draft. right: of them, in the list. found: listed ones that are in the draft.

    events_right of events_told: functions of found resources whose event is listed so; events_found of events_listed
    counts a resource's event once, whichever of its functions was told. Waits that are told and not drafted count.
    """

    drafted: int
    right: int
    listed: int
    found: int
    events_told: int
    events_right: int
    events_listed: int
    events_found: int
    missed: tuple[str, ...]
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"precision {self.right}/{self.drafted}, recall {self.found}/{self.listed}; of the functions "
            f"{self.events_right}/{self.events_told} right, {self.events_found}/{self.events_listed} events found; "
            f"missed: {', '.join(self.missed) or 'none'}; wrong: {', '.join(self.wrong) or 'none'}"
        )


def measured(candidates: Sequence[Candidate], name: str, most: int | None = None, essential: bool = False) -> Score:
    """The score of the drafted candidates, or of the best `most` of them; essential: recall of these alone."""
    truth = tomllib.loads((DATA / name).read_text())
    drafted = chosen_of(candidates)[:most]
    wanted = [one for one in truth["resource"] if one.get("essential") or not essential]
    owners = {owner for one in truth["resource"] for owner in one["owners"]}
    fine = owners | set(truth.get("other", {}).get("owners", ()))
    names = {candidate.name for candidate in drafted}
    told = right = listed = found = 0
    for one in wanted:
        mine = [candidate for candidate in drafted if candidate.name in one["owners"]]
        for event in EVENTS:
            expected = set(one.get(event, ()))
            if not expected or not mine:
                continue
            said = {
                role.function.qualified for candidate in mine for role in candidate.roles
                if role.event == event and (role.drafted or event == "wait")
            }  # fmt: skip
            told, right = told + len(said), right + len(said & expected)
            listed, found = listed + 1, found + bool(said & expected)
    missed = [one["name"] for one in wanted if not names & set(one["owners"])]
    wrong = [candidate.name for candidate in drafted if candidate.name not in fine]
    return Score(
        len(drafted), len(drafted) - len(wrong), len(wanted), len(wanted) - len(missed), told, right, listed, found,
        tuple(missed), tuple(wrong),
    )  # fmt: skip
