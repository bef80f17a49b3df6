"""The solver benchmark solves and differentiates the same layer every way."""

import pytest

from benchmarks.bench_solver import Args, run


def test_all_ways_agree_on_one_layer() -> None:
    pytest.importorskip("torchdeq", reason="torchdeq is not installed (extra [deq])")
    name, num = "random-8@4", 8
    found = run(
        Args(
            forward=(name,),
            backward=(name,),
            forward_samples=num,
            backward_samples=num,
            rounds=1,
        )
    )
    solvers = found["forward"][name]["solvers"]
    assert len(solvers) == 7
    assert all(row["median_error"] < 5e-3 for row in solvers.values())
    assert solvers["torchdeq fixed_point_iter"]["speedup"] == 1.0
    methods = found["backward"][name]["methods"]
    cosines = {method: row["cosine"] for method, row in methods.items()}
    # One application's gradient, whoever computes it, is not that of the fixed point.
    rough = [cosines.pop(method) for method in ("one-step", "torchdeq grad=1")]
    assert rough[0] == pytest.approx(rough[1], abs=1e-3)
    assert min(cosines.values()) > 0.999 > max(rough)
    saved = {method: row["saved_mib"] for method, row in methods.items()}
    assert saved["implicit 1e-3"] < saved["torchdeq implicit"] < saved["unrolled"]
    assert f"`{name}`" in found["markdown"]
