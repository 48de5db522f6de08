"""The report as Markdown.

For each claim of the paper: its sentence, the paper's number, ours with a 95% interval over seeds, the scale, the
verdict by a rule that was written down beforehand, and the command that remakes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments.evidence.markdown import markdown
from experiments.evidence.reading import expected, rows_path
from experiments.evidence.rows import MIN_SEEDS, as_rows, read_rows, read_settings, read_surfaces
from experiments.evidence.verdicts import NOT_RUN, Claim, Evidence, Finding, Part

PREAMBLE = f"""\
# What was reproduced

Written by `make report` from the rows in `results/`; no number was typed by hand. Each verdict follows from a rule
that was written down before the results were seen.

- An interval is a 95% bootstrap interval of the median over seeds, unless a part says otherwise; a comparison of two
  methods is paired by seed. With as few as 6 to 10 seeds such intervals contain the median in 92 to 95% of trials.
- **reproduced**: the rule holds. **not reproduced**: it does not hold, whichever way the open comparisons would fall.
  **inconclusive**: the intervals do not decide, or there are fewer than {MIN_SEEDS} seeds (or
  another number that a part gives). **not run**: no rows.
- Scale **paper** is the full budget; **reduced** is a smaller one, and no statement about the paper's numbers.
"""


def report(evidence: Evidence, parts: Iterable[Part]) -> str:
    """The whole report as Markdown."""
    sections = [PREAMBLE]
    for part in parts:
        sections += [f"## {part.title}\n", f"{part.introduction}\n"]
        judged = [(claim, claim.judge(evidence)) for claim in part.claims]
        if judged:
            lines = [[claim.key, claim.sentence, f"**{f.verdict}**", f.scale or "-"] for claim, f in judged]
            sections.append(markdown(["claim", "what the paper says", "verdict", "scale"], lines) + "\n")
        sections += [_detail(claim, finding) for claim, finding in judged]
        appendix = part.appendix(evidence)
        if appendix:
            sections.append(appendix + "\n")
    return "\n".join(sections)


def _detail(claim: Claim, finding: Finding) -> str:
    ours = finding.ours or "nothing"
    if finding.verdict == NOT_RUN:
        ours += f". `{claim.command}` makes it"
    return (
        f"### {claim.key}: {finding.verdict}\n\n"
        f"> {claim.sentence}\n\n"
        f"- Paper: {claim.paper}\n"
        f"- Ours ({finding.scale or 'no rows'}): {ours}\n"
        f"- Rule: {claim.rule}\n"
        f"- Remake: `{claim.command}`\n"
    )


def read_evidence(results: Path) -> Evidence:
    """The rows, surfaces and settings of every domain that has rows.

    Raises:
        EvidenceError: a file is damaged, or there are no rows at all.
    """
    folders = [folder for folder in sorted(results.glob("*")) if expected(rows_path(folder))]
    folders = folders or [results / "regression"]
    rows = as_rows(pd.concat([read_rows(rows_path(folder)) for folder in folders], ignore_index=True))
    settings = {}
    for path in (folder / "settings.json" for folder in folders):
        settings |= read_settings(path) if expected(path) else {}
    return Evidence(rows, read_surfaces(results / "regression" / "surfaces", rows), settings)
