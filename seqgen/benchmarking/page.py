"""A page as blocks, written as Markdown or as one HTML file that needs nothing beside it."""

import base64
import dataclasses
import html
import pathlib
from collections.abc import Sequence

FIGURES = "figures"  # folder beside the Markdown
STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
th, td { border: 1px solid #ccc; padding: .2em .5em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f4f4f4; padding: .7em; overflow-x: auto; }
img { max-width: 100%; }"""


@dataclasses.dataclass(frozen=True)
class Block:
    """One piece of the report.

    Attributes:
      kind: 'heading' (level in `level`), 'text', 'code', 'table' (first row = header) or 'figure'.
      text: words, or a figure's caption.
      rows: of a table.
      level: of a heading.
      name: of a figure's files.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    level: int = 2
    name: str = ""


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown; figures are links to the PNG files beside."""
    parts = []
    for block in blocks:
        if block.kind == "heading":
            parts.append(f"{'#' * block.level} {block.text}")
        elif block.kind == "code":
            parts.append(f"```sh\n{block.text}\n```")
        elif block.kind == "table":
            head, *body = [[cell.replace("|", "\\|") for cell in row] for row in block.rows]
            lines = [head, ["---"] * len(head), *body]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        elif block.kind == "figure":
            parts.append(f"![{block.text}]({FIGURES}/{block.name}.png)")
        else:
            parts.append(block.text)
    return "\n\n".join(parts) + "\n"


def to_html(blocks: Sequence[Block], figures: pathlib.Path) -> str:
    """One file; figures stand in it as data, apart from each other's identifiers."""
    parts = []
    for block in blocks:
        text = html.escape(block.text)
        if block.kind == "heading":
            parts.append(f"<h{block.level}>{text}</h{block.level}>")
        elif block.kind == "code":
            parts.append(f"<pre>{text}</pre>")
        elif block.kind == "table":
            lines = []
            for place, row in enumerate(block.rows):
                tag = "td" if place else "th"
                cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
                lines.append(f"<tr>{cells}</tr>")
            parts.append("<table>\n" + "\n".join(lines) + "\n</table>")
        elif block.kind == "figure":
            data = base64.b64encode((figures / f"{block.name}.svg").read_bytes()).decode()
            parts.append(f'<img alt="{text}" src="data:image/svg+xml;base64,{data}">')
        else:
            parts.append(f"<p>{text}</p>")
    head = f'<meta charset="utf-8"><title>seqgen bench</title><style>\n{STYLE}\n</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'
