"""Formats a comparison of evaluations as a table in Markdown, LaTeX or JSON."""

from typing import Any

from video_vq.evaluation.compare_evaluations import Cell, EvaluationTable


def as_json(table: EvaluationTable) -> dict[str, Any]:
    """Return a table as JSON."""
    return {
        "runs": list(table.runs),
        "methods": table.methods,
        "scores": [
            {
                "name": name,
                "better": better,
                "runs": [{**cell._asdict(), "differs": cell.differs} for cell in cells],
            }
            for name, better, cells in table.rows
        ],
    }


def as_markdown(table: EvaluationTable) -> str:
    """Return a table as Markdown."""
    lines = [
        "| | " + " | ".join(_plain(run) for run in table.runs) + " |",
        "|---" * (len(table.runs) + 1) + "|",
    ]
    for name, better, cells in table.rows:
        shown = [_told(cell, "±", "**", "**") for cell in cells]
        lines.append(f"| {name} {better} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, "", table.methods])


def as_latex(table: EvaluationTable) -> str:
    """Return a table as LaTeX (booktabs)."""
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→ 1": r"$\rightarrow 1$"}
    columns = "l" + "r" * len(table.runs)
    head = " & ".join(["", *(_latex(run) for run in table.runs)])
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head + r" \\", r"\midrule"]
    for name, better, cells in table.rows:
        shown = [_told(cell, r"$\pm$", r"\textbf{", "}") for cell in cells]
        lines.append(" & ".join([f"{_latex(name)} {arrows[better]}", *shown]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, f"% {_latex(table.methods)}"])


def _told(cell: Cell, plus_minus: str, strong: str, end: str) -> str:
    if cell.value is None:
        return "–"
    value = f"{cell.value:.4g}" if abs(cell.value) < 1000 else f"{cell.value:.0f}"
    if cell.low is None or cell.high is None:
        return value
    middle, reach = (cell.low + cell.high) / 2, (cell.high - cell.low) / 2
    shown = f"{value} ({middle:+.3g} {plus_minus} {reach:.2g})"
    return f"{strong}{shown}{end}" if cell.differs else shown


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
