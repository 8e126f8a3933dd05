"""What a worker starts for one claim: check the files of a job, or run it, and leave.

    python -m luthier.jobs.child JOB TOKEN DEVICE       LUTHIER_DATABASE says where the job is

It ends with 0 when the job's state says what came of it, with 130 when it was asked to stop and everything is saved, with 3 when disk or
database are in trouble or the job was taken away, and with anything else after a bug. SIGTERM asks it to stop at its next step. It
never outlives its worker.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from typing import Any

from luthier.core.errors import Interrupted, LuthierError, StorageError
from luthier.core.events import silence
from luthier.core.home import runs_folder
from luthier.data.render import Renderer
from luthier.jobs import inputs, outcome, run
from luthier.jobs.inputs import Inputs
from luthier.jobs.prepare import inspect
from luthier.jobs.processes import STOPPED, TROUBLE, leave_with_worker
from luthier.jobs.queue import CHECKING, Claim, fenced
from luthier.jobs.relay import Relay
from luthier.models.config import read_config
from luthier.models.families import family_of
from luthier.models.find import find
from luthier.store.blobs import Blobs
from luthier.store.database import Database, default_url
from luthier.store.holding import LOCK, held
from luthier.store.runs import RunFolder
from luthier.store.tables.jobs import Job

LOCK_PATIENCE = 60.0
"""Seconds to wait for the process that held the run before: it is being killed."""


def main() -> None:
    """Work on one claim."""
    leave_with_worker()
    signal.signal(signal.SIGTERM, _stop)
    job_id, token, device = sys.argv[1:4]
    database = Database.connect(default_url())
    try:
        work(database, Blobs.open(database), Claim(job_id, int(token), device))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(STOPPED)
    except StorageError as error:
        sys.stderr.write(f"{error.code}: {error.what} {error.remedy}\n")
        sys.exit(TROUBLE)


def work(database: Database, blobs: Blobs, mine: Claim) -> None:
    """Do what the claim is for; what came of it is in the job's row.

    Raises:
        Interrupted: asked to stop; everything is saved.
        StorageError: somebody else holds the job now (`Taken`), or disk or database are in trouble, which is not the job's fault.
    """
    with fenced(database, mine) as (_, job):
        pass
    relay = Relay(database, mine, RunFolder((runs_folder() / job.run).resolve()))
    given = Inputs()
    try:
        with inputs.placed(database, blobs, job) as given:
            if mine.device == CHECKING:
                _check(database, job, mine, given)
            else:
                _run(database, blobs, job, mine, given, relay)
    except (Interrupted, StorageError) as error:
        if error.code == "disk_short":  # it asks for more than there is, and would again
            return outcome.failed(database, mine, given.error(error), relay=relay)
        relay.close()
        raise
    except LuthierError as error:
        outcome.failed(database, mine, given.error(error), relay=relay)


def _check(database: Database, job: Job, mine: Claim, given: Inputs) -> None:
    """Read every row, before anything is spent."""
    spec = inputs.spec_of(job, given)
    folder = find(spec.model.name)
    config = read_config(folder)
    longest: int = family_of(config.model_type).context(config)
    context = longest if spec.model.context == "auto" else min(spec.model.context, longest)
    inspect(spec, Renderer.from_folder(folder), context=context, listen=silence)
    outcome.checked(database, mine)


def _run(database: Database, blobs: Blobs, job: Job, mine: Claim, given: Inputs, relay: Relay) -> None:
    """Begin the run, or go on with it, and write down what came of it."""
    folder = relay.run
    _take(folder, mine.token)
    if folder.capsule.is_file():
        run.resume(folder.path, token=mine.token, listen=relay)
    else:
        spec = inputs.spec_of(job, given)
        if job.spec["train"]["learning_rate"] != spec.train.learning_rate:
            multiplier = job.hyperparameters["learning_rate_multiplier"]
            relay.say(f"learning_rate {spec.train.learning_rate:g}: {multiplier:g} x what would have been derived")
        run.begin(spec, out=folder.path, token=mine.token, listen=relay)
    outcome.succeeded(database, blobs, mine, folder, relay)


def _take(folder: RunFolder, token: int) -> None:
    """Wait until whoever held the run before is gone, leave the token there, and clear away a run that never began."""
    end = time.monotonic() + LOCK_PATIENCE
    folder.path.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            with held(folder.path, token=token):
                if not folder.capsule.is_file():
                    for part in folder.path.iterdir():
                        if part.name != LOCK:
                            shutil.rmtree(part) if part.is_dir() else part.unlink()
            return
        except StorageError as error:
            if error.code != "run_busy" or time.monotonic() > end:
                raise
            time.sleep(0.2)


def _stop(number: int, frame: Any) -> None:
    """SIGTERM outside of the training loop: what is complete is saved."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
