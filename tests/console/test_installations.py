"""What `ccproxy check` says of broken installations, and of unusual ones in which all is right."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli import main
from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from service.redis_client import probe
from tests.support.installation_cases import BROKEN, UNUSUAL, Case, World


@pytest.fixture
def world(valkey: Valkey, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The servers; nothing waits for long, and the machine's own proxies are none."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 1.0)
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("SSL_CERT")]:
        monkeypatch.delenv(name)
    with ExitStack() as stack:
        yield World(valkey, postgres, tmp_path, stack)


def check(case: Case, world: World, *options: str) -> Result:
    """The check of an installation."""
    return CliRunner().invoke(main, ("check", *options), env=case.variables(world) | {"NO_COLOR": "1"})


@pytest.mark.parametrize("case", BROKEN, ids=[case.name for case in BROKEN])
def test_what_is_broken_is_said(world: World, case: Case) -> None:
    """Exit code 1, and one line that names the thing and its mend; nothing else is found wrong. Where settings can't be
    read, that line is all."""
    result = check(case, world)
    assert result.exit_code == 1, result.output
    assert case.words in " ".join(result.output.split())
    wrong = [line for line in result.output.splitlines() if line.startswith("✗")]
    if not case.what:
        assert (wrong, len(result.output.splitlines())) == ([], 1), result.output
    for what in filter(None, case.what.split(",")):
        assert any(line.startswith(f"✗ {what} ") for line in wrong), (what, wrong)
        wrong = [line for line in wrong if not line.startswith(f"✗ {what} ")]
    assert wrong == []
    assert "pass-of-user" not in result.output


@pytest.mark.parametrize("case", UNUSUAL, ids=[case.name for case in UNUSUAL])
def test_what_is_unusual_and_right_is_green(world: World, case: Case) -> None:
    """Exit code 0, and nothing is found wrong; a note is no fault."""
    result = check(case, world, "--json")
    findings = json.loads(result.stdout)
    assert [finding for finding in findings if finding["ok"] is False] == []
    assert result.exit_code == 0
