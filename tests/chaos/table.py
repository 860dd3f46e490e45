"""What a run has counted, and whether all is zero that must be."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.audit import Findings
from tests.chaos.promise import Promise


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    seed: int
    seconds: float
    struck: Mapping[str, int]  # faults by what happened to what
    skipped: Sequence[str]  # faults that this machine does not allow
    operations: Mapping[tuple[str, str], int]  # by what was asked for, and how it ended
    promise: Promise
    findings: Findings
    surprises: Sequence[str]
    refused: Sequence[str]
    fell: Sequence[str]
    dropped: int

    def rows(self) -> list[tuple[str, int, bool]]:
        """Return what was counted, and whether it must be zero."""
        events, findings = self.findings.events, self.findings
        return [
            ("faults", sum(self.struck.values()), False),
            ("commands answered", sum(self.operations.values()), False),
            ("commands refused to an owner who did not expect it", len(self.refused), False),
            ("commands answered with an error or with something else", len(self.surprises), True),
            ("commands acknowledged, but not in effect", len(findings.not_in_effect), True),
            ("tokens good that do not work, or revoked that do", len(findings.wrong_tokens), True),
            ("events committed", events.committed, False),
            ("events published", events.published, False),
            ("events missing", len(events.missing), True),
            ("events altered", len(events.altered), True),
            ("events never committed", len(events.never_committed), True),
            ("events out of order", len(events.out_of_order), True),
            ("events stored again, dropped by their id", events.repeated, False),
            ("events delivered again, dropped by their id", self.dropped, False),
            ("events that a durable consumer missed", len(findings.not_consumed), True),
            ("GPUs held twice", len(findings.held_twice), True),
            ("GPUs that database, API and hosts see otherwise", len(findings.gpus_differ), True),
            ("requests sent", self.promise.sent, False),
            ("requests succeeded", self.promise.succeeded, False),
            ("requests failed, excused", self.promise.excused, False),
            ("requests failed while promised", len(self.promise.broken), True),
            ("endpoints unsettled", len(findings.endpoints_unsettled), True),
            ("endpoints that wait, and truly say why", findings.waiting, False),
            ("untrue reasons", len(findings.untrue_reasons), True),
            ("intervals billed", findings.bills, False),
            ("intervals billed wrongly", len(findings.wrong_bills), True),
            ("plans made again", findings.replayed, False),
            ("plans that came out otherwise", len(findings.replayed_otherwise), True),
            ("parts that lost their office, and ended", len(self.fell) - len(self.crashed), False),
            ("parts that ended by themselves otherwise", len(self.crashed), True),
            ("hosts and ways that have not recovered", len(findings.not_recovered), True),
        ]

    def details(self) -> list[str]:
        """Return what lies behind the counts, shortened."""
        findings, events = self.findings, self.findings.events
        named = {
            "surprise": self.surprises,
            "refused": self.refused,
            "not in effect": findings.not_in_effect,
            "token": findings.wrong_tokens,
            "missing": events.missing,
            "altered": events.altered,
            "never committed": events.never_committed,
            "out of order": events.out_of_order,
            "not consumed": findings.not_consumed,
            "held twice": findings.held_twice,
            "seen otherwise": findings.gpus_differ,
            "promise broken": self.promise.broken,
            "unsettled": findings.endpoints_unsettled,
            "untrue": findings.untrue_reasons,
            "billed wrongly": findings.wrong_bills,
            "planned otherwise": findings.replayed_otherwise,
            "ended by itself": self.crashed,
            "not recovered": findings.not_recovered,
            "skipped": self.skipped,
        }
        return [f"{what}: {one}" for what, all_ in named.items() for one in all_[:10]]

    @property
    def crashed(self) -> Sequence[str]:
        """How parts ended that nobody had ended; one that leads no more is right to end."""
        return [how for how in self.fell if "NotLeaderError" not in how]

    def table(self) -> str:
        """Return the counts, and what lies behind those that should be zero."""
        return "\n".join(
            [
                "",
                f"seed {self.seed}, {self.seconds:g} seconds",
                "",
                "faults",
                *(f"  {what:<56}{count:>6}" for what, count in sorted(self.struck.items())),
                "",
                "operations, and how they ended",
                *self._operations(),
                "",
                "what followed, by the scheduler's events",
                *self._happened(),
                "",
                *self._judged(),
                "",
                *self.details(),
            ]
        )

    def _operations(self) -> Iterator[str]:
        ends: dict[str, Counter[str]] = {}
        for (what, end), count in self.operations.items():
            ends.setdefault(what, Counter())[end] += count
        for what, counted in sorted(ends.items()):
            how = ", ".join(f"{count} {end}" for end, count in counted.most_common())
            yield f"  {what:<24}{how}"

    def _happened(self) -> Iterator[str]:
        happened = self.findings.happened
        for kind in sorted(happened):
            yield f"  {kind:<56}{happened[kind]:>6}"

    def _judged(self) -> Iterator[str]:
        for what, count, must_be_zero in self.rows():
            judgement = "" if not must_be_zero else "   MUST BE 0" if count else "   ok"
            yield f"{what:<58}{count:>6}{judgement}"

    @property
    def good(self) -> bool:
        """Whether all is zero that must be."""
        return not any(count for _, count, must_be_zero in self.rows() if must_be_zero)
