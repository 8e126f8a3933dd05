"""Verbs that work on the service's database: keys, tenants, database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import main
from luthier.core.errors import SpecError
from luthier.store.upgrade import heads


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.delenv("LUTHIER_DATABASE", raising=False)
    return tmp_path


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a verb answers, as JSON."""

    def run(*arguments: str) -> dict[str, Any]:
        assert main.dispatch([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return run


def test_a_key_is_made_shown_once_and_revoked(tell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = tell("keys", "create", "mine", "--scope", "file.*", "--limit", "concurrent=2", "--days", "3")
    assert made["secret"].startswith("lk-") and made["limits"] == {"concurrent": 2}
    assert made["expires_at"] - made["created_at"] == pytest.approx(3 * 86_400)
    assert main.dispatch(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert made["id"] in shown and made["prefix"] in shown and made["secret"] not in shown
    assert tell("keys", "revoke", made["prefix"])["revoked_at"] is not None
    assert [key["id"] for key in tell("keys", "list")["keys"]] == [made["id"]]
    assert main.dispatch(["keys", "list"]) == 0 and "revoked" in capsys.readouterr().out


def test_a_limit_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="say it as requests_per_minute=60"):
        main.dispatch(["keys", "create", "mine", "--limit", "many"])


def test_tenants_are_made_and_shown(tell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tell("tenants", "organisation", "luthiers")
    room = tell("tenants", "project", "violins", "--organisation", "luthiers")
    ann = tell("tenants", "user", "ann", "--organisation", "luthiers", "--project", "violins", "--role", "admin")
    assert tell("keys", "create", "hers", "--user", "ann", "--organisation", "luthiers", "--project", "violins")["user_id"] == ann["id"]
    tell("tenants", "user", ann["id"], "--organisation", "luthiers", "--role", "viewer")
    content = tell("tenants", "list")
    assert [one["name"] for one in content["organisations"]] == ["default", "luthiers"]
    assert sorted((one["role"], one["project_id"]) for one in content["memberships"] if one["user_id"] == ann["id"]) == [
        ("admin", room["id"]),
        ("viewer", ""),
    ]
    tell("tenants", "user", "ann", "--organisation", "luthiers", "--role", "none")
    tell("tenants", "project", "violins", "--organisation", "luthiers", "--archive")
    assert main.dispatch(["tenants", "list"]) == 0
    shown = capsys.readouterr().out
    assert "archived" in shown and "viewer" not in shown and "ann" in shown


def test_the_database_is_looked_at_without_being_made(tell: Any, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tell("database") == {"place": str(home / "luthier.db"), "tables": "", "wanted": heads(), "bytes": 0}
    assert not (home / "luthier.db").exists()
    assert main.dispatch(["database"]) == 0 and "none yet" in capsys.readouterr().out
    assert tell("database", "upgrade")["tables"] == heads()
    assert main.dispatch(["database"]) == 0 and f"at step {heads()}, as this version wants them" in capsys.readouterr().out


def test_the_database_is_that_of_the_option_then_of_the_variable(tell: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_DATABASE", f"sqlite:///{home}/variable.db")
    assert tell("database")["place"] == f"{home}/variable.db"
    assert tell("database", "--database", f"sqlite:///{home}/option.db")["place"] == f"{home}/option.db"


@pytest.mark.parametrize("name", ["saved", "saved.tar"])
def test_everything_is_saved_and_put_back(name: str, tell: Any, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tell("keys", "create", "mine")
    (home / "runs" / "run-1").mkdir(parents=True)
    (home / "runs" / "run-1" / "spec.yaml").write_text("model: x")
    saved = tell("backup", str(home / name))
    assert saved["rows"]["keys"] == 1 and saved["bytes"] > 0
    with pytest.raises(SpecError, match="The database has rows"):
        main.dispatch(["restore", str(home / name)])
    for file in home.glob("luthier.db*"):
        file.unlink()
    (home / "runs" / "run-1" / "spec.yaml").unlink()
    (home / "runs" / "run-1").rmdir()
    assert tell("restore", str(home / name), "--blobs", str(home / "other"))["database"] == str(home / "luthier.db")
    assert (home / "runs" / "run-1" / "spec.yaml").read_text() == "model: x"
    assert [key["id"] for key in tell("keys", "list")["keys"]] == [made["id"]]
    assert main.dispatch(["backup", str(home / "again")]) == 0 and "rows" in capsys.readouterr().out
