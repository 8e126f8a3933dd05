"""Every row of a file, read once: looked at (`data.scan`) and, where tokens are wanted, laid out and written (`data.press`).

A large file of lines is shared out to several processes, block by block; what they find, and the files of tokens they write, are put
together in the order of the file.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.data.blocks import blocks
from luthier.data.bytes import OnBytes
from luthier.data.duplicates import Signatures
from luthier.data.pool import Pool, workers
from luthier.data.press import Press
from luthier.data.read import Tally
from luthier.data.scan import Scan


def survey(scan: Scan, path: Path, *, into: Path | None = None, on_progress: OnBytes | None = None) -> None:
    """Let `scan` see all rows of `path`, which its report has recognised.

    Args:
        into: folder that gets the tokens, ``tokens.arrow`` or one file a block; left out, they are made and counted, and not kept.
    """
    count = workers(path, scan.report.recognition)
    if count:
        _shared_out(scan, path, count, into, on_progress)
    elif scan.press is not None:
        with scan.press.into(into / "tokens.arrow" if into else None):
            scan.run(path, on_progress)
    else:
        scan.run(path, on_progress)


def _shared_out(scan: Scan, path: Path, count: int, into: Path | None, on_progress: OnBytes | None) -> None:
    parts, tally, size = list(blocks(path)), Tally(), path.stat().st_size
    requests = (
        {"block": list(part), "near": _wanted(scan.signatures), "into": str(into / f"tokens-{number:05d}.arrow") if into else None}
        for number, part in enumerate(parts)
    )
    with Pool(count, _task(scan, path)) as pool:
        for part, (fields, arrays) in zip(parts, pool.answers(requests), strict=True):
            tally.add(Tally(**fields["tally"]))
            scan.absorb(fields, arrays)
            if on_progress:
                on_progress(part.stop, size)
    for problem in tally.problems(scan.report.file):
        scan.report.add(problem)


def _task(scan: Scan, path: Path) -> dict[str, Any]:
    """What a worker needs to know, as plain fields."""
    return {
        "file": str(path),
        "data": scan.data.model_dump(mode="json"),
        "recognition": asdict(scan.report.recognition),
        "near": scan.signatures is not None,
        "press": _press(scan.press) if scan.press else None,
    }


def _press(press: Press) -> dict[str, Any]:
    renderer = press.renderer
    return {"parts": renderer.parts.to_json(), "fingerprint": renderer.fingerprint, "context": press.context, "pairs": press.pairs}


def _wanted(signatures: Signatures | None) -> int:
    return signatures.limit if signatures is not None and len(signatures) < signatures.limit else 0
