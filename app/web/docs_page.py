"""The OpenAPI document as a page: all of it comes from this service, nothing from elsewhere."""

# Built from strings, each value escaped: a template engine would be a dependency of the serving
# image for this one page.

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f4f4f4; padding: .75rem; overflow: auto; max-height: 24rem }
td { padding-right: 1rem; vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { background: #111; color: #ddd }
  pre { background: #222 }
}
"""


def page(document: Mapping[str, Any]) -> str:
    """Show every operation of an OpenAPI document with its examples, and the schemas they name."""
    info = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>',
            f"<style>{STYLE}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f"<p>{escape(info.get('description', ''))}",
            'For programs: <a href="openapi.json">openapi.json</a>.</p>',
            *_operations(document["paths"]),
            "<h2>Schemas</h2>",
            *(_schema(name, schema) for name, schema in sorted(schemas.items())),
            "</html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None:
                yield f"<p>Takes {_named(body)}</p>"
                yield _example(body)
            yield "<table>"
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json", {})
                told = f"{escape(answer['description'])} {_named(content)}"
                yield f"<tr><td>{escape(status)}<td>{told}{_example(content)}"
            yield "</table>"


def _named(content: Mapping[str, Any]) -> str:
    """A link to the schema of a body, if it has a name."""
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else ""


def _example(content: Mapping[str, Any]) -> str:
    example = content.get("example")
    return "" if example is None else f"<pre>{_json(example)}</pre>"


def _schema(name: str, schema: Any) -> str:
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><pre>{_json(schema)}</pre>'


def _json(value: Any) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))
