"""The comparison of methods: splits, anchors, results that outlive a killed run, and the page."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality import anchors, images, tables, transactions
from benchmarks.quality.__main__ import main
from benchmarks.quality.page import render, summarise
from benchmarks.quality.plots import draw_ranks
from benchmarks.quality.problems import Problem, Sample, ranking
from benchmarks.quality.runs import Job, Result, ResultsFile, do, jobs_of, run
from benchmarks.quality.statistics import rank


def write_table(folder: Path, name: str, normal: int = 60, odd: int = 12, width: int = 3) -> Path:
    """Normal rows near the origin, and odd ones far from it; every value is its row's own."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(name))
    rows = np.concatenate([draw.normal(size=(normal, width)), draw.normal(6, 1, (odd, width))])
    file = folder / f"{name}.npz"
    np.savez(file, X=rows, y=np.repeat([0, 1], [normal, odd]))
    return file


class TestTables:
    def test_tables_are_found_below_the_folder_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        for name in ("10_ten", "9_nine", "own"):
            write_table(tmp_path / "below", name)
        np.savez(tmp_path / "no_labels.npz", X=np.zeros((3, 2)))

        assert [problem.name for problem in tables.find(tmp_path)] == ["9_nine", "10_ten", "own"]

    @pytest.mark.parametrize("seed", [0, 1])
    def test_no_row_that_was_fitted_on_is_tested(self, tmp_path: Path, seed: int) -> None:
        sample = tables.load(Problem("a", (write_table(tmp_path, "a"),)), seed)

        fitted, tested = ({tuple(row) for row in rows.tolist()} for rows in (sample.train, sample.test))
        assert fitted.isdisjoint(tested)
        assert (len(sample.train), len(sample.test), int(sample.odd.sum())) == (30, 42, 12)

    def test_seeds_split_in_other_ways_and_the_same_seed_in_the_same_way(self, tmp_path: Path) -> None:
        problem = Problem("a", (write_table(tmp_path, "a"),))

        first, again, other = (tables.load(problem, seed).train for seed in (0, 0, 1))

        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_columns_are_standardised_by_the_rows_to_fit_on(self, tmp_path: Path) -> None:
        sample = tables.load(Problem("a", (write_table(tmp_path, "a"),)), 0)

        np.testing.assert_allclose(sample.train.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(sample.train.std(axis=0), 1)
        assert sample.test[sample.odd].mean() > 3  # and not by themselves

    def test_large_tables_are_capped_and_keep_a_hundred_anomalies(self, tmp_path: Path) -> None:
        file = write_table(tmp_path, "large", normal=60_000, odd=120, width=1)

        sample = tables.load(Problem("large", (file,)), 0)

        # 120 of 30,120 rows to test: in proportion 80 of 20,000.
        assert (len(sample.train), len(sample.test), int(sample.odd.sum())) == (10_000, 20_000, 100)


def test_figures_of_a_ranking_are_those_of_a_hand_calculation() -> None:
    scores, odd = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])

    found = ranking(scores, odd)

    # Pairs ordered rightly: 3 of 4. Precision at the anomalies: 1 and 2/3. Of the two highest one is odd.
    assert found == pytest.approx({"auroc": 0.75, "ap": (1 + 2 / 3) / 2, "f1": 0.5})


def test_a_score_that_is_no_number_ranks_last() -> None:
    assert ranking(np.array([np.nan, 0.5, -9.0]), np.array([True, False, False]))["auroc"] == 0.0


NORMAL = np.random.default_rng(0).normal(size=(200, 4))
ODD = np.full((1, 4), 5.0)


SLOW = {"offbeat", "autoencoder"}
METHODS = {name: entry for name, entry in tables.ENTRIES.items() if entry.needs is None and name not in SLOW}


@pytest.mark.parametrize("name", [*METHODS, "autoencoder"])
def test_every_method_scores_a_far_row_above_normal_ones(name: str) -> None:
    sample = Sample(NORMAL, NORMAL, np.zeros(200, np.bool_), lambda _: {})
    made = anchors.PlainAutoencoder(0, steps=100) if name == "autoencoder" else METHODS[name].make(0, sample)

    method = made.fit(NORMAL)

    far, normal = method.score(ODD), method.score(NORMAL)
    assert normal.shape == (200,)
    assert far[0] > np.quantile(normal, 0.95)


def test_distances_to_neighbours_are_those_of_a_hand_calculation() -> None:
    rows = np.array([[0.0], [1.0], [3.0]])

    nearest, mean, farthest = (
        method.fit(rows).score(np.array([[0.5]]))[0]
        for method in (anchors.Neighbours(1), anchors.Neighbours(3, mean=True), anchors.Neighbours(5))
    )

    assert (nearest, mean, farthest) == pytest.approx((0.5, (0.5 + 0.5 + 2.5) / 3, 2.5))


def test_the_linear_residual_is_the_distance_from_the_line() -> None:
    line = np.linspace(-1, 1, 50)

    score = anchors.LinearResidual().fit(np.stack([line, line], axis=1)).score(np.array([[2.0, 0.0]]))

    assert score[0] == pytest.approx(2.0)  # (2, 0) is √2 from the diagonal


def test_empty_bins_and_what_is_outside_are_the_strangest() -> None:
    rows = np.array([[0.0], [0.0], [0.0], [10.0]])

    scores = anchors.Histograms().fit(rows).score(np.array([[0.5], [10.0], [5.5], [-3.0], [99.0]]))

    assert scores == pytest.approx(np.log([4 / 4, 4 / 2, 4 / 1, 4 / 1, 4 / 1]))  # one more than counted


def test_empirical_tails_count_rows_at_and_beyond_a_value() -> None:
    rows = np.array([[1.0], [2.0], [3.0], [10.0]])  # skewed to the right

    scores = anchors.EmpiricalTails().fit(rows).score(np.array([[10.0], [2.0]]))

    # Right tails (1 + 1) / 5 and (3 + 1) / 5; left tails (4 + 1) / 5 and (2 + 1) / 5; the largest counts.
    assert scores == pytest.approx([-np.log(2 / 5), -np.log(3 / 5)])


class TestTransactions:
    def test_the_test_is_the_week_after_next_without_cards_known_by_then(self) -> None:
        day = np.array([1, 7, 8, 14, 15, 15, 15, 16, 21, 21, 22])
        card = np.array([1, 2, 3, 4, 1, 3, 5, 3, 4, 6, 7])
        fraud = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0])

        train, test = transactions.weeks(day, card, fraud, 1)

        assert train.tolist() == [0, 1]
        # Card 1 was known from the start. Card 3's fraud of day 8 is known on day 16, not on day 15; card 4's of day 14
        # only on day 22.
        assert test.tolist() == [5, 6, 8, 9]

    def test_no_row_is_fitted_on_and_tested_and_no_fraud_is_fitted_on(self, tmp_path: Path) -> None:
        write_payments(tmp_path / "payments.parquet")

        problems = transactions.find(tmp_path)
        samples = [transactions.load(problem, 0) for problem in problems]

        assert [problem.name for problem in problems] == [
            "validation week, label-free", "validation week, late labels",
            "test week, label-free", "test week, late labels",
        ]  # fmt: skip
        assert [sample.train.shape[1] for sample in samples] == [28, 35, 28, 35]
        for sample in samples:
            fitted, tested = ({tuple(row) for row in rows.tolist()} for rows in (sample.train, sample.test))
            assert fitted.isdisjoint(tested)
            assert len(fitted) == 7 * 9  # of ten payments a day one is a fraud

    def test_a_ranking_without_a_fault_has_the_best_figures(self, tmp_path: Path) -> None:
        write_payments(tmp_path / "payments.parquet")
        sample = transactions.load(transactions.find(tmp_path)[0], 0)

        figures = sample.judge(sample.odd.astype(float))

        assert (figures["auroc"], figures["ap"], figures["visible_auroc"]) == (1.0, 1.0, 1.0)
        assert figures["cp100"] == pytest.approx(1 / 100)  # one compromised card a day

    def test_files_without_the_features_are_not_taken_for_them(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"day": [1], "fraud": [0]}), tmp_path / "raw.parquet")

        assert transactions.find(tmp_path) == []

    def test_rarity_counts_in_the_bulk_and_goes_on_beyond_the_largest(self) -> None:
        known = np.random.default_rng(0).exponential(size=20_000)

        found = transactions.rarity(known, np.log([2.0, 10.0, 1e3, 1e6]))

        # The share of an exponential distribution above log x is 1 / x.
        assert found == pytest.approx([np.log10(2), 1.0, 3.0, 6.0], rel=0.15)


def write_payments(file: Path) -> None:
    """Ten payments a day by ten cards of that day, the first a fraud of scenario 1."""
    days = np.repeat(np.arange(101, 136), 10)
    rows = np.arange(len(days))
    draw = np.random.default_rng(0)
    columns = {name: draw.normal(size=len(days)) for name in transactions.SETS["late labels"]}
    fraud = (rows % 10 == 0).astype(int)
    pq.write_table(
        pa.table({"day": days, "customer_id": rows, "fraud": fraud, "scenario": fraud, **columns}), file
    )  # fmt: skip


class TestImages:
    def test_normal_digits_are_fitted_on_and_all_others_are_odd(self, tmp_path: Path) -> None:
        write_digits(tmp_path)

        problems = {problem.name: problem for problem in images.find(tmp_path)}
        one, nine = (images.load(problems[f"{name} normal, 3"], 0) for name in ("one digit", "nine digits"))

        assert len(problems) == 20
        assert set(one.train[:, 0, 0].tolist()) == {3}
        assert set(nine.train[:, 0, 0].tolist()) == set(range(10)) - {3}
        assert one.test[~one.odd, 0, 0].tolist() == nine.test[nine.odd, 0, 0].tolist() == [3]
        assert one.train.dtype == np.uint8

    def test_images_are_blurred_and_of_one_length(self) -> None:
        image = np.zeros((1, 28, 28), np.uint8)
        image[0, 14, 14] = 100

        pixels = images.blurred_unit(np.concatenate([image, image * 2])).reshape(2, 28, 28)

        np.testing.assert_allclose(np.square(pixels).sum(axis=(1, 2)), 1, rtol=1e-5)
        np.testing.assert_allclose(pixels[0], pixels[1], rtol=1e-4, atol=1e-6)
        assert pixels[0, 14, 15] / pixels[0, 14, 14] == pytest.approx(np.exp(-0.5), rel=1e-3)  # a Gaussian's fall

    def test_without_all_four_files_there_is_no_problem(self, tmp_path: Path) -> None:
        write_digits(tmp_path)
        (tmp_path / "t10k-labels-idx1-ubyte").unlink()

        assert images.find(tmp_path) == []


def write_digits(folder: Path) -> None:
    """Two train images and one test image of each digit; every pixel is the digit. One file is packed."""
    for name, count in (("train", 2), ("t10k", 1)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), count)
        pictures = np.tile(labels[:, None, None], (1, 28, 28))
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            if (name, kind) == ("train", "images-idx3"):
                (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"{name}-{kind}-ubyte").write_bytes(content)


def made_up(method: str, problem: str, figure: float, seed: int = 0, part: str = "tables", **options: object) -> Result:
    figures = {"auroc": figure, "ap": figure / 2, "f1": figure / 3}
    if part == "transactions":
        figures = {"visible_auroc": figure, "visible_ap": figure, "auroc": figure, "ap": figure, "cp100": figure}
    return Result(part, problem, method, seed, figures, width=5, fit_s=2.0, us_per_row=3.0, **options)  # type: ignore[arg-type]


class TestRuns:
    def test_a_method_without_randomness_runs_once_on_a_fixed_split_and_each_time_on_a_drawn_one(self) -> None:
        problem = [Problem("a", ())]

        fixed = jobs_of("transactions", problem, ["mahalanobis", "offbeat"], [3, 4])
        drawn = jobs_of("tables", problem, ["mahalanobis"], [3, 4])

        assert [(job.method, job.seed) for job in fixed] == [("mahalanobis", 3), ("offbeat", 3), ("offbeat", 4)]
        assert [job.seed for job in drawn] == [3, 4]

    def test_a_result_has_figures_sizes_and_costs(self, tmp_path: Path) -> None:
        result = do(Job("tables", Problem("a", (write_table(tmp_path, "a"),)), "knn1", 0))

        assert (result.key, result.error) == (("tables", "a", "knn1", 0), None)
        assert (result.width, result.train_rows, result.test_rows, result.anomalies) == (3, 30, 42, 12)
        assert result.figures["auroc"] == 1.0
        assert result.us_per_row > 0

    def test_a_method_that_fails_is_a_result_and_the_others_go_on(self, tmp_path: Path) -> None:
        problem = Problem("a", (write_table(tmp_path, "a", normal=4),))  # two rows to fit on: too few for ours

        failed, fine = run([Job("tables", problem, name, 0) for name in ("offbeat", "knn1")], 1)

        assert failed.error is not None
        assert failed.error.startswith("TrainingDataError: X with n_samples = 2")
        assert fine.error is None

    def test_a_run_goes_on_behind_its_last_whole_line(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        ResultsFile(path).add(made_up("knn1", "a", 0.5))
        with path.open("a") as file:
            file.write('{"part": "tables", "probl')  # killed while it was written

        ResultsFile(path).add(made_up("knn1", "b", 0.6))

        assert [result.problem for result in ResultsFile(path).results] == ["a", "b"]

    def test_what_has_figures_is_not_missing_and_what_failed_is(self, tmp_path: Path) -> None:
        results = ResultsFile(tmp_path / "results.jsonl")
        results.add(made_up("knn1", "a", 0.5))
        results.add(Result("tables", "b", "knn1", 0, error="MemoryError: "))

        jobs = jobs_of("tables", [Problem(name, ()) for name in "abc"], ["knn1"], [0])

        assert [job.problem.name for job in results.missing(jobs)] == ["b", "c"]

    def test_results_of_a_method_that_changed_can_be_forgotten(self, tmp_path: Path) -> None:
        path = tmp_path / "results.jsonl"
        results = ResultsFile(path)
        for method in ("offbeat", "knn1"):
            results.add(made_up(method, "a", 0.5))

        results.forget(["offbeat"])

        assert [result.method for result in ResultsFile(path).results] == ["knn1"]


class TestPage:
    def page(self, results: Iterable[Result], ablation: dict[str, Any] | None = None) -> str:
        return render(summarise(list(results)), "two cores", {}, [], ablation)

    def test_means_are_over_problems_of_means_over_seeds(self) -> None:
        page = self.page(
            [made_up("offbeat", "a", 0.9, 0), made_up("offbeat", "a", 0.7, 1), made_up("offbeat", "b", 0.6, 0)]
        )

        # ((.9 + .7) / 2 + .6) / 2 = .7; AP is half of it, F1 a third; alone it ranks first.
        assert "| **offbeat** | 70.0 | 35.0 | 23.3 | 1.00 | 1.00 | 1.00 | 2.0 | 2.0 | 3 |" in page

    def test_what_each_part_adds_is_told_where_it_was_measured(self) -> None:
        week = {"visible_auroc": 0.99, "visible_ap": 0.8}
        row = {"auroc": 0.9, "ap": 0.7, "f1": 0.6, "us_a_row": 4.2, "runs": 8}
        report = {"seeds": [0], "means": {"tables": {"as it is": row, "less": row}, "week": {"as it is": week}}}

        page = self.page([made_up("offbeat", "a", 0.9)], ablation=report)

        assert "| as it is | 0.900 | 0.700 | 0.600 | 4.2 | 0.990 / 0.800 |" in page
        assert "| less | 0.900 | 0.700 | 0.600 | 4.2 |  |" in page
        assert "## What each part adds" not in self.page([made_up("offbeat", "a", 0.9)])

    def test_ours_is_compared_with_each_other_method(self) -> None:
        results = [made_up("offbeat", f"set {n}", 0.9) for n in range(6)]
        results += [made_up("knn1", f"set {n}", 0.9 - 0.01 * (n + 1)) for n in range(6)]
        results += [made_up("lof20", f"set {n}", 0.9) for n in range(6)]

        page = self.page(results)

        # Six differences of one sign: the exact two-sided p is 2 / 2 ** 6, and twice that after Holm.
        assert "| kNN, k=1 | 6 / 0 / 0 | +3.50 | 0.031 | 0.062 |" in page
        assert "| LOF, 20 neighbours | 0 / 6 / 0 | +0.00 | 1.000 | 1.000 |" in page
        assert "the 6 tables that all methods have" in page

    def test_a_method_that_failed_is_named_and_its_means_are_of_the_rest(self) -> None:
        page = self.page(
            [
                made_up("offbeat", "a", 0.9), made_up("offbeat", "b", 0.7), made_up("knn1", "a", 0.8),
                Result("tables", "b", "knn1", 0, error="MemoryError: too large"),
            ]
        )  # fmt: skip

        assert "kNN, k=1 (without 1 tables)" in page
        assert "- knn1 on b, seed 0: MemoryError: too large" in page

    def test_payments_show_the_spread_of_their_seeds(self) -> None:
        problem = "test week, label-free"
        page = self.page(
            [made_up("offbeat", problem, figure, seed, "transactions") for seed, figure in enumerate((0.9, 0.8))]
        )

        assert "### Test week, label-free" in page
        assert "| **offbeat** | 0.850 (0.800–0.900) |" in page

    def test_images_show_the_worst_digit_of_each_setting(self) -> None:
        page = self.page(
            [made_up("offbeat", f"one digit normal, {digit}", 0.9 + digit / 100, part="images") for digit in range(3)]
        )

        assert "| **offbeat** | 91.00 | 90.00 | 45.50 | 2.0 | 3 |" in page

    def test_a_diagram_is_drawn(self, tmp_path: Path) -> None:
        draw = np.random.default_rng(0)
        figures = {f"method {n}": dict(enumerate((draw.random(9) + n / 9).tolist())) for n in range(9)}
        named: dict[str, dict[str, float]] = {
            name: {str(key): value for key, value in of.items()} for name, of in figures.items()
        }

        draw_ranks(rank(named), {name: name for name in named}, tmp_path / "ranks.png")

        image: NDArray[np.uint8] = np.asarray(Image.open(tmp_path / "ranks.png").convert("L"))
        assert image.min() < 60  # drawn at all
        assert image[:, [0, 1, 2, -3, -2, -1]].min() == 255  # and nothing cut off at the sides


def test_a_folder_of_tables_becomes_a_page_and_a_second_run_adds_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("1_a", "2_bb"):
        write_table(data, name, normal=120)
    arguments = ["--data", str(data), "--seeds", "0", "--methods", "offbeat-pca", "knn1", "mahalanobis",
                 "--results", str(tmp_path / "results.jsonl"), "--page", str(tmp_path / "QUALITY.md"),
                 "--json", str(tmp_path / "quality.json")]  # fmt: skip

    main(arguments)
    first = (tmp_path / "results.jsonl").read_text()
    main(arguments)

    page = (tmp_path / "QUALITY.md").read_text()
    assert "| offbeat, PCA for the network | 100.0 | 100.0 | 100.0 |" in page
    assert "The part “images” was left out" in page
    assert (tmp_path / "results" / "quality" / "tables_auroc.png").exists()
    figures = json.loads((tmp_path / "quality.json").read_text())
    assert figures["tables"]["figures"]["auroc"]["knn1"] == {"1_a": 1.0, "2_bb": 1.0}
    assert (tmp_path / "results.jsonl").read_text() == first
    assert len(first.splitlines()) == 6


def test_one_method_alone_is_a_page_without_a_diagram(tmp_path: Path) -> None:
    write_table(tmp_path / "data", "a")
    main(["--data", str(tmp_path / "data"), "--seeds", "0", "--methods", "knn1",
          "--results", str(tmp_path / "results.jsonl"), "--page", str(tmp_path / "QUALITY.md"),
          "--json", str(tmp_path / "quality.json")])  # fmt: skip

    assert not (tmp_path / "results").exists()
    ranking = json.loads((tmp_path / "quality.json").read_text())["tables"]["rankings"]["auroc"]
    assert ranking == {"mean_ranks": {"knn1": 1.0}, "sets": 1, "friedman_p": None, "critical_difference": None}


def test_a_part_that_was_asked_for_and_has_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds nothing for the part 'images'"):
        main(["--data", str(tmp_path), "--parts", "images", "--results", str(tmp_path / "results.jsonl")])
