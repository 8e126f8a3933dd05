"""A process that works on blocks of a file for `luthier.data.pool`: reads a task, then requests, until its input ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.spec import DataSpec
from luthier.data.blocks import Block
from luthier.data.duplicates import Signatures
from luthier.data.fit import Fitting
from luthier.data.folder import Parts
from luthier.data.pool import Answer, receive, send
from luthier.data.read import Tally
from luthier.data.recognise import Recognition
from luthier.data.render import Renderer
from luthier.data.report import Report
from luthier.data.scan import Scan
from luthier.data.select import Selected
from luthier.data.tokenise import write_block

Work = Callable[[dict[str, Any]], Answer]


def checking(task: dict[str, Any]) -> Work:
    """Look at the rows of a block: `Scan`, and the tally of what is told once per file."""
    data, recognition = DataSpec(**task["data"]), Recognition(**task["recognition"])
    renderer = Renderer(Parts.from_json(task["parts"])) if task["parts"] else None

    def work(request: dict[str, Any]) -> Answer:
        block = Block(*request["block"])
        fitting = Fitting(renderer, task["context"], data, begun=block.row > 1) if renderer else None
        report = Report(task["file"], recognition, kept=sys.maxsize)
        scan = Scan(report, data, Signatures(request["near"]) if task["near"] else None, fitting)
        tally = Tally()
        scan.run(Path(task["file"]), block=block, tally=tally)
        fields, arrays = scan.told()
        return {**fields, "tally": tally}, arrays

    return work


def tokenising(task: dict[str, Any]) -> Work:
    """Render and encode the wanted rows of a block into a file of its own."""
    renderer = Renderer(Parts.from_json(task["parts"]))
    if renderer.fingerprint != task["fingerprint"]:
        raise RuntimeError("the template or the tokenizer came over otherwise than it was sent")
    rows, data = Selected.from_json(task["rows"]), DataSpec(**task["data"])

    def work(request: dict[str, Any]) -> Answer:
        part = replace(rows, block=Block(*request["block"]))
        return write_block(Path(request["to"]), part, renderer, data, task["context"], request["wanted"])

    return work


WORKS = {"check": checking, "tokenise": tokenising}


def main() -> None:
    """Work until the input ends. Errors are answers; a pipe that nobody reads any more ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(200_000, 20, 1000)  # rows make no cycles: looking for some took a quarter of the time
    incoming, outgoing = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the answers
    begun = receive(incoming)
    work = None
    while begun is not None and (request := receive(incoming)) is not None:
        try:
            work = work or WORKS[begun[0]["work"]](begun[0])
            fields, arrays = work(request[0])
        except LuthierError as error:
            fields, arrays = {"error": error.to_json(), "kind": type(error).__name__}, []
        except Exception:
            fields, arrays = {"error": {"message": traceback.format_exc()}, "kind": ""}, []
        try:
            send(outgoing, fields, arrays)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone; closing the pipe at exit would only fail again


if __name__ == "__main__":
    main()
