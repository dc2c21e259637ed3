"""What "About" says: model card, licence, citation, and how to call the page from a program, as Markdown. No Gradio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

CITATION = Path(__file__).resolve().parents[2] / "CITATION.cff"

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", flags=re.DOTALL)
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)|<img\b[^>]*>")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://)[^)]*\)")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")

_PROGRAMS = """
```
curl -F file=@chest.png '{address}/v1/segment?masks=png'
```

```python
import httpx
from pathlib import Path

chest = {{"file": Path("chest.png").read_bytes()}}
answer = httpx.post("{address}/v1/segment", files=chest, timeout=60)
print(answer.raise_for_status().json()["infected_share"])
```

```python
from gradio_client import Client, handle_file

client = Client("{address}", verbose=False)
shown = client.predict(handle_file("chest.png"), "auto", api_name="/segment")
print(shown["record"]["infected_share"])
```

Where the page asks for a password, give the same one: `curl --user user:password`, and `auth=("user", "password")` for
`httpx.post` and `Client`. [{address}/v1/]({address}/v1/) documents REST, and
[openapi.json]({address}/v1/openapi.json) describes it for generators.
"""


def card(weights: Path | None) -> list[tuple[str, str]]:
    """(heading, Markdown) of each section of the model card beside a weights file; the first one's heading is "".

    Without a card that names the file there is one section that says so. Pictures are left out, and links to other
    files are text: neither is served.
    """
    found = weights.with_name("README.md") if weights else None
    text = _read(found)
    if weights is None or weights.name not in text:
        return [("", f"There is no model card for {f'`{weights.name}`' if weights else 'this model'}.")]
    sections = _sections(_FRONT_MATTER.sub("", text))
    licence = _read(weights.with_name("LICENSE.md"))
    return (
        [*sections, ("Licence of the weights", _sections(licence)[0][1].partition("\n")[2].strip())]
        if licence
        else sections
    )


def citation(path: Path = CITATION) -> str:
    """How to cite, from a CITATION.cff: a sentence, and the paper it names as BibTeX."""
    import yaml

    text = _read(path)
    if not text:
        return "There is no CITATION.cff beside this program."
    facts = yaml.safe_load(text)
    paper = facts["references"][0]
    fields = {
        "title": f"{{{paper['title']}}}",
        "author": f"{{{' and '.join(one['name'] for one in paper['authors'])}}}",
        "booktitle": paper["collection-title"],
        "year": paper["year"],
        "doi": paper["doi"],
    }
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    software = f"{facts['title']}, version {facts['version']}, {str(facts['date-released'])[:4]}"
    return f"{facts['message']}\n\nThe software: {software}.\n\n```\n@inproceedings{{sgmsnet,\n{lines}}}\n```\n"


def programs(address: str) -> str:
    """Calls with curl, httpx and gradio_client of the page at an address, as in http://127.0.0.1:7860."""
    return _PROGRAMS.format(address=address.rstrip("/"))


def origin(headers: Mapping[str, str], scheme: str) -> str | None:
    """The address by which a request reached the page, proxies considered; None where it is no plain one.

    It is shown to whoever sent the request, so nothing but names, numbers and a port is let through.
    """
    host = headers.get("x-forwarded-host", "").split(",")[0].strip() or headers.get("host", "")
    sent = headers.get("x-forwarded-proto", "").split(",")[0].strip() or scheme
    return f"{sent}://{host}" if _HOST.fullmatch(host) and sent in ("http", "https") else None


def kept(minutes: float) -> str:
    """A time that uploads are kept, in words: "an hour", "10 minutes"."""
    if minutes < 1:
        return f"{minutes * 60:g} seconds"
    if minutes % 60:
        return f"{minutes:g} minutes" if minutes != 1 else "a minute"
    return f"{minutes / 60:g} hours" if minutes > 60 else "an hour"


def _read(path: Path | None) -> str:
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""


def _sections(text: str) -> list[tuple[str, str]]:
    first, *rest = re.split(r"^## ", _LINK.sub(r"\1", _PICTURE.sub("", text)), flags=re.MULTILINE)
    parts = [("", re.sub(r"\A\s*# (.*)", r"**\1**", first)), *(part.split("\n", 1) for part in rest)]
    return [(heading.strip(), body.strip()) for heading, body in parts]
