from __future__ import annotations

import itertools
import json
import math
import threading
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan.checkpoint import Checkpoint, checkpoints, generators, prune
from distgan.errors import RunError
from distgan.sampling import thumbnails
from distgan.spec import GuardSpec
from distgan.tracking import read_metrics
from distgan.training.guard import Guard, Kind, RollBack, Trouble, diversity
from distgan.training.learner import Learner
from distgan.training.loop import train
from distgan.training.workers import Workers

CALM = {"loss/critic": 1.0, "loss/generator": 0.7, "grad_norm/critic": 2.0, "grad_norm/generator": 3.0}
ALL_IS_WELL = {**CALM, "critic/accuracy": 0.7}


def watch(guard: Guard, *steps: dict[str, float], first: int = 1, images: int = 10**6, ratio: float | None = 0.8):
    """Let a guard see steps, the last of which is a log step."""
    for figures in steps:
        guard.observe({name: torch.tensor(value) for name, value in figures.items()})
    return guard.judge(first + len(steps) - 1, images, ratio)


# What counts as trouble


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30), st.floats(0.0, 0.98), st.floats(0.11, 2.0))
def test_a_calm_run_is_left_alone(norms, accuracy, ratio):
    guard = Guard(GuardSpec(patience=1))
    for step, norm in enumerate(norms, start=1):
        figures = {**CALM, "grad_norm/critic": norm, "critic/accuracy": accuracy}
        assert watch(guard, figures, first=step, ratio=ratio) == []


@pytest.mark.parametrize("name", ["loss/critic", "grad_norm/generator"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_step_that_is_not_finite_is_named(name, value):
    guard = Guard(GuardSpec())
    bad = {**ALL_IS_WELL, name: value}
    (trouble,) = watch(guard, ALL_IS_WELL, ALL_IS_WELL, bad, bad, first=11)
    assert (trouble.kind, trouble.since) == ("nonfinite", 12)
    assert f"step 13: {name} is {value}" in trouble.text


def test_a_trouble_that_goes_on_is_told_once_and_again_when_it_comes_back():
    guard = Guard(GuardSpec())
    bad = {**ALL_IS_WELL, "loss/critic": math.nan}
    told = [len(watch(guard, figures, first=i)) for i, figures in enumerate([bad, bad, ALL_IS_WELL, bad])]
    assert told == [1, 0, 0, 1]


@pytest.mark.parametrize("side", ["critic", "generator"])
def test_a_norm_beyond_what_was_usual_is_an_explosion(side):
    guard = Guard(GuardSpec(explosion=100.0))
    for step in range(1, 6):
        assert watch(guard, ALL_IS_WELL, first=step) == []
    usual = ALL_IS_WELL[f"grad_norm/{side}"]
    assert watch(guard, {**ALL_IS_WELL, f"grad_norm/{side}": 99 * usual}, first=6) == []
    (trouble,) = watch(guard, ALL_IS_WELL, {**ALL_IS_WELL, f"grad_norm/{side}": 101 * usual}, first=7)
    assert (trouble.kind, trouble.since) == ("exploding", 7)
    assert side in trouble.text
    assert "101 times" in trouble.text


@pytest.mark.parametrize("log_every", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("side", ["critic", "generator"])
def test_an_explosion_is_seen_before_the_first_log_step_and_the_first_steps_are_none(log_every, side):
    """A network's first gradients are far from its usual ones, in either direction."""
    norms = [1e-5, 1e-3, *[1.0] * 30, 2e3, *[1.0] * 17]
    guard, found = Guard(GuardSpec()), []
    for first in range(1, len(norms) + 1, log_every):
        window = norms[first - 1 : first - 1 + log_every]
        found += watch(guard, *({**ALL_IS_WELL, f"grad_norm/{side}": norm} for norm in window), first=first)
    assert [(trouble.kind, trouble.since) for trouble in found] == [("exploding", 32)]
    assert "2,000 times the usual 1" in found[0].text


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20), st.integers(1, 20))
def test_when_an_explosion_is_noticed_changes_not_which_step_it_was(norms, due):
    """The first log step is at the end; a checkpoint may be due before."""
    late, early = Guard(GuardSpec()), Guard(GuardSpec())
    found = watch(late, *({**ALL_IS_WELL, "grad_norm/critic": norm} for norm in norms))
    seen: list[Trouble] = []
    for step, norm in enumerate(norms, start=1):
        figures = {**ALL_IS_WELL, "grad_norm/critic": norm}
        early.observe({name: torch.tensor(value) for name, value in figures.items()})
        seen += early.check_state(step, finite=True) if step % due == 0 else []
    assert [*seen, *early.judge(len(norms), 10**6, 0.8)] == found


def test_a_gradient_that_begins_at_zero_explodes_not_when_it_moves():
    zero = {**ALL_IS_WELL, "grad_norm/critic": 0.0}
    guard = Guard(GuardSpec())
    assert watch(guard, zero) == []
    assert watch(guard, zero, ALL_IS_WELL, first=2) == []


def test_a_critic_that_is_always_right_has_won_after_patience():
    guard = Guard(GuardSpec(patience=3))
    right = {**CALM, "critic/accuracy": 0.995}
    assert watch(guard, ALL_IS_WELL, first=1) == []
    assert watch(guard, right, first=2) == []
    assert watch(guard, right, first=3) == []
    (trouble,) = watch(guard, right, first=4)
    assert (trouble.kind, trouble.since) == ("won", 1)
    assert "99.5%" in trouble.text


def test_a_critic_has_won_at_once_when_the_generator_s_gradient_is_gone():
    guard = Guard(GuardSpec(patience=100))
    assert watch(guard, ALL_IS_WELL, first=1) == []
    gone = {**CALM, "critic/accuracy": 1.0, "grad_norm/generator": 3.0 * 0.9e-3}
    (trouble,) = watch(guard, gone, first=2)
    assert (trouble.kind, trouble.since) == ("won", 1)
    assert "gradient is gone" in trouble.text


def test_a_streak_that_breaks_begins_anew():
    guard = Guard(GuardSpec(patience=3))
    right = {**CALM, "critic/accuracy": 1.0}
    for step, figures in enumerate([right, right, ALL_IS_WELL, right, right]):
        assert watch(guard, figures, first=step) == []


def test_a_critic_without_a_threshold_cannot_win():
    guard = Guard(GuardSpec(patience=1))
    assert watch(guard, {**CALM, "grad_norm/generator": 1e-9}, first=1) == []


def test_a_critic_that_ranks_has_won_only_when_the_generator_s_gradient_is_gone():
    """A Wasserstein critic is meant to be right."""
    guard = Guard(GuardSpec(patience=1, won="rollback"))
    right = {**CALM, "critic/ranking": 1.0}
    for step in range(1, 20):
        assert watch(guard, right, first=step) == []
        assert guard.suspects == {step}
    (trouble,) = watch(guard, {**right, "grad_norm/generator": 1e-3}, first=20)
    assert (trouble.kind, trouble.since) == ("won", 19)
    assert "ranks 100.0% of the pairs right" in trouble.text


def halves(guard: Guard, *losses: tuple[float, float], **options: Any) -> list[list[Trouble]]:
    """What a guard says after each ten steps, in two intervals, of (critic's, generator's) mean losses."""
    said = []
    for number, (critic, generator) in enumerate(losses):
        figures = [
            {**ALL_IS_WELL, "loss/critic": critic * (1 + wave), "loss/generator": generator * (1 - wave), **options}
            for wave in (-0.5, 0.5, 0.2, -0.2, 0.0)
        ]
        first = 10 * number + 1
        said.append([*watch(guard, *figures, first=first), *watch(guard, *figures, first=first + 5)])
    return said


APART = [(0.6, 0.8), (0.5, 1.0), (0.4, 1.5), (0.3, 3.0), (0.2, 6.0), (0.1, 9.0)]


def test_losses_that_drift_apart_for_epochs_are_said_once():
    said = halves(Guard(GuardSpec(), epoch_steps=20), *APART)
    assert [len(troubles) for troubles in said] == [0, 0, 0, 0, 1, 0]
    (trouble,) = said[4]
    assert (trouble.kind, trouble.since) == ("drifting", 11)
    assert "for 2 epochs, since step 11: the critic's fell from 0.6 to 0.2, the generator's climbed from 0.8 to 6" in (
        trouble.text
    )


@pytest.mark.parametrize(
    "losses",
    [
        APART[:4],
        [(critic, 1.0) for critic, _ in APART],
        [(1.0, generator) for _, generator in APART],
        APART[::-1],
        [*APART[:3], APART[0], *APART[1:3]],
        [(0.6 - 0.01 * i, 0.8 + 0.01 * i) for i in range(6)],
    ],
)
def test_losses_that_do_not_drift_apart_for_long_or_far_are_left_alone(losses):
    assert halves(Guard(GuardSpec(), epoch_steps=20), *losses) == [[] for _ in losses]


def test_what_was_usual_in_a_stage_says_nothing_of_the_next():
    """Neither of its gradients nor of its losses; what was seen in it and not judged yet still is."""
    guard = Guard(GuardSpec(explosion=10.0), epoch_steps=20)
    assert halves(guard, *APART[:4]) == [[]] * 4
    guard.observe({name: torch.tensor(value) for name, value in {**ALL_IS_WELL, "loss/critic": math.nan}.items()})
    guard.begin_stage(10)
    large = {**ALL_IS_WELL, "grad_norm/critic": 1e3}
    assert [trouble.kind for trouble in watch(guard, *[large] * 9, first=42)] == ["nonfinite"]
    assert watch(guard, {**large, "grad_norm/critic": 9e3}, first=51) == []
    assert [trouble.kind for trouble in watch(guard, {**large, "grad_norm/critic": 2e5}, first=52)] == ["exploding"]
    assert halves(guard, *APART[4:]) == [[], []]


def test_figures_of_a_stage_are_shares_of_its_own_batches():
    share = 0.5
    guard = Guard(GuardSpec(), average=lambda figures: figures * share)
    guard.observe({name: torch.tensor(value) for name, value in CALM.items()})
    guard.begin_stage(10)
    share = 2.0
    guard.observe({name: torch.tensor(value) for name, value in CALM.items()})
    assert guard.means()["mean/loss/critic"] == (0.5 + 2.0) / 2


def test_losses_that_say_nothing_of_who_is_ahead_may_drift():
    guard = Guard(GuardSpec(), epoch_steps=2)
    for step, (critic, generator) in enumerate(APART * 2, start=1):
        figures = {**CALM, "loss/critic": critic, "loss/generator": generator, "critic/ranking": 0.8}
        assert watch(guard, figures, first=step) == []
    assert halves(Guard(GuardSpec()), *APART) == [[] for _ in APART], "how long an epoch is, is not known"


def test_the_mean_of_each_figure_is_of_all_steps_since_the_last_log_step():
    guard = Guard(GuardSpec())
    for losses in ([1.0, 2.0, 6.0], [4.0, 0.0]):
        for loss in losses:
            guard.observe({**{name: torch.tensor(1.0) for name in ALL_IS_WELL}, "loss/critic": torch.tensor(loss)})
        means = guard.means()
        assert means.pop("mean/loss/critic") == sum(losses) / len(losses)
        assert means == {f"mean/{name}": 1.0 for name in ALL_IS_WELL if name != "loss/critic"}
        guard.judge(3, 0, None)


def test_the_mean_of_a_figure_that_not_every_step_has_is_of_those_that_have_it():
    guard = Guard(GuardSpec())
    for step in range(1, 8):
        penalty = {"critic/penalty": float(step)} if step % 3 == 1 else {}
        figures = {**ALL_IS_WELL, **penalty}
        guard.observe({name: torch.tensor(value) for name, value in figures.items()})
        if step == 4:  # put down and taken up again within the interval
            guard = Guard(GuardSpec(), json.loads(json.dumps(guard.state())))
    expected = {**ALL_IS_WELL, "critic/penalty": 4.0}
    assert guard.means() == pytest.approx({f"mean/{name}": value for name, value in expected.items()})
    assert guard.judge(7, 0, None) == []
    guard.observe({name: torch.tensor(value) for name, value in ALL_IS_WELL.items()})
    assert "mean/critic/penalty" not in guard.means()


def test_a_penalty_that_is_not_finite_is_of_its_own_step():
    guard = Guard(GuardSpec())
    (trouble,) = watch(guard, ALL_IS_WELL, {**ALL_IS_WELL, "critic/penalty": math.nan}, ALL_IS_WELL, first=5)
    assert (trouble.kind, trouble.since) == ("nonfinite", 5)
    assert "step 6: critic/penalty is nan" in trouble.text


@given(
    st.sampled_from(["exploding", "nonfinite", "won", "collapse", "drifting"]),
    *(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 60), st.integers(1, 4)),
)
def test_going_back_finds_the_checkpoint_that_it_would_find_if_all_were_kept(
    tmp_path_factory, kind, log_every, save_every, keep_last, begins, patience
):
    """However often is logged and saved, whatever the trouble: nothing that is needed has been removed meanwhile."""
    run = tmp_path_factory.mktemp("run")
    guard = Guard(GuardSpec.model_validate({kind: "rollback", "patience": patience}), epoch_steps=8)
    saved: list[int] = []

    def go(troubles: list[Trouble]) -> bool:
        """Whether a trouble has the run go back; then it goes to the newest of all checkpoints from before."""
        wanted = [trouble for trouble in troubles if trouble.kind == kind]
        if not wanted:
            return False
        good = [step for step in saved if step < wanted[0].since]
        found = go_back_to(run, wanted[0].since)
        assert found == (good[-1] if good else None)
        return True

    for step in range(1, 150):
        bad = step >= begins
        figures = {
            **ALL_IS_WELL,
            "critic/accuracy": 1.0 if kind == "won" and bad else 0.7,
            "loss/generator": math.nan if kind == "nonfinite" and bad else 0.7 * 1.02 ** (bad * (step - begins)),
            "loss/critic": 0.98 ** (bad * (step - begins)),
            "grad_norm/critic": 1e9 if kind == "exploding" and bad else 2.0,
        }
        guard.observe({name: torch.tensor(value) for name, value in figures.items()})
        ratio = 0.01 if kind == "collapse" and bad else 0.8
        if step % log_every == 0 and go(guard.judge(step, 10**6, ratio)):
            return
        if step % save_every == 0:
            if go(guard.check_state(step, finite=True)):
                return
            (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
            saved.append(step)
            prune(run, keep_last, None, guard.suspects)
            guard = Guard(guard._spec, json.loads(json.dumps(guard.state())), epoch_steps=8)
    assert begins <= 5, "a usual gradient is not known yet"


def go_back_to(run, since: int) -> int | None:
    """The step of the checkpoint that a run goes back to; the checkpoints are empty folders."""
    left = [path for path in checkpoints(run) if int(path.name[5:]) < since]
    return int(left[-1].name[5:]) if left else None


def test_images_that_are_all_alike_are_a_collapse_after_patience():
    guard = Guard(GuardSpec(patience=2))
    assert watch(guard, ALL_IS_WELL, first=1, ratio=0.09) == []
    (trouble,) = watch(guard, ALL_IS_WELL, first=2, ratio=0.05)
    assert (trouble.kind, trouble.since) == ("collapse", 0)
    assert "5.0%" in trouble.text


def test_an_untrained_run_is_given_time():
    guard = Guard(GuardSpec(patience=1, grace_images=100))
    right = {**CALM, "critic/accuracy": 1.0}
    assert watch(guard, right, first=1, images=100, ratio=0.0) == []
    assert {trouble.kind for trouble in watch(guard, right, first=2, images=101, ratio=0.0)} == {"won", "collapse"}


def test_batches_of_one_image_say_nothing_of_diversity():
    assert watch(Guard(GuardSpec(patience=1)), ALL_IS_WELL, ratio=None) == []


def test_weights_that_are_not_finite_are_found_when_they_would_be_saved():
    guard = Guard(GuardSpec())
    assert guard.check_state(4, finite=True) == []
    (trouble,) = guard.check_state(5, finite=False)
    assert (trouble.kind, trouble.since) == ("nonfinite", 5)
    assert guard.check_state(6, finite=False) == []  # told once


def test_a_loss_between_two_log_steps_is_found_when_the_run_is_saved():
    guard = Guard(GuardSpec())
    guard.observe({"loss/critic": torch.tensor(math.nan)})
    guard.observe({"loss/critic": torch.tensor(1.0)})
    (trouble,) = guard.check_state(7, finite=True)
    assert trouble.since == 5
    assert "step 6" in trouble.text


# Diversity


@pytest.mark.parametrize("size", [8, 16, 64])
def test_diversity_is_the_mean_distance_to_the_nearest_other(size):
    images = torch.rand(7, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1
    small = torch.nn.functional.interpolate(images, 16, mode="area") if size >= 16 else images.repeat_interleave(2, 2)
    small = small if size >= 16 else small.repeat_interleave(2, 3)
    nearest = [min((small[i] - small[j]).norm() for j in range(7) if j != i) for i in range(7)]
    torch.testing.assert_close(diversity(thumbnails(images)), torch.stack(nearest).mean())


def test_a_generator_with_a_few_favourites_has_no_diversity():
    favourites = torch.rand(4, 3, 16, 16)
    assert diversity(thumbnails(favourites.repeat(8, 1, 1, 1))).item() == pytest.approx(0.0, abs=1e-5)
    assert diversity(thumbnails(favourites)).item() > 1


# What is done


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_done_is_what_the_specification_says(kind):
    trouble = Trouble(kind, 5, "step 5: something")
    assert "step 5: something" in Guard(GuardSpec.model_validate({kind: "warn"})).handle(trouble, 0)
    with pytest.raises(RunError, match="step 5: something"):
        Guard(GuardSpec.model_validate({kind: "stop"})).handle(trouble, 0)
    guard = Guard(GuardSpec.model_validate({kind: "rollback", "max_rollbacks": 2}))
    for rollbacks in (0, 1):
        with pytest.raises(RollBack):
            guard.handle(trouble, rollbacks)
    with pytest.raises(RunError, match="2 roll-backs have not helped"):
        guard.handle(trouble, 2)


@given(st.data())
def test_a_guard_that_is_put_down_and_taken_up_again_sees_the_same(data):
    spec = GuardSpec(patience=2, explosion=10.0, **dict.fromkeys(("won", "collapse", "drifting"), "rollback"))
    value = st.sampled_from([0.0, 1.0, 50.0, math.nan])
    accuracy, ratio = st.sampled_from([0.5, 1.0]), st.sampled_from([0.01, 0.9])
    one, other = (Guard(spec, epoch_steps=3) for _ in range(2))
    for step in range(1, data.draw(st.integers(1, 24))):
        figures = {**CALM, "grad_norm/critic": data.draw(value), "critic/accuracy": data.draw(accuracy)}
        figures |= {"loss/critic": data.draw(st.floats(0, 1)), "loss/generator": data.draw(st.floats(0, 1))}
        for guard in (one, other):
            guard.observe({name: torch.tensor(number) for name, number in figures.items()})
        if step % 3 == 0:
            share = data.draw(ratio)
            assert one.judge(step, 10**6, share) == other.judge(step, 10**6, share)
        assert one.means() == pytest.approx(other.means(), nan_ok=True)
        other = Guard(spec, json.loads(json.dumps(other.state())), epoch_steps=3)
        assert one.suspects == other.suspects


def test_what_a_version_remembered_that_watched_other_figures_is_no_hindrance():
    guard = Guard(GuardSpec(), {"names": list(CALM), "window": [list(CALM.values())], "norms": {"critic": [2.0]}})
    (trouble,) = watch(guard, {**CALM, "critic/ranking": 0.9}, {**CALM, "grad_norm/critic": 1e4, "critic/ranking": 0.9})
    assert (trouble.kind, trouble.since) == ("exploding", 1)


# Provoked in real runs


def run(spec, out, **options):
    return train(spec, out, Workers.alone(torch.device("cpu")), console=False, **options)


def log(out) -> str:
    return (out / "log.txt").read_text()


def spoil(monkeypatch, step: int, spoiling, times: int = 1) -> None:
    """Have something happen to the learner after a step, the first so many times that it is taken."""
    update, left = Learner.update_generator, itertools.repeat(None, times)

    def spoiled(self, real):
        loss = update(self, real)
        if self.step == step and next(left, "none left") is None:
            with torch.no_grad():
                spoiling(self)
        return loss

    monkeypatch.setattr(Learner, "update_generator", spoiled)


def an_infinite_weight(learner: Learner) -> None:
    next(learner.critic.parameters())[0, 0, 0, 0] = math.inf


def test_an_infinite_weight_stops_the_run_and_is_never_saved(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, 6, an_infinite_weight)
    with pytest.raises(RunError, match=r"step 7: .*nan"):
        run(tiny(), tmp_path / "run")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000004"]


def test_an_infinite_weight_is_rolled_back(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, 6, an_infinite_weight)
    assert run(tiny(guard__nonfinite="rollback"), tmp_path / "run").step == 12
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, 13))
    assert all(math.isfinite(value) for line in read_metrics(tmp_path / "run") for value in line.values())
    rates = [line["learning_rate/critic"] for line in read_metrics(tmp_path / "run")]
    assert rates == [2e-4] * 4 + [1e-4] * 8
    assert "Going back to step 4" in log(tmp_path / "run")
    state = Checkpoint(checkpoints(tmp_path / "run")[-1]).state
    assert (state.rollbacks, state.rate_scale) == (1, 0.5)
    assert state.seeds["noise"] != state.spec.seed


def test_noise_is_fresh_after_a_roll_back(tiny, tmp_path, monkeypatch):
    seen: dict[str, list[float]] = {}
    for name, options in (("calm", {}), ("spoiled", {"guard__nonfinite": "rollback", "guard__rollback_lr": 1.0})):
        if name == "spoiled":
            spoil(monkeypatch, 6, an_infinite_weight)
        run(tiny(**options), tmp_path / name)
        seen[name] = [line["loss/critic"] for line in read_metrics(tmp_path / name)]
    assert seen["calm"][:4] == seen["spoiled"][:4]
    assert all(a != b for a, b in zip(seen["calm"][4:], seen["spoiled"][4:], strict=True))


def test_a_run_that_rolled_back_resumes_as_if_it_never_had_ended(tiny, tmp_path, monkeypatch):
    spec = tiny(guard__nonfinite="rollback")
    spoil(monkeypatch, 6, an_infinite_weight)
    run(spec, tmp_path / "whole")
    monkeypatch.undo()
    spoil(monkeypatch, 6, an_infinite_weight)
    stop = threading.Event()
    update = Learner.update_critic

    def stopping(self, real, repeat):
        if self.step == 9:
            stop.set()
        return update(self, real, repeat)

    monkeypatch.setattr(Learner, "update_critic", stopping)
    assert run(spec, tmp_path / "parts", stop=stop).ended == "interrupted"
    monkeypatch.undo()
    run(spec, tmp_path / "parts", resume=True)
    last = [Checkpoint(checkpoints(tmp_path / name)[-1]).state for name in ("whole", "parts")]
    tensors = {name for name in last[0].sha256 if name.endswith(".safetensors")}
    assert {name: last[0].sha256[name] for name in tensors} == {name: last[1].sha256[name] for name in tensors}
    assert last[0].rollbacks == last[1].rollbacks == 1


def test_roll_backs_are_bounded(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, 6, an_infinite_weight, times=10)
    with pytest.raises(RunError, match="2 roll-backs have not helped"):
        run(tiny(guard__nonfinite="rollback", guard__max_rollbacks=2), tmp_path / "run")
    assert log(tmp_path / "run").count("Going back") == 2


def test_without_a_good_checkpoint_the_run_begins_again(tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, 2, an_infinite_weight)
    assert run(tiny(guard__nonfinite="rollback"), tmp_path / "run").step == 12
    assert "Going back to step 0" in log(tmp_path / "run")


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_a_learning_rate_of_1_is_noticed_and_rolled_back_until_it_is_small_enough(tiny, tmp_path, kind):
    spec = tiny(
        objective__kind=kind,
        training__precision="float32",
        model__generator__width=8,
        model__critic__width=8,
        optimizer={"generator": {"lr": 1.0}, "critic": {"lr": 1.0}},
        training__images=320,
        guard={
            **dict.fromkeys(("exploding", "won", "collapse"), "rollback"),
            "grace_images": 0,
            "patience": 3,
            "rollback_lr": 1e-3,
        },
    )
    assert run(spec, tmp_path / "run").step == 40
    assert "Going back" in log(tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-1]["learning_rate/critic"] <= 1e-3


def test_weights_that_make_gradients_explode_are_rolled_back(tiny, tmp_path, monkeypatch):
    def make_steep(learner: Learner) -> None:
        list(learner.critic.parameters())[-1].mul_(1e6)

    spoil(monkeypatch, 5, make_steep)
    assert run(tiny(objective__kind="hinge", guard__exploding="rollback"), tmp_path / "run").step == 12
    assert "step 6: the critic's gradient explodes" in log(tmp_path / "run")
    assert "Going back to step 4" in log(tmp_path / "run")


def test_a_generator_made_constant_is_a_collapse(tiny, tmp_path, monkeypatch):
    def make_constant(learner: Learner) -> None:
        for parameter in learner.generator.parameters():
            parameter.zero_()

    spoil(monkeypatch, 5, make_constant)
    spec = tiny(
        optimizer__generator={"lr": 1e-12},
        guard={"collapse": "rollback", "patience": 3, "grace_images": 0, "collapse_ratio": 0.01},
    )
    assert run(spec, tmp_path / "run").step == 12
    assert "since step 6 its images are all alike" in log(tmp_path / "run")
    assert "Going back to step 4" in log(tmp_path / "run")
    assert all(line["diversity"] > 0.01 for line in read_metrics(tmp_path / "run"))


def test_the_checkpoint_from_before_the_trouble_outlives_the_newer_ones(tiny, tmp_path, monkeypatch):
    """Patience is longer than the checkpoints are kept: the good one must still be there."""

    def make_constant(learner: Learner) -> None:
        for parameter in learner.generator.parameters():
            parameter.zero_()

    spoil(monkeypatch, 5, make_constant)
    spec = tiny(
        optimizer__generator={"lr": 1e-12},
        training__checkpoint_every_images=8,
        training__keep_last=2,
        guard={"collapse": "rollback", "patience": 6, "grace_images": 0, "collapse_ratio": 0.01},
    )
    run(spec, tmp_path / "run")
    assert "Going back to step 4" in log(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("log_every", "save_every", "keep_last"), [(50, 10, 2), (7, 4, 1), (100, 3, 1)])
def test_an_explosion_between_log_steps_costs_no_more_than_since_the_last_checkpoint(
    tiny, tmp_path, monkeypatch, log_every, save_every, keep_last
):
    def make_steep(learner: Learner) -> None:
        list(learner.critic.parameters())[-1].mul_(1e6)

    spoil(monkeypatch, 52, make_steep)
    spec = tiny(
        objective__kind="hinge",
        guard__exploding="rollback",
        tracking__log_every=log_every,
        training={
            "batch_size": 8,
            "images": 8 * 70,
            "checkpoint_every_images": 8 * save_every,
            "keep_last": keep_last,
            "keep_generator_every_images": 8,
        },
    )
    assert run(spec, tmp_path / "run").step == 70
    good = 51 // save_every * save_every  # the weights of step 52 are what makes the gradient of step 53 explode
    assert "step 53: the critic's gradient explodes" in log(tmp_path / "run")
    assert f"Going back to step {good}" in log(tmp_path / "run")
    states = [Checkpoint(path).state for path in generators(tmp_path / "run")]
    assert [(state.step, state.rollbacks) for state in states] == [(s, int(s > good)) for s in range(1, 71)]


def test_a_critic_that_wins_is_said(tiny, tmp_path):
    """A critic that learns and a generator that hardly does."""
    spec = tiny(
        training__images=320,
        optimizer={"generator": {"lr": 1e-12}, "critic": {"lr": 1e-2}},
        guard={"patience": 3, "grace_images": 0, "won_accuracy": 0.9},
    )
    run(spec, tmp_path / "run")
    assert "the critic has won" in log(tmp_path / "run")
    assert "the losses have drifted apart for 2 epochs, since step 5: the critic's fell" in log(tmp_path / "run")


def test_a_run_that_goes_well_hears_nothing(tiny, tmp_path):
    run(tiny(), tmp_path / "run")
    assert "guard." not in log(tmp_path / "run")
    assert "augmentation" not in log(tmp_path / "run")


def test_a_critic_that_has_learnt_a_small_set_by_heart_is_told_of_augmentation(tiny, tmp_path, monkeypatch):
    """Once, also where the run is stopped and goes on meanwhile."""
    monkeypatch.setattr("distgan.training.advice.LEAST_IMAGES", 16)
    spec = tiny(
        training__images=160,
        data__limit=8,
        optimizer={"generator": {"lr": 1e-12}, "critic": {"lr": 1e-2}},
        guard={"grace_images": 24},
    )
    run(spec.with_training(images=120), tmp_path / "run")
    said = log(tmp_path / "run").count(
        "augmentation.colour=true augmentation.translation=0.125 augmentation.cutout=0.5"
    )
    run(spec, tmp_path / "run", resume=True)
    assert said == log(tmp_path / "run").count("augmentation.target=0.6") == 1
    assert "these 8 by heart" in log(tmp_path / "run")
