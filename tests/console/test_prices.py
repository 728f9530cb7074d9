"""`ccproxy prices`: the list in force, and refreshing it from the library or its JSON data; never by halves."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from service.cli import main
from service.commands import price_source
from service.commands.price_source import as_toml, installed_prices, list_of
from service.ledger.events import TokenCounts
from service.ledger.price import cost_nusd
from service.ledger.price_list import ListFile, price_list
from service.settings import load
from service.settings.packaged import packaged_prices, read_prices

TODAY = date(2031, 2, 3)
TERMS = packaged_prices("price_terms.toml")
BUILT_IN = Path("service/ledger/prices.toml")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CCPROXY_HOME."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ccproxy(*arguments: str) -> Result:
    """The command `ccproxy prices`, run."""
    return CliRunner().invoke(main, ["prices", *arguments])


def model(name: str, prices: Any, **fields: Any) -> dict[str, Any]:
    """A model as the library's JSON data has it."""
    return {"id": name, "match": {"equals": name}, "prices": prices} | fields


def source(*models: dict[str, Any]) -> list[dict[str, Any]]:
    """Providers as the library's JSON data has them."""
    glm = model("glm-a", {"input_mtok": 1, "output_mtok": 1})
    return [{"id": "anthropic", "models": list(models)}, {"id": "zai", "models": [glm]}, {"id": "other", "models": []}]


def made(*models: dict[str, Any]) -> ListFile:
    """The list of these models."""
    return list_of(source(*models), TERMS, "9.9", ListFile(), TODAY)


def test_the_built_in_list_is_what_the_installed_library_says() -> None:
    """Whoever upgrades the library runs `make prices`: made again, it is the same, to the byte."""
    built_in = packaged_prices()
    again = list_of(installed_prices()[1], TERMS, installed_prices()[0], built_in, TODAY)
    assert as_toml(again) == BUILT_IN.read_text(encoding="utf-8"), "run `make prices`"
    assert again.made == built_in.made != TODAY


def test_the_librarys_own_batch_and_search_prices_are_the_terms() -> None:
    """Half of each price, and $10 per thousand searches: one factor stands for the tables that it keeps."""
    providers = {provider["id"]: provider for provider in installed_prices()[1]}
    terms = TERMS.providers["anthropic"]
    for one in providers["anthropic"]["models"]:
        prices = one["prices"] if isinstance(one["prices"], list) else [{"prices": one["prices"]}]
        newest = prices[-1]["prices"]
        assert newest.get("web_searches_kcount", terms.tools["web_search"]) == terms.tools["web_search"]
        for variant in one.get("price_variants", []):
            if variant["when"] == {"processing": "batch"}:
                halves = {kind: halved(newest[kind], terms.tiers["batch"]) for kind in variant["prices"]}
                assert variant["prices"] == halves, one["id"]


def halved(price: Any, factor: float) -> Any:
    """A price of the library times a factor."""
    if isinstance(price, dict):
        tiers = [tier | {"price": tier["price"] * factor} for tier in price["tiers"]]
        return {"base": price["base"] * factor, "tiers": tiers}
    return price * factor


def test_a_list_has_dates_long_prompts_fast_mode_and_other_names() -> None:
    """Everything that the library says of a model is read, and written so that it is read again."""
    tiered = {"base": 1, "tiers": [{"start": 100, "price": 2}, {"start": 1_000, "price": 5}]}
    old = {"prices": {"input_mtok": tiered, "output_mtok": 3, "cache_read_mtok": 0.5}}
    new = {"constraint": {"start_date": "2026-03-13"}, "prices": {"input_mtok": 7, "output_mtok": 8}}
    fast = {"when": {"speed": "fast"}, "prices": {"input_mtok": 14, "output_mtok": 16}}
    names = {"or": [{"equals": "claude-a-latest"}, {"starts_with": "claude-1-a"}, {"starts_with": "claude-a-2025"}]}
    listed = made(model("claude-a", [old, new], match=names, context_window=5_000, price_variants=[fast]))
    prices = price_list(listed, {}, {})
    before, after = 0, 1_800_000_000_000
    assert {"claude-a", "claude-1-a"} <= prices.models.keys()
    assert "claude-a-2025" not in prices.models
    assert prices.models["claude-1-a"].context_tokens == 5_000
    assert cost_nusd(TokenCounts(100, 1, 0), "claude-a", prices, at_ms=before) == 103_000
    assert cost_nusd(TokenCounts(101, 1, 2), "claude-a", prices, at_ms=before) == 206_000
    assert cost_nusd(TokenCounts(1_001), "claude-1-a", prices, at_ms=before) == 5_005_000
    assert cost_nusd(TokenCounts(1, 1, 1, 1, 1), "claude-a", prices, at_ms=after) == 36_000  # without a price: as input
    assert cost_nusd(TokenCounts(1, 1), "claude-a", prices, at_ms=after, speed="fast") == 30_000


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Every field of the built-in list."""
    file = tmp_path / "list.toml"
    file.write_text(as_toml(packaged_prices()), encoding="utf-8")
    assert read_prices(file) == packaged_prices()


def test_what_the_library_lacks_stands_beside_it() -> None:
    """Until it has it: then its price counts."""
    lacking = made(model("claude-a", {"input_mtok": 1, "output_mtok": 1}))
    assert lacking.providers["anthropic"].models["claude-mythos-5-1"].standard[0].input == 10
    known = made(model("claude-mythos-5-1", {"input_mtok": 1, "output_mtok": 1}))
    assert known.providers["anthropic"].models["claude-mythos-5-1"].standard[0].input == 1


@pytest.mark.parametrize(
    "prices",
    [
        {"input_mtok": "cheap", "output_mtok": 1},
        [{"constraint": {"start_time": "16:30:00"}, "prices": {"input_mtok": 1, "output_mtok": 1}}],
    ],
    ids=["no number", "a price by the time of day"],
)
def test_a_price_that_cant_be_read_is_named(prices: Any) -> None:
    """A part of a list is none."""
    with pytest.raises(price_source.PriceSourceError, match="anthropic: the price of claude-a can't be read"):
        made(model("claude-a", prices))


@pytest.mark.usefixtures("home")
def test_the_list_in_force_is_shown() -> None:
    """Its version, where it lies, and each model once."""
    shown = ccproxy("--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert (found["version"], found["list"]) == (packaged_prices().version, "built-in")
    models = {one["model"]: one for one in found["models"]}
    assert models["claude-opus-4-8"]["standard"] == {
        "input": 5, "output": 25, "cache_read": 0.5, "cache_write_5m": 6.25, "cache_write_1h": 10,
    }  # fmt: skip
    assert models["claude-opus-4-8"]["fast"]["output"] == 50
    assert models["claude-haiku-5-5"]["long_prompts_above_tokens"] == 100_000
    assert "claude-4-8-opus" in models["claude-opus-4-8"]["names"]
    page = ccproxy().output
    assert f"Version {packaged_prices().version}, built-in" in page
    assert page.count("claude-opus-4-8 ") == 1


def test_a_list_is_refreshed_from_a_file_and_holds_from_then_on(home: Path, tmp_path: Path) -> None:
    """In CCPROXY_HOME, for whatever starts there; what it was before is replaced as a whole."""
    file = tmp_path / "data.json"
    file.write_text(json.dumps(source(model("claude-new", {"input_mtok": 1, "output_mtok": 2}))), encoding="utf-8")
    updated = ccproxy("update", str(file), "--json")
    assert updated.exit_code == 0, updated.output
    version = json.loads(updated.output)["version"]
    prices = load(environ={"CCPROXY_HOME": str(home)}).prices
    assert prices.version == version != packaged_prices().version
    assert cost_nusd(TokenCounts(1, 1), "claude-new", prices) == 3_000
    assert "claude-opus-5" not in prices.models
    assert json.loads(ccproxy("--json").output)["list"] == str(home / "prices.toml")
    again = ccproxy("update", str(file), "--json")
    assert json.loads(again.output)["version"] == version, "the same prices are the same version"


def test_a_list_with_an_endless_version_is_refused(home: Path, tmp_path: Path) -> None:
    """It would go into every event."""
    file = tmp_path / "list.toml"
    for length, code in ((64, 0), (65, 1)):
        file.write_text(as_toml(replace(packaged_prices(), version="v" * length)), encoding="utf-8")
        assert ccproxy("update", str(file)).exit_code == code
    assert len(read_prices(home / "prices.toml").version) == 64


def test_the_installed_library_is_the_source_without_a_file(home: Path) -> None:
    """The network is asked by nobody."""
    assert ccproxy("update").exit_code == 0
    assert load(environ={"CCPROXY_HOME": str(home)}).prices.models == load(environ={}).prices.models


def test_the_network_is_asked_only_with_the_option(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then by the library."""
    fetched = source(model("claude-fetched", {"input_mtok": 1, "output_mtok": 2}))
    monkeypatch.setattr("service.commands.prices.fetched_prices", lambda: ("1.2.3", fetched))
    assert ccproxy("update").exit_code == 0
    assert "claude-fetched" not in load(environ={"CCPROXY_HOME": str(home)}).prices.models
    assert ccproxy("update", "--from-network").exit_code == 0
    prices = load(environ={"CCPROXY_HOME": str(home)}).prices
    assert "claude-fetched" in prices.models
    assert prices.version.startswith("1.2.3-")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "data.json"),
        ('{"a": 1}', "not a list of providers"),
        ("[]", "no prices of anthropic, zai"),
        (json.dumps(source()), "no prices of anthropic"),
        ("[" * 100_000, "data.json"),
        ("[1]", "not what the JSON data of genai-prices are"),
        (json.dumps(source({"id": "claude-a", "prices": 7})), "the price of claude-a can't be read"),
        (json.dumps(source(model("claude-a", {"input_mtok": 1, "output_mtok": 1}, match=7))), "can't be read"),
        (json.dumps(source(model("claude-a", {"input_mtok": 1, "output_mtok": 1}, context_window=1e999))), "claude-a"),
    ],
    ids=[
        "no JSON",
        "something else",
        "nothing",
        "no models",
        "too deep",
        "no objects",
        "no prices",
        "no names",
        "no window",
    ],
)
def test_a_bad_file_changes_nothing(home: Path, tmp_path: Path, content: str, words: str) -> None:
    """The list in force stays."""
    file = tmp_path / "data.json"
    file.write_text(content, encoding="utf-8")
    updated = ccproxy("update", str(file))
    assert updated.exit_code == 1
    assert words in updated.output
    assert "nothing was changed" in updated.output
    assert not (home / "prices.toml").exists()


@pytest.mark.parametrize(
    "sold",
    [
        model("claude-a", {"input_mtok": -1, "output_mtok": 1}),
        model("claude-a", {"input_mtok": float("nan"), "output_mtok": 1}),
        model("claude-a", {"input_mtok": float("inf"), "output_mtok": 1}),
        model('claude-a"]\n[providers.anthropic.models."claude-opus-5', {"input_mtok": 0, "output_mtok": 0}),
    ],
    ids=["less than nothing", "no number", "endless", "a name that is TOML"],
)
def test_a_list_that_no_proxy_could_read_is_not_written(home: Path, tmp_path: Path, sold: dict[str, Any]) -> None:
    """Or would read as another one: a proxy with a broken list does not start."""
    file = tmp_path / "data.json"
    file.write_text(json.dumps(source(sold)), encoding="utf-8")
    updated = ccproxy("update", str(file))
    assert updated.exit_code == 1
    assert "nothing was changed" in updated.output
    assert "Traceback" not in updated.output
    assert not (home / "prices.toml").exists()


def test_a_price_is_written_to_its_last_digit(tmp_path: Path) -> None:
    """A model may cost less than a millionth of a dollar, and some cents."""
    file = tmp_path / "list.toml"
    file.write_text(as_toml(made(model("claude-a", {"input_mtok": 12.3456789, "output_mtok": 1}))), encoding="utf-8")
    assert read_prices(file).providers["anthropic"].models["claude-a"].standard[0].input == 12.3456789


@pytest.mark.usefixtures("home")
def test_without_the_library_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no part of an installation."""
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    updated = ccproxy("update")
    assert updated.exit_code == 1
    assert "pip install genai-prices" in updated.output


def test_an_older_list_at_home_steps_aside(home: Path) -> None:
    """After an upgrade the built-in one is newer; one that the settings name counts in any case."""
    home.mkdir()
    old = home / "prices.toml"
    old.write_text(as_toml(ListFile(version="old", made=date(2020, 1, 1))), encoding="utf-8")
    assert load(environ={"CCPROXY_HOME": str(home)}).prices.version == packaged_prices().version
    chosen = load(environ={"CCPROXY_HOME": str(home), "CCPROXY_PRICES": str(old)}).prices
    assert (chosen.version, chosen.models) == ("old", {})
