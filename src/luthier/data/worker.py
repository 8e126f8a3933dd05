"""A process that works on blocks of a file for `luthier.data.pool`: reads a task, then requests, until its input ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.spec import DataSpec
from luthier.data.blocks import Block
from luthier.data.duplicates import Signatures
from luthier.data.folder import Parts
from luthier.data.pool import Answer, receive, send
from luthier.data.press import Press
from luthier.data.read import Tally
from luthier.data.recognise import Recognition
from luthier.data.render import Renderer
from luthier.data.report import Report
from luthier.data.scan import Scan


class Worker:
    """One of several that read a file: what all blocks have in common."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.file, self.data, self.near = Path(task["file"]), DataSpec(**task["data"]), task["near"]
        self.recognition = Recognition(**task["recognition"])
        self.press = _press(task["press"], self.data) if task["press"] else None

    def block(self, request: dict[str, Any]) -> Answer:
        """Look at the rows of a block, and write their tokens: what `Scan` told, and the tally of what is told once per file."""
        report = Report(str(self.file), self.recognition, kept=sys.maxsize)
        scan = Scan(report, self.data, signatures=Signatures(request["near"]) if self.near else None, press=self.press)
        tally = Tally()
        with self.press.into(Path(request["into"]) if request["into"] else None) if self.press else nullcontext():
            scan.run(self.file, block=Block(*request["block"]), tally=tally)
        told, arrays = scan.told()
        return {**told, "tally": tally}, arrays


def _press(told: dict[str, Any], data: DataSpec) -> Press:
    renderer = Renderer(Parts.from_json(told["parts"]))
    if renderer.fingerprint != told["fingerprint"]:
        raise RuntimeError("the template or the tokenizer came over otherwise than it was sent")
    return Press(renderer, data, context=told["context"], pairs=told["pairs"])


def main() -> None:
    """Work until the input ends. Errors are answers; a pipe that nobody reads any more ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(200_000, 20, 1000)  # rows make no cycles: looking for some took a quarter of the time
    incoming, outgoing = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the answers
    begun = receive(incoming)
    worker = None
    while begun is not None and (request := receive(incoming)) is not None:
        try:
            worker = worker or Worker(begun[0])
            fields, arrays = worker.block(request[0])
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
