"""The report:  python -m scripts.report [--results results] [--out results/REPORT.md]

For each claim of the paper: its sentence, the paper's number, ours with a 95% interval over seeds, the scale, the
verdict by a rule that was written down beforehand, and the command that remakes it. A domain adds itself to DOMAINS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments.distillation.claims import DISTILLATION
from experiments.evidence.reading import EvidenceError, expected, rows_path
from experiments.evidence.rows import MIN_SEEDS, as_rows, read_rows, read_settings, read_surfaces
from experiments.evidence.tables import markdown
from experiments.evidence.verdicts import NOT_RUN, Claim, Domain, Evidence, Finding
from experiments.regression.claims import DESCENT, NORMALISED_PROTOCOL, PAPER_PROTOCOL, SECOND_ORDER, STEEP
from experiments.synthetic_gradients.claims import SYNTHETIC_GRADIENTS
from experiments.theory.claims import THEORY

DOMAINS: tuple[Domain, ...] = (
    *(PAPER_PROTOCOL, NORMALISED_PROTOCOL, STEEP, SECOND_ORDER, DESCENT),
    *(THEORY, DISTILLATION, SYNTHETIC_GRADIENTS),
)

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


def report(evidence: Evidence, domains: Iterable[Domain] = DOMAINS) -> str:
    """The whole report as Markdown."""
    sections = [PREAMBLE]
    for domain in domains:
        sections += [f"## {domain.title}\n", f"{domain.introduction}\n"]
        judged = [(claim, claim.judge(evidence)) for claim in domain.claims]
        if judged:
            lines = [[claim.key, claim.sentence, f"**{f.verdict}**", f.scale or "-"] for claim, f in judged]
            sections.append(markdown(["claim", "what the paper says", "verdict", "scale"], lines) + "\n")
        sections += [_detail(claim, finding) for claim, finding in judged]
        appendix = domain.appendix(evidence)
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


def main(arguments: list[str] | None = None) -> int:
    """Write the report, print its path, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description="Judge the paper's claims.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds */rows.csv.gz")
    parser.add_argument("--out", type=Path, help="where to write (default: REPORT.md in --results)")
    options = parser.parse_args(arguments)
    out = options.out or options.results / "REPORT.md"
    try:
        evidence = read_evidence(options.results)
        text = report(evidence)
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(out)
    return 0
