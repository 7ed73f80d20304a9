from __future__ import annotations

import contextlib
import json
import math
import re

import pytest
import torch

from distgan.bench import speed, switches
from distgan.bench.switches import SWITCHES, Found, Line, Loss, Speed, as_json, as_table, bench_switches
from distgan.spec import dump_spec
from distgan.training.graphs import BACKENDS, WARM_UP
from distgan.training.learner import Learner
from shards.errors import InputError

pytestmark = pytest.mark.slow  # each trains some runs

MEMORY = switches._memory
PENALISED = {"objective__r1": 1.0, "model__critic": {"width": 2, "normalisation": "layer"}}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One round; and memory, which takes seconds, is described by one test alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "ROUNDS", 1)
        patch.setattr(switches, "ROUNDS", 1)
        patch.setattr(switches, "_memory", lambda off, on: "less of it")
        yield


def bench(spec, *names, steps=8, seeds=2) -> dict[str, Line]:
    """The lines of some switches, by name."""
    found = bench_switches(spec, names, steps=steps, seeds=seeds, round_seconds=0)
    assert (found.steps, found.seeds) == (steps, seeds)
    return {line.switch: line for line in found.lines}


@pytest.fixture(scope="module")
def found(quick, tiny):
    """All switches of a run that may have most of them; and how many updates of the generator that took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switches, "computes_in_bfloat16", lambda device: True)
        patch.setitem(SWITCHES, "compile", SWITCHES["compile"]._replace(refused=lambda device: "it takes too long"))
        updates, update = [], Learner.update_generator
        patch.setattr(Learner, "update_generator", lambda self, real: (updates.append(1), update(self, real))[1])
        return bench_switches(tiny(**PENALISED), steps=8, seeds=2, round_seconds=0), len(updates)


def test_each_switch_has_a_line(found):
    lines = {line.switch: line for line in found[0].lines}
    assert list(lines) == list(SWITCHES)
    for name in ("bfloat16", "share_fakes", "penalty_every", "accumulate"):
        line = lines[name]
        assert line.why_not is None
        assert line.speed.off > 0
        assert line.speed.on > 0
        assert line.speed.gain == pytest.approx(line.speed.on / line.speed.off - 1)
        assert set(line.losses) == {"critic", "generator"}
        assert all(math.isfinite(loss.on) and loss.spread > 0 for loss in line.losses.values())
    assert "micro-batches of 4 images" in lines["accumulate"].notes[0]
    assert lines["compile"].why_not == "it takes too long"
    assert lines["tfloat32"].speed is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_a_cpu_has_not_is_said(found):
    lines = {line.switch: line for line in found[0].lines}
    assert "CPU" in lines["graphs"].why_not
    assert "NVIDIA" in lines["tfloat32"].why_not


def test_micro_batches_change_no_loss_without_batchnorm_and_save_memory(tiny, monkeypatch):
    """Of both networks: the critic's is LayerNorm, the generator has none."""
    monkeypatch.setattr(switches, "_memory", MEMORY)
    without = {"width": 2, "normalisation": "none"}
    spec = tiny(**{**PENALISED, "model__generator": without, "training__precision": "float32"})
    line = bench(spec, "accumulate")["accumulate"]
    for loss in line.losses.values():
        assert loss.on == pytest.approx(loss.off, rel=1e-4)
        assert loss.on != loss.off  # it was computed otherwise
    assert line.inside
    (note,) = line.notes
    with_it, without = map(float, re.search("take (.+) MiB, and (.+) MiB without", note).groups())
    assert 0 < with_it < without


def test_equal_runs_are_trained_once(found):
    """Two seeds of the run itself, of it in the other precision, and with each of three more switches."""
    _, updates = found
    runs = 2 * (1 + 1 + 3)
    cycles = 3 * (1 + 1) + (1 + 4)  # each side's updates in a round
    assert updates == 8 * runs + 3 * cycles  # to warm up, to see how long it takes, and in a round


def test_the_losses_are_those_of_training(tiny, tmp_path):
    """What the loop writes down of the same run."""
    import distgan

    spec = tiny(training__precision="float32")  # 12 steps
    runs = []
    for seed in (3, 4):
        out = tmp_path / str(seed)
        distgan.train(spec.model_copy(update={"seed": seed}), out=out, console=False)
        runs.append(distgan.read_metrics(out)[-3:])
    line = bench(spec, "share_fakes", steps=12)["share_fakes"]
    for side in ("critic", "generator"):
        means = [sum(row[f"loss/{side}"] for row in rows) / 3 for rows in runs]
        assert line.losses[side].off == pytest.approx(sum(means) / 2, rel=1e-5)
        assert line.losses[side].spread == pytest.approx(max(means) - min(means), rel=1e-3)


def test_losses_are_means_over_whole_cycles_of_penalties(tiny, monkeypatch):
    """Of 8 steps the last quarter would be two of the four from one penalty to the next."""
    windows = []
    of = Loss.of.__func__
    monkeypatch.setattr(Loss, "of", classmethod(lambda cls, *given: (windows.append(given[2]), of(cls, *given))[1]))
    bench(tiny(**PENALISED), "penalty_every")
    assert windows == [4, 4]
    line = bench(tiny(**PENALISED, objective__penalty_every=16), "penalty_every")["penalty_every"]
    assert line.on == "16"
    assert "16 steps" in line.why_not


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("penalty_every", {}, "there is no penalty"),
        ("share_fakes", {"objective__n_critic": 2}, "objective.n_critic is 2"),
        ("accumulate", {"training__batch_size": 7}, "training.batch_size = 7"),
        ("share_fakes", {"objective__kind": "elbo", "model__critic": {"name": "dcgan_encoder", "width": 2}}, "elbo"),
        ("compile", {"training__stages": [{"size": 8, "images": 9}, {"size": 16}]}, "a run that grows"),
    ],
)
def test_a_switch_that_a_run_cannot_have_says_why(tiny, name, changes, said):
    line = bench(tiny(**changes), name)[name]
    assert said in line.why_not
    assert line.speed is None
    assert line.losses is None
    assert not line.inside


def test_what_fails_on_the_way_is_said_too(tiny, monkeypatch):
    class Uncapturable:
        def __init__(self, device):
            self.beside = contextlib.nullcontext

        def capture(self, work):
            raise RuntimeError("operation not permitted")

    monkeypatch.setitem(BACKENDS, "cpu", Uncapturable)
    line = bench(tiny(), "graphs", steps=2 * WARM_UP)["graphs"]
    assert "operation not permitted" in line.why_not
    assert line.speed is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("something else"),
    ],
)
def test_too_little_memory_for_a_switch_is_a_reason_and_no_other_failure_is(tiny, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(Learner, "update_generator", fail)
    if "something else" in str(error):
        with pytest.raises(RuntimeError, match="something else"):
            bench(tiny(), "accumulate")
    else:
        assert "out of memory" in bench(tiny(), "accumulate")["accumulate"].why_not


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_graphs_which_change_no_number(tiny):
    line = bench(tiny(training__precision="float32"), "graphs", steps=4 * WARM_UP)["graphs"]
    assert line.why_not is None
    assert line.speed.on > 0
    for loss in line.losses.values():
        assert loss.on == pytest.approx(loss.off, rel=1e-2)


def test_what_is_wrong_with_the_run_itself_is_said_before_anything_is_drawn(tiny, monkeypatch):
    monkeypatch.setattr(switches, "synthesize", None)
    with pytest.raises(InputError, match="no objective is called 'hinges'"):
        bench_switches(tiny(data__shards="none", objective__kind="hinges"))


def test_an_autoencoder_has_one_loss_and_a_run_that_grows_is_measured_at_its_final_size(tiny):
    autoencoder = {"objective__kind": "elbo", "model__critic": {"name": "dcgan_encoder", "width": 2}}
    stages = [{"size": 8, "images": 9, "batch_size": 4}, {"size": 16, "fade_images": 20}]
    for changes, sides in ((autoencoder, {"critic"}), ({"training__stages": stages}, {"critic", "generator"})):
        line = bench(tiny(**changes), "accumulate", steps=4)["accumulate"]
        assert line.why_not is None
        assert set(line.losses) == sides


def test_without_shards_faces_are_invented_and_thrown_away(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(switches, "FACES", 16)
    monkeypatch.setattr(switches.tempfile, "tempdir", str(tmp_path))
    found = bench_switches(tiny(data__shards=str(tmp_path / "none")), ["accumulate"], 4, 2, round_seconds=0)
    assert found.images == "16 invented faces"
    assert found.lines[0].losses
    assert not list(tmp_path.iterdir())
    asked = tiny(data__shards="none", model__condition={"classes": True})
    with pytest.raises(InputError, match=r"no shards at none.*model\.condition"):
        bench_switches(asked, ["accumulate"])


def test_shards_that_do_not_fit_are_not_passed_over(tiny):
    with pytest.raises(InputError, match=r"data\.image_size"):
        bench_switches(tiny(data__image_size=32))


@pytest.mark.parametrize(
    ("gains", "worth_it", "inner"),
    [
        ([0.5, 0.03, 0.04, 0.05, -0.2], "yes", (0.03, 0.05)),
        ([0.5, 0.01, 0.0, 0.019, -0.2], "no", (0.0, 0.019)),
        ([0.5, 0.01, 0.03, 0.04, -0.2], "not clear", (0.01, 0.04)),
        ([0.02], "yes", (0.02, 0.02)),
    ],
)
def test_two_percent_are_worth_it_where_the_rounds_agree(gains, worth_it, inner):
    """Each round is compared with itself: all of them may be slow ones."""
    rounds = [{"off": 100.0 * (place + 1), "on": 100.0 * (place + 1) * (1 + gain)} for place, gain in enumerate(gains)]
    found = Speed.of(rounds)
    assert found.worth_it == worth_it
    assert (found.gain_from, found.gain_to) == pytest.approx(inner)


def test_a_loss_is_inside_where_it_is_moved_no_further_than_seeds_are_apart():
    off = [torch.tensor([9.0, 9.0, 1.0, 1.0]), torch.tensor([9.0, 9.0, 2.0, 4.0])]
    on = [torch.tensor([0.0, 0.0, 3.0, 3.0]), torch.tensor([0.0, 0.0, 4.0, 5.0])]
    assert Loss.of(off, on, 2) == Loss(off=2.0, on=3.75, spread=2.0)
    assert Loss(2.0, 3.75, 2.0).inside
    assert not Loss(2.0, 4.25, 2.0).inside
    assert not Loss(2.0, -0.25, 2.0).inside
    assert not Loss(2.0, math.nan, 2.0).inside


def test_the_table_and_the_json_say_all():
    losses = {"critic": Loss(1.0, math.nan, 0.1), "generator": Loss(1.0, 1.05, 0.1)}
    speed_of = Speed(100.0, 103.0, 0.03, 0.025, 0.04)
    lines = [
        Line("compile", "training.compile", "off", "on", None, speed_of, losses, ("torch.compile took 9 s",)),
        Line("graphs", "training.graphs", "off", "on", "there are none"),
    ]
    found = Found("a machine", "float32", 8, "discs", 200, 3, lines)
    table = as_table(found)
    (row,) = (line for line in table.splitlines() if "training.compile=on" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("training.compile=on", "off", "100 → 103", "+3.0% (+2.5% to +4.0%)", "yes"),
        *("1 → nan (0.1)", "1 → 1.05 (0.1)", "no"),
    ]
    assert "compile: torch.compile took 9 s." in table
    assert "graphs was not measured: there are none." in table
    document = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert document["lines"][0]["worth_it"] == "yes"
    assert document["lines"][0]["losses"]["critic"]["on"] is None
    assert document["lines"][1]["why_not"] == "there are none"
    assert "|" not in as_table(Found("a machine", "float32", 8, "discs", 200, 3, lines[1:]))


def test_the_command(distgan, tiny, tmp_path, monkeypatch):
    measure = bench_switches
    monkeypatch.setattr(switches, "bench_switches", lambda *given: measure(*given, round_seconds=0))
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny()))
    command = ["bench", "switches", tmp_path / "spec.yaml", "--switch", "accumulate", "--steps", 4, "--seeds", 2]
    status, text = distgan(*command)
    assert status == 0
    assert "training.accumulate=2" in text
    status, text = distgan(*command, "training.batch_size=7", "--json")
    assert status == 0
    assert "7" in json.loads(text)["lines"][0]["why_not"]
    status, text = distgan("bench", "switches", tmp_path / "spec.yaml", "--switch", "acumulate")
    assert status == 2
    assert "accumulate" in text.replace("acumulate", "")
