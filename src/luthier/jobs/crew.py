"""Several processes on this machine for one training: started here, told what to hold, and gone when the leader is.

    leader    this process: watches, saves, tells            followers   python -m luthier.jobs.crew, started by it
    one line of JSON into each follower's standard input: Spec, token tables, checkpoint to begin from. The pipe then stays open:
    its end is the end of the leader, and no follower outlives that.

They meet through a file in a private folder and talk over loopback. Each has its share of the cores, or its own accelerator.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
import torch.distributed as dist

from luthier.core.errors import ResultError
from luthier.core.home import cache_folder
from luthier.core.spec import Spec
from luthier.data.tokens import TokenTable
from luthier.engine import checkpoint
from luthier.engine.session import Session
from luthier.engine.team import Command, Team

LEADER_IS_GONE = 3
"""Exit status of a follower whose pipe closed."""

LOOPBACK = {"linux": "lo", "darwin": "lo0"}
"""Where the processes of one machine talk; gloo and NCCL would take the first network card."""


@dataclass(slots=True, frozen=True)
class Post:
    """One place in a crew: rank 0 leads. `folder` is where the processes meet."""

    rank: int
    size: int
    folder: str

    def store(self) -> Any:
        """The notice board of the crew: a file, so that no port is open to others."""
        return dist.FileStore(  # type: ignore[attr-defined]
            str(Path(self.folder) / "store"), self.size
        )

    def join(self) -> None:
        """Become a member of the default process group: gloo, and NCCL between accelerators."""
        card = LOOPBACK.get(sys.platform)
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if card else ():
            os.environ.setdefault(name, str(card))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=self.store(), rank=self.rank, world_size=self.size)


@contextmanager
def crew(session: Session, spec: Spec, *, begin_from: Path | None) -> Iterator[None]:
    """Let ``train.processes`` processes take the steps of `session` within the block.

    Args:
        begin_from: the checkpoint that `session` was resumed from.

    Raises:
        ResultError: a process could not begin, or was lost; within the block too.
    """
    size = int(spec.train.processes)
    if size == 1:
        yield
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="luthier-crew-") as folder:
        followers: list[_Follower] = []
        try:
            share = max(1, threads // size)
            followers += [_Follower(Post(rank, size, folder), share) for rank in range(1, size)]
            for follower in followers:
                follower.brief(_brief(session, spec, begin_from))
            _meet(Post(0, size, folder), followers)
            torch.set_num_threads(share)
            session.team = Team(check=lambda: _check(followers))
            yield
        finally:
            torch.set_num_threads(threads)
            for follower in followers:
                follower.end()
            if dist.is_initialized():
                dist.destroy_process_group()


class _Follower:
    """A child process and what it said last."""

    def __init__(self, post: Post, threads: int) -> None:
        self.post = post
        self.words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "luthier.jobs.crew", str(post.rank), str(post.size), post.folder],
            stdin=subprocess.PIPE,
            stdout=self.words,
            stderr=self.words,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C is for the leader
        )

    def brief(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.check()

    def check(self) -> None:
        """Raise if it is gone."""
        status = self.process.poll()
        if status is None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self.words.seek(0)
        said = self.words.read().decode(errors="replace").strip().splitlines()
        raise ResultError(
            f"Process {self.post.rank + 1} of {self.post.size} {how}{f': {said[-1]}' if said else ''}.",
            remedy="Go on from the last checkpoint with luthier tune --resume. If memory was short: train.processes=1.",
            code="process_lost",
        )

    def end(self) -> None:
        """It holds nothing worth keeping."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.words.close()


def _brief(session: Session, spec: Spec, begin_from: Path | None) -> dict[str, Any]:
    return {
        "spec": spec.model_dump(mode="json"),
        "tables": {"training": _named(session.rows), "held-out": _named(session.valid)},
        "checkpoint": str(begin_from or ""),
    }


def _named(rows: Any) -> tuple[str, list[int] | None]:
    """The table below whatever the objective and the engine laid around it: its name, and the rows chosen from it."""
    while not isinstance(rows, TokenTable):
        rows = rows.rows
    return rows.name, None if rows.chosen is None else rows.chosen.tolist()


def _opened(name: str, chosen: list[int] | None) -> TokenTable:
    table = TokenTable.open(cache_folder() / "tokens" / name)
    return table if chosen is None else table.only(chosen)


def _meet(post: Post, followers: list[_Follower]) -> None:
    """Wait until every follower has loaded its model, then join."""
    store = post.store()
    while not store.check([_ready(follower.post.rank) for follower in followers]):
        _check(followers)
        time.sleep(0.02)
    post.join()


def _check(followers: list[_Follower]) -> None:
    for follower in followers:
        follower.check()


def _ready(rank: int) -> str:
    return f"ready-{rank}"


def _follow(post: Post, what: dict[str, Any]) -> NoReturn:
    """A follower's life: load, meet, do as told."""
    from luthier.jobs import beforehand, training
    from luthier.models.load import load

    spec = Spec.parse(what["spec"])
    model = load(spec.model.name, dtype=spec.model.dtype, context=spec.model.context)
    tables = {role: _opened(*named) for role, named in what["tables"].items()}
    method = training.attach(spec, model)
    rows, valid = (beforehand.beside(spec, table, role, model) for role, table in tables.items())
    session = training.new_session(spec, model, method, rows=rows, valid=valid)
    if what["checkpoint"]:
        loaded = checkpoint.load(Path(what["checkpoint"]))
        method.load_state(model, loaded.weights)
        session.optimiser.load_state(loaded.optimiser)
        session.step = loaded.progress.step
    post.store().set(_ready(post.rank), "")
    post.join()
    session.team = team = Team()
    while True:
        session.advance() if team.hear() is Command.ADVANCE else session.validate()


def _leave_with_leader() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin: a thread that holds its lock aborts Python's own end
        pass
    os._exit(LEADER_IS_GONE)


def main() -> None:
    """Be a follower: rank, size and folder as arguments, the rest from standard input."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the leader decides when to stop
    rank, size, folder = sys.argv[1:]
    if torch.cuda.is_available():
        torch.cuda.set_device(int(rank) % torch.cuda.device_count())
    what = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_leader, daemon=True).start()
    _follow(Post(int(rank), int(size), folder), what)


if __name__ == "__main__":
    main()
