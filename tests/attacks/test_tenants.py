"""What is in one project is not there for another: every path with an id is asked with the ids of somebody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from attacks.conftest import refused
from luthier.security import keys, tenants
from luthier.security.roles import Role
from luthier.store import ids
from luthier.store.audit import LOCAL
from luthier.store.tables.chats import StoredCompletion
from luthier.store.tables.operation import Audit, Webhook
from server.live import Live
from server.rows import actor, finish
from server.test_files import ROWS

BODIES: dict[str, Any] = {
    "/v1/models/{model}": {"pinned": True},
    "/v1/uploads/{upload_id}/complete": {"part_ids": []},
    "/v1/chat/completions/{completion_id}": {"metadata": {}},
    "/v1/webhook_endpoints/{webhook_id}": {"name": "x"},
    "/v1/webhook_endpoints/{webhook_id}/rotate_secret": {},
    "/v1/webhook_endpoints/{webhook_id}/test": {"event_type": "batch.failed"},
    "/v1/fine_tuning/checkpoints/{model}/permissions": {"project_ids": ["proj_x"]},
}


@pytest.fixture(scope="module")
def theirs(live: Live) -> dict[str, str]:
    """Something of each kind in the first project, by the name of the path's parameter."""
    with live.http() as http:
        file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", ROWS)}).json()["id"]
        lines = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("b.jsonl", b"{}")}).json()["id"]
        upload = http.post("/v1/uploads", json={"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "x"}).json()["id"]
        job = http.post("/v1/fine_tuning/jobs", json={"model": "luthier-mini", "training_file": file}).json()["id"]
        asked = {"input_file_id": lines, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=asked).json()["id"]
        model = finish(live, job)
        project = actor(live).project_id
        other = http.post(f"/v1/fine_tuning/checkpoints/{model}/permissions", json={"project_ids": [project]}).json()["data"][0]["id"]
    with live.service.database.write() as session:
        chat = StoredCompletion(id=ids.new("chatcmpl-"), project_id=project, model="m", request={"messages": []}, answer={})
        hook = Webhook(id=ids.new("whe_"), project_id=project, name="x", url="https://example.com", secret="whsec_AAAA", events=[])
        session.add_all([chat, hook])
    return {
        "file_id": file,
        "upload_id": upload,
        "job_id": job,
        "batch_id": batch,
        "model": model,
        "permission_id": other,
        "completion_id": chat.id,
        "webhook_id": hook.id,
    }


@pytest.fixture(scope="module")
def stranger(live: Live) -> Iterator[httpx2.Client]:
    """Somebody who owns another organisation."""
    with live.service.database.write() as session:
        home = tenants.create_organisation(session, LOCAL, "strangers")
        room = tenants.create_project(session, LOCAL, home.id, "theirs")
        user = tenants.create_user(session, LOCAL, "stranger")
        tenants.set_role(session, LOCAL, user.id, home.id, Role.owner)
        secret = keys.create(session, LOCAL, user_id=user.id, project_id=room.id, name="stranger").secret
    with live.http(secret) as plain:
        yield plain


def test_what_is_theirs_is_not_there(live: Live, stranger: httpx2.Client, theirs: dict[str, str]) -> None:
    asked = 0
    for path, methods in live.app.openapi()["paths"].items():
        if "{" not in path:
            continue
        place = re.sub(r"\{(\w+)\}", lambda name: theirs[name.group(1)], path)
        for method in methods:
            body = {"json": BODIES[path]} if method == "post" and path in BODIES else {}
            if path.endswith("/parts"):
                body = {"files": {"data": ("a", b"x")}}
            error = refused(stranger.request(method.upper(), place, **body), 404)
            assert error["code"] != "unknown_url"
            asked += 1
    assert asked >= 25


def test_their_ids_are_not_taken_in_bodies(stranger: httpx2.Client, theirs: dict[str, str]) -> None:
    job = {"model": "luthier-mini", "training_file": theirs["file_id"]}
    assert refused(stranger.post("/v1/fine_tuning/jobs", json=job), 404)["param"] == "training_file"
    assert refused(stranger.post("/v1/fine_tuning/jobs/forecast", json=job), 404)["param"] == "training_file"
    batch = {"input_file_id": theirs["file_id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert refused(stranger.post("/v1/batches", json=batch), 404)["param"] == "input_file_id"
    chat = {"model": theirs["model"], "messages": [{"role": "user", "content": "x"}]}
    assert refused(stranger.post("/v1/chat/completions", json=chat), 404)["param"] == "model"


def test_lists_show_nothing_of_theirs(stranger: httpx2.Client, theirs: dict[str, str]) -> None:
    for path in ("files", "fine_tuning/jobs", "models", "batches", "chat/completions", "webhook_endpoints"):
        shown = stranger.get(f"/v1/{path}").text
        assert not [id for id in theirs.values() if id in shown]
        if path not in ("models",):
            assert refused(stranger.get(f"/v1/{path}?after={theirs['file_id']}"))["param"] == "after"


def test_a_member_may_not_what_admins_may(live: Live, theirs: dict[str, str]) -> None:
    owner = actor(live)
    with live.service.database.write() as session:
        user = tenants.create_user(session, LOCAL, "member")
        tenants.set_role(session, LOCAL, user.id, owner.organisation_id, Role.viewer, project_id=owner.project_id)
        secret = keys.create(session, LOCAL, user_id=user.id, project_id=owner.project_id, name="member").secret
    with live.http(secret) as viewer:
        assert viewer.get(f"/v1/files/{theirs['file_id']}").status_code == 200
        for method, path in (
            ("DELETE", f"/v1/files/{theirs['file_id']}"),
            ("DELETE", f"/v1/models/{theirs['model']}"),
            ("GET", "/v1/webhook_endpoints"),
        ):
            assert refused(viewer.request(method, path), 403)["type"] == "permission_error"
        chat = {"model": "luthier-mini", "messages": [{"role": "user", "content": "x"}]}
        assert refused(viewer.post("/v1/chat/completions", json=chat), 403)["code"] == "forbidden"


def test_a_deleted_file_is_gone_everywhere(live: Live) -> None:
    with live.http() as http:
        file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("gone.jsonl", ROWS + b"\n")}).json()["id"]
        assert http.delete(f"/v1/files/{file}").status_code == 200
        for path in ("", "/content", "/report"):
            assert refused(http.get(f"/v1/files/{file}{path}"), 404)["code"] == "unknown_file"
        job = {"model": "luthier-mini", "training_file": file}
        assert refused(http.post("/v1/fine_tuning/jobs", json=job), 404)["param"] == "training_file"


def test_what_is_done_is_written_down(live: Live, theirs: dict[str, str]) -> None:
    """Every mutating request of these tests left its row, with who and which request."""
    with live.service.database.read() as session:
        rows = session.query(Audit).filter(Audit.subject == theirs["file_id"]).all()
    (row,) = [row for row in rows if row.action == "file.create"]
    assert row.actor == actor(live).name and str(row.request_id).startswith("req_") and live.secret not in json.dumps(row.details)
