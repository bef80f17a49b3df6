"""Bad command lines of the scripts: one line, exit code 2, and nothing is written."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGENT, MAIN, EVALUATE = "train_agent.py", "train_main.py", "evaluate.py"
OFFLINE = "--data-dir . --no-download"

BAD = [
    # no option, no value, another type
    (AGENT, "--bogus", "--bogus"),
    (AGENT, "--bogus 3", "--bogus"),
    (AGENT, "stray", "stray"),
    (AGENT, "--ppo.batchsize 3", "perhaps you meant --ppo.batch-size"),
    (AGENT, "--seed", "--seed"),
    (AGENT, "--seed abc", "--seed"),
    (AGENT, "--seed 1.5", "--seed"),
    (AGENT, "--num-envs 1e3", "--num-envs"),
    (AGENT, "--total-timesteps 1e18", "--total-timesteps"),
    (AGENT, "--ppo.batch-size 1.5", "--ppo.batch-size"),
    (AGENT, "--ppo.hidden a b", "--ppo.hidden"),
    (AGENT, "--recall maybe", "maybe"),
    (AGENT, "--rtol small", "--rtol"),
    (AGENT, "--log-dir=", "empty"),
    (AGENT, ["--log-dir", ""], "empty"),
    (AGENT, ["--checkpoint", ""], "empty"),
    (AGENT, "--transitions cached", "'live', 'table'"),
    (AGENT, "--policy-gradient.baseline none", "'value', 'greedy'"),
    (AGENT, "--co.precision fp8", "'fp32', 'bf16'"),
    (MAIN, "--bogus", "--bogus"),
    (MAIN, "--seed abc", "--seed"),
    (MAIN, "--epochs many", "--epochs"),
    (MAIN, "--max-steps 1.5", "--max-steps"),
    (MAIN, "--paths some", "'portions'"),
    (MAIN, ["--log-dir", ""], "empty"),
    (EVALUATE, "--bogus", "--bogus"),
    (EVALUATE, "--penalties x", "--penalties"),
    (EVALUATE, "--num-threads", "--num-threads"),
    # no such thing
    (AGENT, "--algo sarsa", "policy-gradient, exact, ppo, a2c, dqn"),
    (AGENT, "--dataset mnist", "unknown dataset"),
    (AGENT, "--reward gold", "unknown reward"),
    (AGENT, "--device abacus", "try auto, cpu, cuda"),
    (AGENT, "--device meta", "use auto or cpu"),
    (AGENT, "--device cuda:99", "use auto or cpu"),
    (AGENT, "--device cpu:1", "use auto or cpu"),
    (AGENT, "--checkpoint nowhere", "nowhere"),
    (AGENT, "--load nowhere", "nowhere"),
    (AGENT, f"--dataset fashion-mnist --checkpoint NET {OFFLINE}", "--data-dir"),
    (AGENT, "--log-dir FILE", "--log-dir"),
    (MAIN, "--dataset mnist", "unknown dataset"),
    (MAIN, "--preset huge", "unknown preset"),
    (MAIN, "--preset resnet20 --rtol 0.1", "--rtol is no option"),
    (AGENT, "--co.main-epochs 3", "--co-train"),
    (AGENT, "--exact.batch-size 32", "--algo exact, not ppo"),
    (AGENT, "--algo a2c --ppo.n-epochs 5", "--algo ppo, not a2c"),
    (MAIN, "--preset fast --paths all", "--paths is no option"),
    (MAIN, "--start-from nowhere", "nowhere"),
    (MAIN, "--start-from NET --preset digits", "leave --preset"),
    (MAIN, "--start-from NET --dataset maze", "give a network of this data set"),
    (MAIN, "--gates both", "--start-from"),
    (MAIN, "--gate-kind binary", "--gate-kind"),
    (MAIN, "--static-gates", "--static-gates"),
    (MAIN, "--gate-gradient policy-gradient", "--gate-gradient is no option"),
    (MAIN, "--gates all", "layers"),
    (MAIN, "--start-from NET --gates both", "residual network"),
    (MAIN, "--skip-rate 0.1", "--skip-rate is no option"),
    (MAIN, "--widths 8 16", "--widths is no option"),
    (MAIN, "--preset fast --widths 8 16", "one entry per stage"),
    (MAIN, "--preset fast --depths 0 1 1", "--depths"),
    (MAIN, "--preset fast --skip-rate 2", "--skip-rate must"),
    (MAIN, "--distillation 0.5", "--distillation is no option"),
    (MAIN, "--preset fast --distillation 0.5", "--start-from"),
    (MAIN, "--device meta", "use auto or cpu"),
    (MAIN, f"--dataset cifar10 {OFFLINE}", "--data-dir"),
    (MAIN, "--resume nowhere", "nowhere is no run folder"),
    (MAIN, "--log-dir FILE", "--log-dir"),
    (EVALUATE, "nowhere", "nowhere"),
    (EVALUATE, "--dataset mnist", "unknown dataset"),
    (EVALUATE, "--device meta --dataset digits", "use auto or cpu"),
    # out of range
    (AGENT, "--seed -1", "--seed must be an integer >= 0"),
    (AGENT, "--seed 4294967296", "--seed must be an integer <= 4294967295"),
    (AGENT, "--num-envs 0", "--num-envs"),
    (AGENT, "--num-envs 9223372036854775808", "--num-envs"),
    (AGENT, "--num-threads 0", "--num-threads"),
    (AGENT, "--num-threads 1000000", "--num-threads"),
    (AGENT, "--total-timesteps -5", "--total-timesteps"),
    (AGENT, "--total-timesteps 1000000000000000000", "--total-timesteps"),
    (AGENT, "--rtol inf", "--rtol must be a number <= 1"),
    (AGENT, "--rtol nan", "--rtol must be a number > 0"),
    (AGENT, "--max-steps 1000000000000000000 --rtol 1e-300", "--max-steps"),
    (AGENT, "--max-steps -1", "--max-steps"),
    (AGENT, "--iterations-per-action 0", "--iterations-per-action"),
    (AGENT, "--alpha -1", "--alpha"),
    (AGENT, "--penalty-unit 0", "--penalty-unit"),
    (AGENT, "--penalty 1e39", "from 0 to 1e+09"),
    (AGENT, "--penalty nan", "penalty must be finite"),
    (AGENT, "--penalty 0.3:0.1", "low <= high"),
    (AGENT, "--ppo.clip-range nan", "--ppo.clip-range"),
    (AGENT, "--ppo.max-grad-norm -1", "--ppo.max-grad-norm"),
    (AGENT, "--ppo.batch-size 1", "--ppo.batch-size must be an integer >= 2"),
    (AGENT, "--ppo.hidden 0", "--ppo.hidden"),
    (AGENT, "--ppo.hidden", "--ppo.hidden"),
    (AGENT, "--policy-gradient.learning-rate 1e38", "--policy-gradient.learning-rate"),
    (AGENT, "--dqn.exploration-fraction 0", "--dqn.exploration-fraction"),
    (AGENT, "--co.replay-share 1", "--co.replay-share"),
    (MAIN, "--epochs 0", "--epochs"),
    (MAIN, "--batch-size 1", "--batch-size"),
    (MAIN, "--batch-size 100000", "batch_size is larger"),
    (MAIN, "--learning-rate nan", "--learning-rate"),
    (MAIN, "--weight-decay -1", "--weight-decay"),
    (MAIN, "--seed 4294967296", "--seed"),
    (MAIN, "--num-threads 1000000", "--num-threads"),
    (EVALUATE, "--penalties 0", "--penalties"),
    (EVALUATE, "--num-threads 0", "--num-threads"),
    (EVALUATE, "--rtol inf", "--rtol"),
    (EVALUATE, "--penalty 1e39 --dataset digits", "penalty"),
    # too much, or too little together
    (AGENT, "--num-envs 10000000", "10,000,000 rows would take"),
    (AGENT, "--algo ppo --ppo.n-steps 1000000", "lower --num-envs"),
    (AGENT, "--algo ppo --ppo.hidden 65536 65536", "the sizes among --ppo"),
    (AGENT, "--algo dqn --dqn.buffer-size 1000000000", "the sizes among --dqn"),
    (AGENT, "--dataset maze --max-steps 9999 --iterations-per-action 1", "65,536"),
    (
        AGENT,
        "--algo policy-gradient --num-envs 1 --policy-gradient.num-steps 1",
        "--num-envs or --policy-gradient.num-steps",
    ),
    (AGENT, "--algo ppo --num-envs 1 --ppo.n-steps 1", "--num-envs or --ppo.n-steps"),
    (AGENT, "--exact.temperature-end 1e-300", "--exact.temperature-end"),
    (AGENT, "--resume nowhere", "nowhere is no run folder"),
    (AGENT, "--warm-up-from nowhere", "--warm-up-from needs --co-train"),
    (AGENT, "--co-train --freeze-main", "not both"),
    (AGENT, "--co-train --total-timesteps 0", "--total-timesteps"),
    (AGENT, "--algo ppo --ppo.total-timesteps 0", "--ppo.total-timesteps"),
    (AGENT, "--co-train --keep-best", "--keep-best"),
]


def words_of(line: str | list[str], folder: Path) -> list[str]:
    """The words of a command line; a file and a network stand in for their names."""
    (folder / "FILE").touch()
    network = str(ROOT / "dynalay_gym" / "checkpoints" / "digits")
    words = line.split() if isinstance(line, str) else line
    return [network if word == "NET" else word for word in words]


@pytest.mark.parametrize(("script", "line", "words"), BAD)
def test_a_bad_command_line_ends_in_one_line(
    script: str,
    line: str | list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = words_of(line, tmp_path)
    if script == AGENT and "--dataset" not in given:
        given += ["--dataset", "digits"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNALAY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [script, *given])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, printed.err
    assert words in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def run(script: str, *given: str, **environment: str) -> "subprocess.Popen[str]":
    """Run a script that says at its end whether it loaded torch."""
    code = f"""if True:
        import runpy, sys
        sys.argv = [{script!r}, *{given!r}]
        try:
            runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
        finally:
            print("torch" in sys.modules)
    """
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("script", [AGENT, MAIN, EVALUATE])
def test_help_and_bad_flags_do_not_wait_for_torch(script: str) -> None:
    terminal = {"COLUMNS": "40", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    started = [
        run(script, "--help", **terminal),
        run(script, "--num-thread", "3", **terminal),
        run(script, "--num-threads", "0", **terminal),
    ]
    answers = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 2, 2]
    assert {out.splitlines()[-1] for out, _ in answers} == {"False"}
    assert "--num-threads" in answers[0][0]
    nothing, unknown, out_of_range = (errors for _, errors in answers)
    assert nothing == ""
    assert unknown.startswith("error: Unrecognized options: --num-thread")
    assert unknown.endswith("; perhaps you meant --num-threads\n")
    assert unknown.count("\n") == 1
    assert out_of_range == "error: --num-threads must be an integer >= 1, not 0\n"
