"""The report as Markdown: a front page with answers, and a page of details for each domain.

Each claim of the paper has its sentence, the paper's number, our number with a 95% interval over seeds, the scale, the
verdict by a rule that was written down beforehand, and the command that reproduces it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.evidence.markdown import markdown
from experiments.evidence.reading import expected, rows_path
from experiments.evidence.rows import MIN_SEEDS, RANGE, as_rows, read_rows, read_settings, read_surfaces
from experiments.evidence.verdicts import (
    NOT_RUN,
    NOT_TESTABLE,
    OURS_WHOLE,
    VERDICTS,
    Answer,
    Claim,
    Evidence,
    Finding,
    Part,
)

HOW_TO_READ = f"""\
- An interval is a 95% bootstrap interval of the median over seeds, unless a part says otherwise. Comparisons of two \
methods are paired by seed. With 8 to 10 seeds, such an interval contains the true median in 92 to 96% of trials. With \
{RANGE} or fewer seeds, the interval is the range over seeds. With {MIN_SEEDS} seeds, the range contains the true \
median in {1 - 2 ** (1 - MIN_SEEDS):.1%} of trials.
- **reproduced**: the rule holds. **not reproduced**: the rule fails, however the open comparisons would turn out. \
**inconclusive**: the intervals do not decide, or there are fewer than {MIN_SEEDS} seeds (or fewer than another number \
that a part gives). **{NOT_TESTABLE}**: the claim's premise does not hold for what was trained here, so its rule \
decides nothing. If the premise is open, the claim is inconclusive. **not run**: there are no rows.
- Scale **paper** is the paper's protocol at its full budget; where the paper leaves a choice open, the choice is \
ours. **{OURS_WHOLE}** is our own protocol at its full budget. **reduced** is a smaller budget and says nothing about \
the paper's numbers.
"""

FRONT = """\
# What was reproduced

`make report` writes this page from the rows in `results/`; no number was typed by hand. The detailed pages give the \
rule, our numbers and the command of each claim: {details}.
"""

FIGURES = {  # of the front page, in the folder `figures` beside the report
    "functions_won.png": "Regression: functions where Sobolev Training has the lower test error, by number of updates",
    "ratios.png": "Regression: test errors of value-only over Sobolev Training, by function and number of points",
    "figure_4.png": "Distillation: students at the end of training, by game and number of states",
    "theory_points_against_dimension.png": "Theory: points needed to learn a random teacher, by number of inputs",
}


class Domain(NamedTuple):
    """A domain's contribution to the report, from its module `claims`; `answers` and `changed` are optional there."""

    name: str
    parts: Sequence[Part]
    answers: Sequence[Answer]
    changed: Sequence[str]  # rules, budgets and choices that changed once results were seen


Judged = list[tuple[Part, list[tuple[Claim, Finding]]]]


def reports(evidence: Evidence, domains: Sequence[Domain], figures: Container[str] = ()) -> dict[str, str]:
    """The pages of the report as Markdown, by file name: the front page, and the details of each domain.

    Args:
        evidence: The rows.
        domains: The domains to report, in this order.
        figures: The files that the front page may show.
    """
    judged = {domain.name: judge(evidence, domain.parts) for domain in domains}
    pages = {"REPORT.md": front(evidence, domains, judged, figures)}
    for domain in domains:
        pages[f"report/{domain.name}.md"] = details(evidence, judged[domain.name])
    return pages


def judge(evidence: Evidence, parts: Iterable[Part]) -> Judged:
    """The verdict on every claim."""
    return [(part, [(claim, claim.judge(evidence)) for claim in part.claims]) for part in parts]


def front(evidence: Evidence, domains: Sequence[Domain], judged: Mapping[str, Judged], figures: Container[str]) -> str:
    """The front page: answers, the verdicts on what was run, and what changed after results were seen."""
    links = ", ".join(f"[{domain.name.replace('_', ' ')}](report/{domain.name}.md)" for domain in domains)
    sections = [FRONT.format(details=links)]
    answers = [(answer.question, answer.say(evidence)) for domain in domains for answer in domain.answers]
    if any(said for _, said in answers):
        sections += ["## The answers\n", *(f"**{question}** {said}\n" for question, said in answers if said)]
    sections += [f"![{title}](figures/{name})\n" for name, title in FIGURES.items() if name in figures]
    lines, not_run, counts = [], [], dict.fromkeys((*VERDICTS.values(), NOT_TESTABLE, NOT_RUN), 0)
    for domain in domains:
        for part, claims in judged[domain.name]:
            for claim, finding in claims if part.of_paper else ():
                counts[finding.verdict] += 1
                if finding.verdict == NOT_RUN:
                    not_run.append(claim.key)
                else:
                    lines.append([claim.key, claim.sentence, _verdict(finding), _scale(part, finding)])
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    sections += [f"## Claim by claim\n\n{counted}.\n"]
    if lines:
        sections.append(markdown(["claim", "what the paper says", "verdict", "scale"], lines) + "\n")
    if not_run:
        sections.append(f"Not run: {'; '.join(not_run)}.\n")
    if changed := [f"- {line}" for domain in domains for line in domain.changed]:
        sections += ["## Changed after results were seen\n", *changed, ""]
    return "\n".join([*sections, f"## How to read it\n\n{HOW_TO_READ}"])


def details(evidence: Evidence, parts: Judged) -> str:
    """The page of a domain: each claim with its rule and our numbers, and further tables."""
    sections = [HOW_TO_READ]
    for part, claims in parts:
        sections += [f"## {part.title}\n", f"{part.introduction}\n"]
        if claims:
            lines = [[claim.key, claim.sentence, _verdict(f), _scale(part, f)] for claim, f in claims]
            sections.append(markdown(["claim", "what the paper says", "verdict", "scale"], lines) + "\n")
        sections += [_detail(part, claim, finding) for claim, finding in claims]
        if appendix := part.appendix(evidence):
            sections.append(appendix.replace("| paper |", f"| {part.whole} |") + "\n")  # the column of the scale
    return "\n".join(sections)


def _verdict(finding: Finding) -> str:
    return f"**{finding.verdict}**" + (f": {finding.because}" if finding.because else "")


def _scale(part: Part, finding: Finding) -> str:
    """The scale under the part's own name, because its full scale is not always the paper's."""
    return part.whole if finding.scale == "paper" else finding.scale or "-"


def _detail(part: Part, claim: Claim, finding: Finding) -> str:
    ours = finding.ours or "nothing"
    if finding.verdict == NOT_RUN:
        ours += f". `{claim.command}` runs it"
    return (
        f"### {claim.key}: {finding.verdict}\n\n"
        f"> {claim.sentence}\n\n"
        f"- Paper: {claim.paper}\n"
        f"- Ours ({_scale(part, finding) if finding.scale else 'no rows'}): {ours}\n"
        + (f"- Verdict: {finding.because}\n" if finding.because else "")
        + f"- Rule: {claim.rule}\n"
        + (f"- Limit: {claim.limit}\n" if claim.limit else "")
        + f"- Command: `{claim.command}`\n"
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
