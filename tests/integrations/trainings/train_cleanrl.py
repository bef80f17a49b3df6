"""CleanRL: its `ppo.py` and `dqn.py` as they are, from a clone of the repository.

CleanRL is made to be copied, not installed: CLEANRL names the folder of a clone. Its
scripts take an id and nothing else, so the network itself runs.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import shared
from shared import Act, Task, Training

CLONE = Path(os.environ["CLEANRL"]).resolve()


def run(script: str, task: Task, **flags: Any) -> dict[str, Any]:
    """Run a script with flags; return the variables that it ends with."""
    flags |= {"env_id": task.id, "seed": task.seed, "total_timesteps": task.decisions}
    flags |= {"gamma": shared.DISCOUNT}
    sys.argv = [script, "--no-cuda"]
    for name, value in flags.items():
        sys.argv += [f"--{name.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        return runpy.run_path(str(CLONE / "cleanrl" / script), run_name="__main__")


def ppo(task: Task) -> Act:
    """Learn with `ppo.py`; its learning rate falls in a line by itself."""
    flags = {"num_envs": shared.NUM_ENVS, "num_steps": shared.NUM_STEPS}
    flags |= {"update_epochs": shared.EPOCHS, "learning_rate": shared.LEARNING_RATE}
    flags |= {"num_minibatches": shared.ROLLOUT // shared.BATCH_SIZE, "ent_coef": 0.0}
    return shared.greedy(run("ppo.py", task, **flags)["agent"].actor)


def dqn(task: Task) -> Act:
    """Learn with `dqn.py`."""
    flags = {"learning_rate": 1e-3, "learning_starts": 1000, "train_frequency": 2}
    flags |= {"buffer_size": 50_000}
    return shared.greedy(run("dqn.py", task, **flags)["q_network"])


TRAININGS = {
    "ppo.py": Training(ppo, autoreset="NextStep", transitions="live"),
    "dqn.py": Training(dqn, autoreset="NextStep", transitions="live"),
}

if __name__ == "__main__":
    sys.path.insert(0, str(CLONE))  # for cleanrl_utils
    command = ["git", "-C", str(CLONE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True)
    shared.main("cleanrl", TRAININGS, release=commit.stdout.strip())
