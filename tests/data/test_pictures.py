"""Pictures: numbers equal to transformers' own processors, and everything a bad file gets."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example, Medium
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data.check import check
from luthier.data.content import content, words
from luthier.data.media import Pictures, content_of
from luthier.data.pictures import look, pixels, plan_of
from luthier.data.read import read


def drawn(width: int = 40, height: int = 30, *, seed: int = 0, mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Coloured noise with some shape."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), np.uint8).repeat(5, 0).repeat(5, 1)[:height, :width]
    sink = io.BytesIO()
    Image.fromarray(colours).convert(mode).save(sink, kind)
    return sink.getvalue()


PROCESSORS: dict[str, Any] = {
    "ViTImageProcessor": (ViTImageProcessorPil, {"size": {"height": 24, "width": 32}}),
    "DeiTImageProcessor": (DeiTImageProcessorPil, {"size": {"height": 26, "width": 26}, "crop_size": {"height": 20, "width": 20}}),
    "CLIPImageProcessor": (CLIPImageProcessorPil, {"size": {"shortest_edge": 25}, "crop_size": {"height": 25, "width": 25}}),
    "SiglipImageProcessor": (SiglipImageProcessorPil, {"size": {"height": 21, "width": 21}}),
}


@pytest.mark.parametrize("shape", [(40, 30), (30, 47), (12, 9)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_numbers_equal_transformers(name: str, shape: tuple[int, int]) -> None:
    """With sizes of the file's own, everything else as the processor has it by default."""
    kind, sizes = PROCESSORS[name]
    drawing = drawn(*shape)
    plan = plan_of({"image_processor_type": name, **sizes})
    wanted = kind(**sizes)(Image.open(io.BytesIO(drawing)), return_tensors="np")["pixel_values"][0]
    found = pixels(drawing, plan)
    assert found.shape[1:] == plan.size
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_cut_larger_than_the_picture_has_black_around_it() -> None:
    sizes = {"size": {"shortest_edge": 10}, "crop_size": {"height": 15, "width": 13}}
    wanted = CLIPImageProcessorPil(**sizes)(Image.open(io.BytesIO(drawn())), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixels(drawn(), plan_of({"image_processor_type": "CLIPImageProcessor", **sizes})), wanted, atol=1e-5)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP")])
def test_every_picture_becomes_three_colours(mode: str, kind: str) -> None:
    plan = plan_of({"image_processor_type": "ViTImageProcessor", "size": 8, "do_normalize": False})
    found = pixels(drawn(mode=mode, kind=kind), plan)
    assert found.shape == (3, 8, 8)
    assert 0 <= found.min() < found.max() <= 1


UNEVEN = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}


@pytest.mark.parametrize("content", [{}, {"image_processor_type": "Qwen2VLImageProcessor"}, UNEVEN])
def test_a_processor_that_is_not_computed_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"preprocessor_config.json cannot be followed") as caught:
        plan_of(content)
    assert caught.value.code == "preprocessor"


def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` points in a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]))
    return head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no picture", "no PNG, JPEG or WebP"),
        (b"GIF89a" + b"\0" * 40, "no PNG, JPEG or WebP"),
        (drawn()[:-40], "does not decode"),
        (bomb(9_000), "9,000 x 9,000 points; 50,000,000 are the most"),
        (bomb(11_000), "11,000 x 11,000 points"),
        (bomb(60_000), "does not decode: Image size"),
    ],
    ids=["words", "gif", "cut", "large", "larger", "bomb"],
)
def test_what_is_no_picture(content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        look(content)
    assert caught.value.code == "bad_picture"


def rows(folder: Path, *values: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"image": value, "label": f"l{n % 2}"}) for n, value in enumerate(values)))
    return file


def test_rows_name_pictures_beside_their_file_or_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(drawn())
    address = "data:image/png;base64," + base64.b64encode(drawn(seed=1)).decode()
    values = ["photos/a.png", str(tmp_path / "photos" / "a.png"), address, {"url": address}]
    found: Any = list(read(rows(tmp_path, *values)))
    assert all(isinstance(each, Example) for each in found), found
    media = [each.messages[0].media[0] for each in found]
    assert media[0] == media[1] != media[2] == media[3]
    assert content_of(media[2]) == drawn(seed=1)
    assert Medium.parse(str(media[0])) == media[0]
    assert content(found[0]) != content(found[2])
    assert words(found[0]) != words(found[2])
    (tmp_path / "photos" / "a.png").write_bytes(drawn(seed=5))
    with pytest.raises(DataError, match="not the one that was checked"):
        content_of(media[0])
    (tmp_path / "photos" / "a.png").unlink()
    with pytest.raises(DataError, match="A picture is gone"):
        content_of(media[0])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("missing.png", "no_picture"),
        ("broken.png", "bad_picture"),
        ("https://example.com/a.png", "remote_media"),
        ("data:image/png;base64,!!", "bad_picture"),
        (17, "wrong_type"),
        ("", "wrong_type"),
    ],
)
def test_a_picture_that_is_not_there_is_found_by_the_check(value: Any, code: str, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(drawn())
    (tmp_path / "broken.png").write_bytes(drawn()[:60])
    report = check(rows(tmp_path, *["good.png"] * 3, value), data=DataSpec())
    (problem,) = [each for each in report.problems if each.row == 4]
    assert (problem.code, problem.field, problem.severity) == (code, "image", "error")


def test_rows_that_were_uploaded_name_no_files_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    inside = tmp_path / "inputs"
    inside.mkdir()
    (inside / "a.png").write_bytes(drawn())
    (problem,) = list(read(rows(inside, str(inside / "a.png"))))
    assert isinstance(problem, Problem)
    assert problem.code == "remote_media"


def test_pictures_are_remembered_until_there_are_too_many(tmp_path: Path) -> None:
    plan = plan_of({"image_processor_type": "ViTImageProcessor", "size": 8})
    media = []
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(drawn(seed=seed))
        media += [each.messages[0].media[0] for each in read(rows(tmp_path, f"{seed}.png")) if isinstance(each, Example)]
    kept = Pictures(most_bytes=2 * 3 * 8 * 8 * 4)
    first, second = kept.get(str(media[0]), plan), kept.get(str(media[1]), plan)
    assert kept.get(str(media[0]), plan) is first
    kept.get(str(media[2]), plan)
    assert kept.get(str(media[0]), plan) is first
    assert kept.get(str(media[1]), plan) is not second


def test_without_pillow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from luthier.core.errors import MissingPart

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPart, match=r"Rows with pictures need Pillow.*pip install 'luthier\[images\]'"):
        look(drawn_before)


drawn_before = drawn()
