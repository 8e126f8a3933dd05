#!/usr/bin/env python3
"""Run Luthier beside the rivals, with the rivals' own harness.

    python bench/versus.py --model MODEL --rival-python VENV/bin/python --work support,instruct --rows 64 --repeat 5

The harness looks for contenders in its own folder, which is read-only: it is copied to a temporary one and `contender.py` laid beside
the others. `make_model.py` of the same folder writes MODEL. Leave the machine alone meanwhile: a busy neighbour on two cores makes the
figures worthless.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).absolute().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", default="instruct,support")
    parser.add_argument("--rows", default="64")
    parser.add_argument("--repeat", default="5")
    parser.add_argument("--rows-per-step", default="8")
    parser.add_argument("--ours", default="luthier_lora", help="our entry with its options, e.g. 'luthier_lora --pack 512'")
    parser.add_argument("--rival", default="trl_sft --micro 2 --malloc keep")
    parser.add_argument("--rival-python", required=True, help="interpreter that has the rival installed")
    parser.add_argument("--save", type=Path, help="folder for the results of every run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bench = Path(place) / "bench"
        shutil.copytree(asked.shared / "bench", bench)
        shutil.copyfile(HERE / "contender.py", bench / "contenders" / "luthier_lora.py")
        for work in asked.work.split(","):
            command = [
                sys.executable,
                bench / "run.py",
                "--work",
                work,
                "--model",
                asked.model,
                "--rows",
                asked.rows,
                "--repeat",
                asked.repeat,
            ]
            command += ["--rows-per-step", asked.rows_per_step, "--contenders", f"{asked.rival}, {asked.ours}"]
            command += ["--venvs", f"{asked.rival.split('_')[0]}={asked.rival_python}"]
            if asked.save:
                asked.save.mkdir(parents=True, exist_ok=True)
                command += ["--save", asked.save / f"{work}.json"]
            if code := subprocess.run([str(part) for part in command]).returncode:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
