"""Calls that run as tasks of Ray (https://docs.ray.io; the extra ``ray``)."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from dynalay_gym.errors import ConfigError

_PROJECT = Path(__file__).resolve().parents[2]  # what its processes import from
P = ParamSpec("P")
T = TypeVar("T")


class RayPool(ThreadPoolExecutor):
    """Runs calls as tasks of Ray, one per processor; a thread waits for each.

    Its machines share a disk where this project, its data and the folder of results
    have the same path on all of them.

    Args:
        address: Of Ray's cluster; ``auto``: the one that this machine belongs to;
            ``local``: one of this machine alone, for as long as the pool is there.
        jobs: Tasks at a time of ``local``.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, jobs: int) -> None:
        if find_spec("ray") is None:
            raise ConfigError(
                'Ray is not installed: pip install "dynalay-gym[ray]", or leave --ray '
                "out and give the number of processes as --jobs"
            )
        import ray

        paths = {"PYTHONPATH": f"{_PROJECT}{os.pathsep}${{PYTHONPATH}}"}
        how: dict[str, Any] = {"runtime_env": {"env_vars": paths}}
        if address == "local":
            how |= {"num_cpus": jobs, "include_dashboard": False}
        try:
            ray.init(address, **how)
        except ConnectionError as error:
            raise ConfigError(
                f"no cluster of Ray at {address!r} ({error}); begin one (ray start "
                "--head), or give --ray local"
            ) from None
        self._ray: Any = ray
        self._running: set[Any] = set()
        self._ends = False
        super().__init__(max(1, int(ray.cluster_resources().get("CPU", 1))))

    def submit(
        self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Run a call somewhere; see `concurrent.futures.Executor.submit`."""
        task, place = self._ray.remote(_call_at), os.getcwd()
        return super().submit(
            lambda: self._wait_for(task.remote(place, call, *args, **kwargs))
        )

    def _wait_for(self, task: Any) -> Any:
        """Return what a task finds."""
        self._running.add(task)
        if self._ends:  # it began too late for `shutdown` to see it
            self._ray.cancel(task, force=True)
        try:
            return self._ray.get(task)
        finally:
            self._running.discard(task)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave Ray as soon as tasks have ended.

        Args:
            wait: Whether running tasks may finish; otherwise they are stopped.
            cancel_futures: Whether calls that have not begun are given up.
        """
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        self._ends |= not wait
        for task in tuple(self._running) if self._ends else ():
            self._ray.cancel(task, force=True)
        super().shutdown()
        self._ray.shutdown()


def _call_at(
    place: str, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return what a call returns in a folder, which relative paths start from."""
    os.chdir(place)
    return call(*args, **kwargs)
