"""A configuration as a folder, and one that is read in a process of its own."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.unit.doorward.config.test_reload import replace

from doorward.config import apart
from doorward.config.apart import ConfigurationReader
from doorward.config.load import load, load_plane_addresses, load_settings
from doorward.config.references import SecretReader, no_secret, read_secret
from doorward.config.reload import watch_settings
from doorward.config.settings import Loaded, Settings
from doorward.errors import ConfigurationError

MAIN = """\
version: 1
authenticate_url: https://sign-in.example.com
planes: {databroker: ["10.0.0.1:7701"]}
identity_providers:
  - {id: corp, issuer: "https://idp.example.com", client_id: c, client_secret: "file:secret"}
routes:
  - {name: main, from: "https://main.example.com", to: "http://127.0.0.1:1", policy: [{allow: {or: [accept: true]}}]}
"""
ROUTE = '- {{name: {0}, from: "https://{0}.example.com", to: "http://127.0.0.1:1", policy: [{{allow: {{or: [accept: true]}}}}]}}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doorward.yaml").write_text(MAIN)
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "routes.d").mkdir()
    (tmp_path / "routes.d" / "20-b.yaml").write_text("routes:\n" + ROUTE.format("b"))
    (tmp_path / "routes.d" / "10-a.yaml").write_text(ROUTE.format("a1") + ROUTE.format("a2"))
    (tmp_path / "routes.d" / "ignored.txt").write_text("{")
    return tmp_path


async def read_apart(folder: Path, secrets: SecretReader = read_secret) -> Loaded:
    reader = ConfigurationReader(folder, secrets=secrets)
    try:
        return await reader.load()
    finally:
        await reader.close()


def names(settings: Settings) -> list[str]:
    return [item.route.name for item in settings.routes]


def test_routes_of_a_folder_stand_in_the_order_of_their_files(folder: Path):
    assert names(load_settings(folder)) == ["main", "a1", "a2", "b"]
    assert names(load_settings(folder / "doorward.yaml")) == ["main"]
    assert load_plane_addresses(folder).databroker[0].port == 7701


def test_the_generation_follows_every_file(folder: Path):
    first = load_settings(folder).generation
    (folder / "routes.d" / "30-c.yaml").write_text(ROUTE.format("c"))
    second = load_settings(folder).generation
    (folder / "routes.d" / "30-c.yaml").rename(folder / "routes.d" / "15-c.yaml")
    third = load_settings(folder).generation
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("routes: 7\n", "expected a list of routes"),
        ("version: 1\nroutes: []\n", "expected a list of routes"),
        ("{", "10-a.yaml"),
        ("\x00", "10-a.yaml"),
        ("", "expected a list of routes"),
        (ROUTE.format("b"), "matches exactly what `b` ("),
        (ROUTE.format("b").replace("b.example", "x.example"), "two routes are named `b`"),
    ],
)
def test_what_is_wrong_in_one_file_names_that_file(folder: Path, text: str, said: str):
    (folder / "routes.d" / "10-a.yaml").write_text(text)
    loaded = load(folder)
    rendered = "\n".join(problem.render() for problem in loaded.problems)
    assert said in rendered
    assert loaded.settings is None or "matches exactly" in said


@pytest.mark.parametrize("name", ["30-c.yml", "30-c.YAML", "30-c.Yml", ".yml"])
def test_a_file_that_looks_like_routes_and_is_not_read_is_an_error(folder: Path, name: str):
    """Its requests would go to a broader route, and nobody would be told."""
    (folder / "routes.d" / name).write_text(ROUTE.format("c"))
    loaded = load(folder)
    assert loaded.settings is None
    assert [problem.render() for problem in loaded.problems] == [
        f"{folder}/routes.d/{name}:1:1: error: is not read (its name has to end with `.yaml`)"
    ]


def test_a_file_whose_name_is_nothing_but_the_ending_is_read_as_well(folder: Path):
    (folder / "routes.d" / ".yaml").write_text(ROUTE.format("c"))
    settings = load(folder).settings
    assert settings is not None
    assert "c.example.com" in settings.hosts


@pytest.mark.parametrize("fault", ["a file", "leads nowhere", "forbidden"])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str):
    routes = folder / "routes.d"
    match fault:
        case "a file":
            routes.rename(folder / "elsewhere")
            routes.write_text("")
        case "leads nowhere":
            routes.rename(folder / "elsewhere")
            routes.symlink_to(folder / "nothing")
        case _:  # who runs tests may read everything

            def forbidden(path: Path) -> None:
                raise PermissionError(13, "Permission denied", str(path))

            monkeypatch.setattr(Path, "iterdir", forbidden)
    loaded = load(folder)
    assert loaded.settings is None
    assert len(loaded.problems) == 1
    assert f"{routes}:1:1: error: cannot be read" in loaded.problems[0].render()


def test_a_match_in_two_files_is_answered_by_neither_and_both_are_named(folder: Path):
    """Whoever can write one file must not open what another file has closed, whatever the files are called."""
    open_route, closed = ROUTE.format("b"), ROUTE.format("b").replace("accept: true", "groups: {has: staff}")
    for first, second in ((open_route, closed), (closed, open_route)):
        (folder / "routes.d" / "10-a.yaml").write_text(first)
        (folder / "routes.d" / "20-b.yaml").write_text(second)
        loaded = load(folder)
        assert loaded.settings is not None
        assert {item.route.name: item.route.broken is None for item in loaded.settings.routes} == {
            "main": True,
            "b": False,
        }
        for name in ("10-a.yaml:1:3", "20-b.yaml:1:3"):
            assert any(problem.position.file.endswith(name.split(":")[0]) for problem in loaded.problems)
            assert sum(name in problem.render() for problem in loaded.problems) == 2


async def test_reading_apart_comes_to_the_same(folder: Path):
    (folder / "routes.d" / "40-many.yaml").write_text("".join(ROUTE.format(f"n{number}") for number in range(45)))
    here, there = load(folder), await read_apart(folder)
    assert there == here
    assert there.settings is not None
    assert there.settings.identity_providers[0].client_secret.reveal() == "s3cret"
    without = (await read_apart(folder, no_secret)).settings
    assert without.identity_providers[0].client_secret.reveal() != "s3cret"
    assert without.generation == here.settings.generation if here.settings else False


async def test_what_cannot_be_read_apart_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "doorward.yaml").write_text("version: 9\n")
    with pytest.raises(ConfigurationError, match="version"):
        await ConfigurationReader(folder).settings()
    (folder / "doorward.yaml").write_text("{")
    with pytest.raises(ConfigurationError, match=r"doorward\.yaml"):
        await read_apart(folder)
    program = folder / "python"
    program.write_text("#!/bin/sh\nprintf '\\0\\0\\0\\011garbage'\n")
    program.chmod(0o700)
    monkeypatch.setattr(apart.sys, "executable", str(program))
    with pytest.raises(ConfigurationError, match="ended without an answer"):
        await read_apart(folder)
    assert sys.executable == str(program)


async def test_a_file_that_appears_changes_and_goes_is_noticed(folder: Path):
    changes: asyncio.Queue[Settings] = asyncio.Queue()

    async def on_change(settings: Settings) -> None:
        changes.put_nowait(settings)

    task = asyncio.create_task(watch_settings(ConfigurationReader(folder), load_settings(folder), on_change))
    try:
        (folder / "routes.d" / "30-c.yaml").write_text(ROUTE.format("c"))
        assert "c" in names(await asyncio.wait_for(changes.get(), 20))
        replace(folder / "routes.d" / "30-c.yaml", ROUTE.format("d"))
        assert "d" in names(await asyncio.wait_for(changes.get(), 20))
        (folder / "routes.d" / "30-c.yaml").unlink()
        assert names(await asyncio.wait_for(changes.get(), 20)) == ["main", "a1", "a2", "b"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
