"""How results show themselves: equations as LaTeX, tables as text and HTML, and never more than a screen of either.

It imports nothing of modeq, so that every layer may use it. What is left out is counted; the data stay whole.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

MOST = 40  # terms or rows that are shown at once
_WIDTH = 90  # characters of a line of LaTeX, roughly as they are seen
_LINE = 500  # characters of an expression
_CELL = '<td style="text-align: left"'


def cut(text: str, most: int = 100) -> str:
    """Return a text as one line of at most so many characters, and how many more there are.

    Examples
    --------
    >>> cut("x + y" * 30, most=7)
    'x + yx … and 143 more characters'
    """
    line = " ".join(text.split())
    kept = line[:most].rstrip()
    return line if len(line) <= most else f"{kept} … and {len(line) - most} more characters"


def listed(words: Iterable[Any], most: int = 3) -> str:
    """Return words with commas between them, the first few if they are many.

    Examples
    --------
    >>> listed("abc"), listed("abcde")
    ('a, b, c', 'a, b, c, … and 2 more')
    """
    return ", ".join(first([str(word) for word in words], most))


def first(entries: Sequence[Any], most: int = MOST) -> list[Any]:
    """Return the first entries, followed by how many more there are.

    Examples
    --------
    >>> first([1, 2, 3], most=2)
    [1, 2, '… and 1 more']
    """
    left = len(entries) - most
    return [*entries] if left <= 0 else [*entries[:most], f"… and {left:,} more"]


def lines(latex: str) -> str:
    r"""Return LaTeX for a notebook; where it is long, broken between equations, before a sign, or within brackets.

    Examples
    --------
    >>> print(lines("a + b"))
    $\displaystyle a + b$
    """
    if _seen(latex) <= _WIDTH:
        return rf"$\displaystyle {latex}$"
    found = [""]
    for piece in _pieces(latex, []):
        parts = _pieces(piece, [r"\left"]) if _seen(piece) > _WIDTH else [piece]
        for inside, part in enumerate(parts):
            another = part.startswith(r",\qquad ")
            if (not another and _seen(found[-1] + part) <= _WIDTH) or not found[-1]:
                found[-1] += part
            elif part.startswith(","):
                comma, _, rest = part.partition(" ")
                found[-1] += comma[0]
                found.append(rest)
            else:
                found[-1] += r"\right." if inside else ""
                found.append((r"\qquad \left." if inside else r"\quad") + part)
    return r"$\begin{array}{l}" + r" \\ ".join(rf"\displaystyle {line}" for line in found) + r"\end{array}$"


def _pieces(latex: str, within: list[str]) -> list[str]:
    """The parts of a formula that a line may begin with, outside of all brackets or within one pair of large ones."""
    found, start = [], 0
    brackets: list[str] = []
    for token in re.finditer(r"\\left|\\right|[{}]|,\\qquad |,\\quad | [+=-] ", latex):
        if token[0] in (r"\left", "{"):
            brackets.append(token[0])
        elif token[0] in (r"\right", "}"):
            brackets.pop()
        elif brackets == within:
            found.append(latex[start : token.start()])
            start = token.start()
    return [*found, latex[start:]]


def _seen(latex: str) -> int:
    """The number of characters of a formula, a command being one."""
    return len(
        re.sub(r"[{}\s^_]|\\[,;:! ]|\\left|\\right|\\frac", "", re.sub(r"\\(?!left|right|frac)[a-zA-Z]+", "x", latex))
    )


class Formula:
    """What prints as the text of an equation, and shows as LaTeX in a notebook."""

    def text(self) -> str:
        """Return the equation as text."""
        raise NotImplementedError

    def latex(self) -> str:
        """Return the equation as LaTeX."""
        raise NotImplementedError

    def _shortened(self) -> tuple[Any, int]:
        """An equation with the first terms of this one, and how many it lacks."""
        return self, 0

    def __str__(self) -> str:
        shown, left = self._shortened()
        text: str = shown.text()
        return text + (f" … and {left:,} more terms" if left else "")

    def _repr_latex_(self) -> str:
        shown, left = self._shortened()
        return lines(shown.latex() + (rf"\ \ldots\ \text{{and {left:,} more terms}}" if left else ""))


class Formulas(Formula):
    """Formulas in variables of their own, one a line, of which long ones are cut; LaTeX shows where none is."""

    def __str__(self) -> str:
        return "\n".join(first([cut(line, _LINE) for line in self.text().splitlines()]))

    def _repr_latex_(self) -> str | None:  # type: ignore[override]
        fits = len(self.text()) <= _LINE
        return lines(self.latex()) if fits else None

    def _repr_html_(self) -> str | None:
        return preformatted(str(self)) if self._repr_latex_() is None else None


@dataclass(frozen=True)
class Table:
    """Rows of words, with a caption above and notes below; the last cell of a short row is as long as it likes.

    Examples
    --------
    >>> table = Table(("h", "error"), [("0.1", "1e-2"), ("0.05", "< 1e-9")], notes=["slope 2"])
    >>> print(table.text())
    h     error
    0.1   1e-2
    0.05  < 1e-9
    slope 2
    >>> table.html().count("<tr>"), "&lt; 1e-9" in table.html()
    (3, True)
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    notes: Sequence[str] = ()

    def shortened(self) -> "Table":
        """Return the table with no more rows, and no more notes, than are shown at once."""
        rows = [(row,) if isinstance(row, str) else row for row in first(self.rows)]
        return replace(self, rows=rows, notes=first(self.notes))

    def text(self) -> str:
        """Return the table as text."""
        rows = [self.head, *self.rows] if self.head else self.rows
        widths = [0] * max(map(len, rows), default=0)
        for row in rows:
            for k, cell in enumerate(row[:-1]):
                widths[k] = max(widths[k], len(cell))
        margin = "  " if self.caption else ""
        found = [self.caption] if self.caption else []
        for row in rows:
            cells = [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]
            found.append((margin + "  ".join(cells)).rstrip())
        return "\n".join([*found, *(margin + note for note in self.notes)])

    def html(self) -> str:
        """Return the table as HTML, every cell escaped."""
        columns = max(map(len, [self.head, *self.rows]))
        parts = [f"<caption>{escape(self.caption)}</caption>"] if self.caption else []
        if self.head:
            parts.append("<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in self.head) + "</tr>")
        for row in self.rows:
            span = columns - len(row) + 1
            cells = [f"{_CELL}>{escape(cell)}</td>" for cell in row]
            cells[-1] = cells[-1].replace("<td", f'<td colspan="{span}"', 1) if span > 1 else cells[-1]
            parts.append("<tr>" + "".join(cells) + "</tr>")
        below = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"<div><table>{''.join(parts)}</table>{below}</div>"


class Tabular:
    """What prints as a table, and shows as one in a notebook: in full by `table`."""

    def _tables(self) -> Sequence[Table]:
        raise NotImplementedError

    def table(self) -> str:
        """Return the table as text, with all its rows."""
        return "\n".join(table.text() for table in self._tables())

    def __str__(self) -> str:
        return "\n".join(table.shortened().text() for table in self._tables())

    def _repr_html_(self) -> str:
        return "".join(table.shortened().html() for table in self._tables())


def preformatted(text: str) -> str:
    """Return text as HTML that keeps its lines.

    Examples
    --------
    >>> preformatted("a < b")
    '<pre>a &lt; b</pre>'
    """
    return f"<pre>{escape(text)}</pre>"
