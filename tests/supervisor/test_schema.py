"""The table of keys: found by path, with marks that hold for all below."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from modelproxy.supervisor import schema
from modelproxy.supervisor.values import Field, Section, TableOf, Value


def fields(value: Value, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Field]]:
    """Every key there is; NAME stands for what an author chooses."""
    if isinstance(value, Section):
        for name, field in value.fields.items():
            yield (*path, name), field
            yield from fields(field.value, (*path, name))
    elif isinstance(value, TableOf):
        yield from fields(value.kind, (*path, "NAME"))


ALL = dict(fields(schema.ROOT))


@pytest.mark.parametrize("path", ALL, ids=".".join)
def test_every_key_is_found_by_its_path_and_explained(path: tuple[str, ...]) -> None:
    field = schema.at(path)

    assert field is ALL[path]
    assert field.doc
    assert field.project in ("free", "trusted", "never")


def test_what_is_not_there_is_not_found() -> None:
    assert schema.at(("nonsense",)) is None
    assert schema.at(("providers", "x", "nonsense")) is None
    assert schema.at(("default_port", "deeper")) is None


def test_below_a_secret_everything_is_secret() -> None:
    assert schema.is_secret(("providers", "x", "api_key"))
    assert schema.is_secret(("providers", "x", "headers", "authorization"))
    assert not schema.is_secret(("providers", "x", "api_key_env"))


def test_where_keys_and_prompts_go_is_not_for_projects() -> None:
    """Architecture 9: keys, base_url, fallback targets, commands, providers."""
    guarded = {".".join(path) for path, field in ALL.items() if field.project != "free"}

    assert {"providers", "proxies.NAME.fallback", "remotes", "front"} <= guarded
    assert all(
        f"providers.NAME.{key}" in guarded
        for key in (
            "api_key",
            "api_key_env",
            "api_key_file",
            "api_key_command",
            "pdf_to_text",
            "fetch_images",
        )
    )


def test_the_json_schema_is_one_and_names_every_key() -> None:
    """S14: editors see kind, where the key comes from, base_url, timeouts and headers of a provider."""
    document = json.loads(json.dumps(schema.json_schema()))
    provider = document["properties"]["providers"]["additionalProperties"]

    assert document["$schema"].startswith("https://json-schema.org/")
    assert document["additionalProperties"] is provider["additionalProperties"] is False
    assert set(provider["properties"]) == set(schema.PROVIDER.fields)
    assert all(one["description"] for one in provider["properties"].values())


def test_paths_are_written_as_one_would_type_them() -> None:
    assert schema.dotted(("aliases", "claude-haiku-*")) == 'aliases."claude-haiku-*"'
    assert schema.dotted(("front", "default", "rules", 0, "to")) == "front.default.rules.0.to"


def test_the_table_of_a_provider() -> None:
    names = ("ollama", "remote/office", "remote")

    assert [schema.provider_path(name) for name in names] == [
        ("providers", "ollama"),
        ("remotes", "office"),
        ("providers", "remote"),
    ]
