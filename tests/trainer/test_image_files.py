"""Training on files of images: idx files and torchvision's layout, from `init` to `score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import offbeat
from detector import Detector, StreamDefinition
from tests.images import STREAM, bars, discs, in_json, write_idx
from trainer.datasets import find_files, read_chunks
from trainer.errors import DataFileError
from trainer.image_files import find_data_set, read_images

LABELLED = StreamDefinition.model_validate(
    {"name": "shapes", "label": {"field": "label", "anomalous": [1]}, "feature": [{"kind": "image"}]}
)


def shapes(discs_: int, bars_: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Discs, labelled 0, and bars, labelled 1, in mixed order."""
    order = np.random.default_rng(seed).permutation(discs_ + bars_)
    images = np.concatenate([discs(discs_, seed), bars(bars_)])[order]
    return images, np.repeat(np.array([0, 1], np.uint8), [discs_, bars_])[order]


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A directory as torchvision lays MNIST out, with discs and bars in the place of digits."""
    root = tmp_path / "data"
    for part, (images, labels) in {"train": shapes(200, 20), "t10k": shapes(50, 10, seed=1)}.items():
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return root


def run(*words: object) -> str:
    result = CliRunner().invoke(offbeat.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_directory_of_torchvisions_layout_goes_from_init_to_scores(mnist: Path, tmp_path: Path) -> None:
    definition, models, scores = tmp_path / "stream.toml", tmp_path / "models", tmp_path / "scores.parquet"

    definition.write_text(run("init", mnist, "--normal", 0, "--name", "shapes"), encoding="utf-8")
    said = run("train", mnist, "--stream", definition, "--models", models, "--steps", 50)
    run("score", "--input", mnist, "--models", models, "--output", scores)

    assert StreamDefinition.load(definition).label == LABELLED.label
    assert "quality on 60 test records, 10 anomalous" in said
    (version,) = [path for path in (models / "shapes").iterdir() if path.is_dir()]
    detector = Detector.load(version)
    counts = detector.facts["records"]
    assert counts["fit"] + counts["validate"] + counts["calibrate"] == 200
    assert (counts["left_out_labelled"], counts["test"]) == (20, 60)
    assert detector.facts["evaluation"]["convolutional"]["auroc"] > 0.95
    assert (version / "report.html").read_text(encoding="utf-8").count("<img alt=reconstruction") == 10
    images, labels = shapes(50, 10, seed=1)
    found = np.array(pq.read_table(scores).column("score").to_pylist())
    assert (found == detector.score(images)).all()
    assert found[labels == 1].min() > np.median(found[labels == 0])


def test_an_idx_file_is_read_with_the_labels_beside_it(tmp_path: Path) -> None:
    images, labels = shapes(30, 5)
    write_idx(tmp_path / "some-images-idx3-ubyte", images)
    write_idx(tmp_path / "some-labels-idx1-ubyte", labels)

    chunks = list(read_chunks(find_files([tmp_path / "some-images-idx3-ubyte"]), LABELLED, 16))

    assert [len(chunk) for chunk in chunks] == [16, 16, 3]
    assert chunks[1].lines.tolist() == list(range(17, 33))
    pictures = np.concatenate([chunk.records.images for chunk in chunks if chunk.records.images is not None])
    assert (pictures[..., 0] == images).all()
    marks = np.concatenate([chunk.records.labels for chunk in chunks if chunk.records.labels is not None])
    assert (marks == (labels == 1)).all()


def test_images_without_labels_are_all_normal(tmp_path: Path) -> None:
    write_idx(tmp_path / "images-idx3-ubyte", discs(20))

    (chunk,) = read_chunks([tmp_path / "images-idx3-ubyte"], LABELLED)

    assert chunk.records.labels is None
    assert "label" not in run("init", tmp_path / "images-idx3-ubyte")


def test_nothing_is_downloaded_where_no_data_set_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))

    assert find_data_set([tmp_path]) is None
    assert CliRunner().invoke(offbeat.app, ["init", str(tmp_path)]).exit_code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x00\x00\x08\x03\x00", "no idx file"), (b"not idx at all", "no idx file"), (b"", "no idx file")],
)
def test_a_broken_idx_file_is_refused_with_its_name(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "broken-images-idx3-ubyte"
    path.write_bytes(content)

    with pytest.raises(DataFileError, match=f"broken-images-idx3-ubyte.*{said}"):
        read_images(path)


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "a-images-idx3-ubyte", discs(5))
    write_idx(tmp_path / "a-labels-idx1-ubyte", np.zeros(4, np.uint8))

    with pytest.raises(DataFileError, match="5 images and 4 labels"):
        read_images(tmp_path / "a-images-idx3-ubyte")


def test_files_of_another_kind_than_the_stream_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "images-idx3-ubyte", discs(5))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    table = StreamDefinition.model_validate({"name": "t", "feature": [{"kind": "number", "field": "x"}]})

    with pytest.raises(DataFileError, match='no feature of kind "image"'):
        list(read_chunks([tmp_path / "images-idx3-ubyte"], table))
    with pytest.raises(DataFileError, match="give idx files"):
        list(read_chunks([rows], STREAM))


@pytest.mark.parametrize(("normal", "said"), [([7], "no image has label 7"), ([0, 1], "every image has a label")])
def test_labels_that_cannot_be_normal_are_refused(normal: list[int], said: str, mnist: Path) -> None:
    options = [word for label in normal for word in ("--normal", str(label))]

    result = CliRunner().invoke(offbeat.app, ["init", str(mnist), *options])

    assert result.exit_code == 2
    assert said in result.output


def test_images_in_json_lines_are_read_as_messages_are(tmp_path: Path) -> None:
    stream = StreamDefinition.model_validate(
        {
            "name": "scans",
            "id": "id",
            "label": {"field": "odd"},
            "feature": [{"kind": "image", "field": "scan.image"}],
        }
    )
    file = tmp_path / "scans.jsonl"
    lines = [in_json(image, id=str(row), odd=row == 2) for row, image in enumerate(discs(3))]
    file.write_bytes(b"\n".join([*lines, json.dumps({"id": "x", "scan": {"image": "?"}}).encode()]))

    (chunk,) = read_chunks([file], stream)

    found: Any = chunk.records
    assert (found.images[..., 0] == discs(3)).all()
    assert found.labels.tolist() == [False, False, True]
    assert [(reject.row, reject.reason) for reject in chunk.rejects] == [(3, "bad_image")]


def test_a_network_of_tables_is_refused_for_images(mnist: Path, tmp_path: Path) -> None:
    definition = tmp_path / "stream.toml"
    definition.write_text(LABELLED.to_toml(), encoding="utf-8")

    result = CliRunner().invoke(offbeat.app, ["train", str(mnist), "--stream", str(definition), "--network", "pca"])

    assert result.exit_code == 2
    assert "images have a network of their own" in result.output
