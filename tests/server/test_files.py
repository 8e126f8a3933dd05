"""Files and uploads through the real client, and what of them is beyond the wire."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx2
import openai
import pytest

ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}).encode()
    + b"\n"
    for n in range(12)
)


def test_a_file_lives_and_dies(client: openai.OpenAI) -> None:
    file = client.files.create(file=("tickets.jsonl", ROWS), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(ROWS), "tickets.jsonl", "fine-tune")
    assert client.files.retrieve(file.id).id == file.id
    assert file.id in [one.id for one in client.files.list(purpose="fine-tune")]
    assert file.id not in [one.id for one in client.files.list(purpose="batch")]
    assert client.files.content(file.id).read() == ROWS
    assert client.files.wait_for_processing(file.id, poll_interval=0.05).status == "processed"
    assert client.files.delete(file.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            gone(file.id)
        assert caught.value.code == "unknown_file" and caught.value.request_id


def test_expiry_is_kept(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.txt", b"text"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.txt", b"text"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 5})
    assert caught.value.param == "expires_after.seconds"


def test_lists_are_paged_by_the_last_id(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants").id for n in range(5)]
    assert [file.id for file in client.files.list(purpose="assistants", limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(purpose="assistants", limit=2, order="asc")] == made
    first = client.files.list(purpose="assistants", limit=2)
    assert first.has_more and first.last_id == made[3]


def test_the_report_names_the_row(client: openai.OpenAI, http: httpx2.Client) -> None:
    file = client.files.create(file=("bad.jsonl", ROWS + b'{"messages": [{"role": "user"}]}\n{oops\n'), purpose="fine-tune")
    done = client.files.wait_for_processing(file.id, poll_interval=0.05)
    assert done.status == "error" and "row 1" in str(done.status_details)
    report = http.get(f"/v1/files/{file.id}/report").json()
    assert report["ok"] is False
    assert {problem["row"] for problem in report["report"]["problems"] if problem["severity"] == "error"} == {13, 14}
    assert {problem["file"] for problem in report["report"]["problems"]} == {"bad.jsonl"}


def test_an_upload_in_parts(client: openai.OpenAI) -> None:
    upload = client.uploads.create(filename="big.jsonl", purpose="fine-tune", bytes=len(ROWS), mime_type="text/jsonl")
    assert upload.status == "pending" and upload.expires_at == upload.created_at + 3600
    half = len(ROWS) // 2
    second = client.uploads.parts.create(upload.id, data=ROWS[half:])
    first = client.uploads.parts.create(upload.id, data=ROWS[:half])
    assert first.object == "upload.part" and first.upload_id == upload.id
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5="0" * 32)
    assert caught.value.code == "upload_md5"
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(ROWS).hexdigest())
    assert done.status == "completed" and done.file
    assert client.files.content(done.file.id).read() == ROWS
    with pytest.raises(openai.BadRequestError):
        client.uploads.cancel(upload.id)


def test_an_upload_given_up(client: openai.OpenAI) -> None:
    upload = client.uploads.create(filename="big.bin", purpose="assistants", bytes=3, mime_type="text/plain")
    client.uploads.parts.create(upload.id, data=b"abc")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.parts.create(upload.id, data=b"abc")
    assert caught.value.code == "upload_over"


def test_a_file_in_chunks(client: openai.OpenAI) -> None:
    upload = client.uploads.upload_file_chunked(
        file=ROWS, filename="chunks.jsonl", bytes=len(ROWS), mime_type="text/jsonl", purpose="fine-tune", part_size=500
    )
    assert upload.file and client.files.content(upload.file.id).read() == ROWS


def test_what_is_ignored_is_told(http: httpx2.Client) -> None:
    form: dict[str, Any] = {"data": {"purpose": "user_data", "colour": "red"}, "files": {"file": ("a.txt", b"abc")}}
    assert http.post("/v1/files", **form).json()["luthier"] == {"ignored": ["colour"]}
    said = {
        "filename": "a",
        "purpose": "batch",
        "bytes": 1,
        "mime_type": "x",
        "shape": 1,
        "expires_after": {"anchor": "created_at", "seconds": 3600, "x": 1},
    }
    assert http.post("/v1/uploads", json=said).json()["luthier"] == {"ignored": ["expires_after.x", "shape"]}


def test_equal_bytes_of_two_files_outlive_one(client: openai.OpenAI) -> None:
    one, other = (client.files.create(file=("same.txt", b"the same"), purpose="user_data") for _ in range(2))
    client.files.delete(one.id)
    time.sleep(0.01)
    assert client.files.content(other.id).read() == b"the same"
