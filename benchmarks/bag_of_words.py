"""What reviews say without their order: linear classifiers of bags of words.

    python -m benchmarks.bag_of_words --data-dir DATA

Words and splits are those of the networks: the known ones of the first 400. Weights are
tf-idf (logarithmic), the strength of the regularisation is chosen on the validation
split.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.report import table
from dynalay_gym.data.splits import Split, load_split
from dynalay_gym.errors import ConfigError

STRENGTHS = (1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Fit bags of single words, and of words and pairs."""

    dataset: str = "imdb"
    """A data set of texts."""
    data_dir: Path | None = None
    """Folder of the data files."""


def main(args: Args) -> None:
    """Print test accuracies."""
    names = "main", "validation", "test"
    splits = {
        name: load_split(args.dataset, name, data_dir=args.data_dir) for name in names
    }
    rows = [accuracies(splits, longest) for longest in (1, 2)]
    columns = {"bag of": ("bag", ""), "C": ("C", "g")}
    shares = {f"{name}, %": (name, ".2f") for name in ("validation", "test")}
    print(table(columns | shares, rows))


def accuracies(splits: dict[str, Split], longest: int) -> dict[str, object]:
    """Return the accuracy of the best classifier of runs of up to `longest` words."""
    texts = {name: readable(split) for name, split in splits.items()}
    labels = {name: split.labels.numpy() for name, split in splits.items()}
    found = []
    for strength in STRENGTHS:
        bag = TfidfVectorizer(
            ngram_range=(1, longest),
            min_df=2,
            sublinear_tf=True,
            token_pattern=r"\S+",
        )
        model = make_pipeline(bag, LogisticRegression(C=strength, max_iter=300))
        model.fit(texts["main"], labels["main"])
        shares = {
            name: 100 * float(model.score(texts[name], labels[name]))
            for name in ("validation", "test")
        }
        found.append({"bag": f"up to {longest} words", "C": strength} | shares)
    return max(found, key=lambda row: row["validation"])  # type: ignore[arg-type,return-value]


def readable(split: Split) -> list[str]:
    """Return the texts of a split, words parted by spaces."""
    if split.vocabulary is None:
        raise ConfigError("give a data set of texts (imdb)")
    return split.vocabulary.decode(split.inputs)


if __name__ == "__main__":
    main(tyro.cli(Args))
