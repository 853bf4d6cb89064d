"""The reference page and the editor schema are written from the models that read the file."""

from pathlib import Path

from doorward.config.schema import json_schema, reference_markdown

ROOT = Path(__file__).resolve().parents[4]


def test_the_reference_page_is_current():
    """Run `python -m doorward.config.schema > docs/configuration.md` when this fails."""
    assert (ROOT / "docs" / "configuration.md").read_text() == reference_markdown()


def test_every_key_has_a_meaning():
    assert "| None |" not in reference_markdown()


def test_the_schema_spells_out_routes():
    schema = json_schema()
    route = schema["$defs"]["RouteDocument"]
    assert {"from", "to", "policy"} <= set(route["required"])
    assert route["additionalProperties"] is False
