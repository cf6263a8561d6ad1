"""Pieces of the page: every value is escaped here, and nothing is asked of another host."""

from collections.abc import Iterable, Sequence
from html import escape

GENERATOR = '<meta name="generator" content="skipwise report">'
_STYLE = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #5a5a5a; --line: #d5d5d5; --mark: #f3ecd8; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 68rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; } h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
p, ul { margin: .4rem 0; max-width: 50rem; } .missing { color: var(--soft); font-style: italic; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; font-size: .875rem; }
caption { text-align: left; color: var(--soft); }
th, td { padding: .2rem .45rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  overflow-wrap: normal; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, table.words th, table.words td { text-align: left; }
td small { display: block; color: var(--soft); white-space: nowrap; font-size: .7rem; }
table.words td:not(:first-child) { overflow-wrap: anywhere; }
tr.marked td { background: var(--mark); font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: .5rem 0; flex: 1 1 20rem; max-width: 32rem; break-inside: avoid; }
figure img { width: 100%; height: auto; } figcaption { font-size: .875rem; color: var(--soft); }
nav a { margin-right: 1rem; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } table { font-size: 7.5pt; }
  th, td { padding: .1rem .2rem; } td small { font-size: 6pt; } figure { flex-basis: 45%; max-width: 48%; }
  .wide { overflow: visible; }
  nav { display: none; } tr, h2, h3 { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(title: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """A whole document; `sections`: (anchor, heading, content that is HTML already)."""
    sections = list(sections)
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a> ' for anchor, heading, _ in sections)
    body = "\n".join(f'<h2 id="{anchor}">{escape(heading)}</h2>\n{content}' for anchor, heading, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{GENERATOR}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<nav aria-label="Sections">{links}</nav>
{body}
</body>
</html>
"""


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def missing(words: str) -> str:
    """A line in place of what is not there."""
    return f'<p class="missing">{escape(words)}</p>'


def bullets(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def heading(words: str) -> str:
    """Of a part of a section."""
    return f"<h3>{escape(words)}</h3>"


def image(source: str, caption: str, alt: str) -> str:
    """A picture with its caption, and the words for those who do not see it."""
    return (
        f'<figure><img src="{escape(source)}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def pictures(images: Iterable[str]) -> str:
    """Beside one another where there is room."""
    return f'<div class="pictures">{"".join(images)}</div>'


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    words: bool = False,
    marked: Sequence[bool] = (),
) -> str:
    """A table. A cell's second line, after a line break, is set small. `words`: cells are text, not figures."""
    marks = list(marked)
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = ""
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row)
        kind = ' class="marked"' if marks and marks[number] else ""
        body += f"<tr{kind}>{cells}</tr>\n"
    kind = ' class="words"' if words else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table{kind}>{title}<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _cell(content: str) -> str:
    first, _, second = content.partition("\n")
    return escape(first) + (f"<small>{escape(second)}</small>" if second else "")
