"""Do the jobs of the service on this machine, one process each."""

from __future__ import annotations

import json as _json
import time
from functools import partial
from typing import Annotated

import typer

from luthier.cli.verbs._place import Url, ready


def run(
    slots: Annotated[list[str] | None, typer.Option("--slot", help="DEVICE=JOBS at once: cpu=1, cuda:0=2. Again for more.")] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", help="Leave when standard input ends: for whoever starts it.")] = False,
    private_webhooks: Annotated[bool, typer.Option("--private-webhooks", help="Send webhooks into our own network, too.")] = False,
    database: Url = "",
    json: Annotated[bool, typer.Option("--json", help="What it says as JSON on standard output, an object a line.")] = False,
) -> None:
    """Take jobs from the queue until Ctrl-C or SIGTERM; then let each stop with a checkpoint, and leave.

    One worker a machine. Left out, every accelerator takes one job at a time, or the processor where there is none.
    """
    from luthier.jobs.worker import Settings, Worker, devices

    with ready(database) as opened:
        address = opened.engine.url.render_as_string(hide_password=False)
        settings = Settings(
            address, slots=dict(_slot(one) for one in slots or []) or devices(), private=private_webhooks, with_parent=with_parent
        )
        Worker(opened, settings, say=partial(_say, json=json)).run()


def _slot(one: str) -> tuple[str, int]:
    device, _, jobs = one.partition("=")
    if not (device == "cpu" or device.removeprefix("cuda:").isdigit()) or not jobs.isdigit():
        raise typer.BadParameter("say it as cpu=1 or cuda:0=1", param_hint="--slot")
    return device, int(jobs)


def _say(line: str, *, json: bool) -> None:
    clock = time.strftime("%H:%M:%S")
    typer.echo(_json.dumps({"at": clock, "said": line}) if json else f"{clock} {line}", err=not json)
