"""Scores as a whole: the same for any number of workers, and what is kept is used."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from distgan.evaluation import pictures as pictures_module
from distgan.evaluation.features import Described, Features
from distgan.evaluation.kept import KeptVectors
from distgan.evaluation.metrics import METRICS
from distgan.evaluation.scoring import Images, add_up, block_size, gather, scores, setting_of
from shards.errors import InputError

SIZE = 16


def score(
    generated: Images,
    real: Images,
    count: int,
    real_count: int,
    member: "Member",
    features: Features | None = None,
    kept: KeptVectors | None = None,
) -> dict[str, float]:
    """All three steps; the first worker has the scores."""
    setting = setting_of(count, real_count, 3, SIZE, features)
    made = gather(generated, real, setting, metrics=list(METRICS), features=features, workers=member, kept=kept)
    add_up(made, member)
    return scores(made) if member.rank == 0 else {}


def alone() -> "Member":
    return Member(Together(1), 0)


@pytest.fixture(autouse=True)
def _few_patches(monkeypatch):
    monkeypatch.setattr(pictures_module, "PATCHES", 1024)  # the distance itself has tests of its own


class Together:
    """Threads that stand for workers: their sums are in the order of their ranks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count)
        self.values: list[Tensor] = [torch.zeros(())] * count

    def run(self, work: Callable[["Member"], dict[str, float]]) -> list[dict[str, float]]:
        results: list[dict[str, float] | BaseException] = [{} for _ in range(self.count)]

        def one(rank: int) -> None:
            try:
                results[rank] = work(Member(self, rank))
            except BaseException as error:
                results[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results  # type: ignore[return-value]


class Member:
    """One of them."""

    device = torch.device("cpu")

    def __init__(self, together: Together, rank: int) -> None:
        self.together, self.rank, self.world_size = together, rank, together.count

    def sum(self, values: Tensor) -> Tensor:
        self.together.barrier.wait()
        self.together.values[self.rank] = values.clone()
        self.together.barrier.wait()
        return torch.stack(self.together.values).sum(0)


def pictures(seed: int, bright: float = 1.0) -> Callable[[int, int], Tensor]:
    def images(first: int, count: int) -> Tensor:
        rows = [
            torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed + i)) for i in range(first, first + count)
        ]
        soft = nn.functional.interpolate(torch.stack(rows), (SIZE, SIZE), mode="bilinear")
        return (soft * 255 * bright).round().to(torch.uint8)

    return images


def described(scale: float = 1.0) -> Features:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 5, stride=3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.requires_grad_(False)

    def describe(images: Tensor) -> Described:
        vectors = scale * network(images.float() / 255)
        return Described(vectors, vectors[:, :5])

    return Features("tiny", "FD-tiny", "0" * 64, network, describe)


TINY = described()


def scored(
    member: Member, count: int = 130, real_count: int = 110, kept: KeptVectors | None = None
) -> dict[str, float]:
    return score(pictures(10_000, 0.8), pictures(0), count, real_count, member, TINY, kept)


def test_many_workers_find_the_scores_of_one():
    (one,) = Together(1).run(scored)
    assert set(one) >= {"frechet", "kernel", "kernel_error", "precision", "inception", "wasserstein", "ms_ssim"}
    for count in (3, 16):  # the last has workers without a block
        first, *others = Together(count).run(scored)
        assert first == pytest.approx(one, rel=1e-6)
        assert not any(others)


def test_kept_vectors_give_the_same_and_are_asked_first(tmp_path):
    (plain,) = Together(1).run(scored)
    kept = KeptVectors(tmp_path, {"of": "these"})
    for _ in range(2):
        assert Together(2).run(lambda member: scored(member, kept=kept))[0] == pytest.approx(plain, rel=1e-6)
    assert len(list(kept.folder.glob("*.npy"))) == -(-110 // block_size(110))
    file = kept.folder / "000003.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])  # cut off by somebody: made again
    assert Together(1).run(lambda member: scored(member, kept=kept))[0] == pytest.approx(plain, rel=1e-6)
    assert file.read_bytes() == whole
    assert KeptVectors(tmp_path, {"of": "others"}).get(0) is None


def test_runs_that_keep_the_same_vectors_at_once_do_not_mind_each_other(tmp_path):
    vectors = torch.arange(600_000.0).view(300, 2000)
    begin = threading.Barrier(6)

    def run() -> None:
        kept = KeptVectors(tmp_path, {"of": "these"})
        for block in range(12):
            begin.wait(timeout=60)
            kept.put(block, vectors + block)

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(run) for _ in range(6)]:
            each.result()
    kept = KeptVectors(tmp_path, {"of": "these"})
    assert sorted(path.name for path in kept.folder.iterdir()) == [f"{b:06d}.npy" for b in range(12)] + ["key.json"]
    for block in range(12):
        found = kept.get(block)
        assert found is not None
        assert torch.equal(found, vectors + block)


def test_equal_sets_score_as_equal():
    found = score(pictures(0), pictures(0), 100, 100, alone(), TINY)
    assert found["frechet"] == pytest.approx(0, abs=1e-9)
    assert found["wasserstein"] == 0
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["ms_ssim"] == found["ms_ssim_of_real"]


def test_what_cannot_be_had_is_left_out():
    found = score(pictures(0), pictures(5), 20, 20, alone())
    assert set(found) == {"wasserstein", "wasserstein_16", "ms_ssim", "ms_ssim_of_real"}


def test_metrics_name_their_scores():
    found = score(pictures(0), pictures(5), 100, 100, alone(), TINY)
    named = {name for metric in METRICS.values() for name in metric.names}
    assert set(found) == named | {"wasserstein_16"}


@pytest.mark.parametrize(("count", "real_count"), [(5, 1), (3, 5)])
def test_too_few_images(count, real_count):
    with pytest.raises(InputError, match="at least 2 real images"):
        scored(alone(), count, real_count)


def test_features_that_give_nonsense():
    with pytest.raises(InputError, match="not finite"):
        score(pictures(0), pictures(5), 20, 20, alone(), described(float("nan")))
