"""Predictors on the Hugging Face Hub, or in folders as it has them (extra ``hub``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from dynalay_gym.predictor.policies import policy_to_saved
from dynalay_gym.predictor.predictor import DynaLayPredictor

_FOLDER = "predictor"  # in the repository, beside the card

_CARD = """---
library_name: dynalay-gym
tags: [dynamic-inference, adaptive-computation, early-exit]
---

# {title}

A classifier of {classes} classes that spends compute input by input: a network (kind
`{network}`), and a policy (kind `{policy}`) that looks at its activations and decides
which part runs next, or stops.

## Use

```python
from dynalay_gym.predictor.hub import HubPredictor

predictor = HubPredictor.from_pretrained("{repo}")
found = predictor.infer(inputs)  # {inputs}
print(found.labels, found.macs)  # classes, and multiply-adds that each took
```

Inputs are prepared as in its training. The penalty of compute that it was made for is
{penalty:.4g}.

## Cost

A plain pass takes {plain:,} multiply-adds. There are at most {decisions} decisions, of
{each:,} multiply-adds each, beside what the network does after them.

## Evaluation

{evaluation}
"""


class HubPredictor(DynaLayPredictor, ModelHubMixin):
    """A `DynaLayPredictor` with ``push_to_hub`` and ``from_pretrained``.

    ``save_pretrained(folder, model_card_kwargs={"title": ..., "evaluation": rows})``
    writes the same files without a network; rows are those of `dynalay_gym.compare`.
    Only safetensors and JSON are written and read.
    """

    # What the predictor is made of is in its own manifest, not in config.json.
    _hub_mixin_config: Any = {}  # noqa: RUF012 - it is read by the base class alone

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / _FOLDER)

    @classmethod
    def _from_pretrained(  # type: ignore[override,unused-ignore]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str = "cpu",
        batch_size: int = 256,
    ) -> "HubPredictor":
        """Read a folder, or the repository of that name; see `load`."""
        folder = Path(model_id)
        if not folder.is_dir():
            found = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=f"{_FOLDER}/*",
            )
            folder = Path(found)
        loaded: Any = cls.load(folder / _FOLDER, device=device, batch_size=batch_size)
        predictor: HubPredictor = loaded
        return predictor

    def generate_model_card(
        self,
        *,
        title: str = "Classifier that skips",
        repo_id: str = "USER/NAME",
        evaluation: Sequence[Mapping[str, Any]] = (),
    ) -> ModelCard:
        """Return the card that is written beside the predictor.

        Args:
            title: Its heading.
            repo_id: Name of the repository, in the example.
            evaluation: Rows of a comparison: the policy's, and those of others.
        """
        session: Any = self.session
        kind = str(session.in_dtype).removeprefix("torch.")
        text = _CARD.format(
            title=title,
            repo=repo_id,
            classes=len(self.classes_),
            network=session.to_saved()[0],
            policy=policy_to_saved(self.policy)[0],
            inputs=f"{kind} [n, {', '.join(map(str, session.in_shape))}]",
            penalty=self.penalty,
            plain=session.plain_macs,
            decisions=self.max_decisions,
            each=self.policy.macs_per_decision,
            evaluation=_table(evaluation),
        )
        return ModelCard(text)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return accuracy, compute and return of policies as a Markdown table."""
    if not rows:
        return "None was given."
    lines = ["| policy | accuracy | compute | return |", "| --- | --- | --- | --- |"]
    for row in rows:
        accuracy, ends = 100 * row["accuracy"], row["accuracy_interval"]
        low, high = (100 * end for end in ends)
        lines.append(
            f"| {row['policy']} | {accuracy:.1f} % ({low:.1f} to {high:.1f}) | "
            f"{row['compute']:.2f} | {row['return']:.4f} |"
        )
    return "\n".join([*lines, "", "Compute is in plain passes; 95 % intervals."])
