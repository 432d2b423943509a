"""The page at `/docs`: the OpenAPI document for people, without scripts or other hosts."""

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from danqing.service.http.gate import anyone

router = APIRouter(include_in_schema=False, dependencies=[Depends(anyone)])

Schema = Mapping[str, Any]
_ENDLESS = 2**53

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#e2dacd, #33353c); --soft: light-dark(#655f58, #a8a198);
  --accent: light-dark(#9c2d1b, #f59480); }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem 5rem; line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", sans-serif;
  background: light-dark(#faf7f2, #15161a); color: light-dark(#1d1b19, #ece8e1); }
h1, h2, h3 { font-family: ui-serif, Georgia, serif; line-height: 1.25; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
h2 code { font-size: .95em; overflow-wrap: anywhere; }
h2 .verb { color: var(--accent); }
h3 { font-size: 1rem; margin-bottom: .4rem; }
a { color: inherit; }
nav { columns: 20rem; } nav a { display: block; padding: .2rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .9em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem 1rem .4rem 0; }
tr { border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td:first-child { white-space: nowrap; }
.soft { color: var(--soft); }
"""


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return a page with every route, its fields and answers."""
    page, policy = _page(request.app)
    return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy})


@functools.lru_cache(maxsize=1)
def _page(app: FastAPI) -> tuple[bytes, str]:
    """Return the page, and a policy that allows only its style, by its hash."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return "\n".join(_lines(app.openapi())).encode(), policy


def _lines(document: Schema) -> Iterator[str]:
    info = document["info"]
    routes = [
        (method, path, route)
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{_text(info['title'])} API</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{_text(info['title'])} API <span class='soft'>{_text(info['version'])}</span></h1>"
    yield f"<p>{_prose(info['description'])}</p>"
    yield (
        "<p>Where the service has keys, send one as <code>Authorization: Bearer KEY</code>. The same as an "
        "OpenAPI document: <a href='openapi.json'>/openapi.json</a>. <a href='./'>To the start page.</a></p>"
    )
    yield "<nav>"
    for method, path, _ in routes:
        yield f"<a href='#{_anchor(method, path)}'><code>{method.upper()} {_text(path)}</code></a>"
    yield "</nav>"
    for method, path, route in routes:
        yield from _route(method, path, route)
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        yield f"<h2 id='{_text(name)}'>{_text(name)}</h2><p>{_prose(schema.get('description', ''))}</p>"
        yield from _fields(schema)
    yield "</body></html>"


def _route(method: str, path: str, route: Schema) -> Iterator[str]:
    name = f"<code><span class='verb'>{method.upper()}</span> {_text(path)}</code>"
    yield f"<h2 id='{_anchor(method, path)}'>{name}</h2>"
    for paragraph in route.get("description", "").split("\n\n"):
        yield f"<p>{_prose(paragraph)}</p>"
    if parameters := route.get("parameters"):
        yield "<h3>Parameters</h3>"
        schema = {
            "properties": {
                f"{one['name']} ({one['in']})": {**one["schema"], "description": one.get("description", "")}
                for one in parameters
            },
            "required": [f"{one['name']} ({one['in']})" for one in parameters if one.get("required")],
        }
        yield from _fields(schema)
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body: {_text(kind)}</h3>"
        yield from _fields(content["schema"])
    yield "<h3>Answers</h3><div class='wide'><table>"
    for status, answer in route["responses"].items():
        kinds = [
            f"<code>{_text(kind)}</code> {_type(content['schema']) if content.get('schema') else ''}"
            for kind, content in answer.get("content", {}).items()
        ]
        text = " ".join(filter(None, [_prose(answer["description"]), "<br>".join(kinds)]))
        yield f"<tr><td><code>{_text(status)}</code></td><td>{text}</td></tr>"
    yield "</table></div>"


def _fields(schema: Schema) -> Iterator[str]:
    """Yield a table of the fields of an object."""
    required = set(schema.get("required", ()))
    yield "<div class='wide'><table><tr><th>Field</th><th>Kind</th><th></th></tr>"
    fields = schema.get("properties", {})
    for name, field in sorted(fields.items(), key=lambda item: item[0] not in required):
        mark = " <span class='soft'>required</span>" if name in required else ""
        yield f"<tr><td><code>{_text(name)}</code>{mark}</td><td>{_type(field)}</td>"
        yield f"<td>{_prose(field.get('description', ''))}</td></tr>"
    yield "</table></div>"


def _type(schema: Schema) -> str:
    """Describe the type of a value in a few words."""
    if reference := schema.get("$ref"):
        name = _text(reference.rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if choices := schema.get("anyOf"):
        return " or ".join(_type(one) for one in choices if one.get("type") != "null")
    if choices := schema.get("enum"):
        return ", ".join(f"<code>{_text(one)}</code>" for one in choices)
    if "const" in schema:
        return f"<code>{_text(json.dumps(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and (fields := schema.get("properties")):
        return "object with " + ", ".join(f"<code>{_text(name)}</code>" for name in fields)
    kind = "file" if schema.get("format") == "binary" else schema.get("type", "any")
    limits = [("minimum", "from"), ("maximum", "to"), ("maxLength", "of at most")]
    text = [
        f"{word} {schema[limit]:g}" for limit, word in limits if abs(schema.get(limit, _ENDLESS)) < _ENDLESS
    ]
    return _text(" ".join([kind, *text]))


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method}{path}".lower()).strip("-")


def _text(value: Any) -> str:
    return html.escape(str(value))


def _prose(text: str) -> str:
    """Escape a text, and mark `words` between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
