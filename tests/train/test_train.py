"""Training on small made-up data: labels, splits, batches, and a loop that learns and resumes."""

import dataclasses
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chips import CONFIG, data, scene
from commands import forked
from torch import Tensor

import pfmap
from pfmap.core.errors import TrainingError
from pfmap.net.pfnet import PFNet
from pfmap.train.augment import Batches
from pfmap.train.config import TrainingConfig, read_config
from pfmap.train.data import load_data
from pfmap.train.label_layers import ClassSets
from pfmap.train.loop import Progress, _Run, train
from pfmap.train.optimise import learning_rate
from pfmap.train.start import Team, take_over
from pfmap.train.validate import Pixels, figures_of, fit

__all__ = ["data"]  # the fixture

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def config(data: Path) -> TrainingConfig:
    return read_config(data / "train.toml")


def test_labels_become_class_sets(data: Path, config: TrainingConfig) -> None:
    loaded = load_data(config, data)
    whole, partial = loaded.sources
    assert [s.scene.path.name for s in whole.train] == ["chip0.png", "chip1.png", "chip2.png"]
    assert [s.scene.path.name for s in whole.validation] == ["chip3.png"]
    (sample,) = partial.train
    classes = scene(96, 128, 9)[1][:, :96]
    members = {
        (int(c), *loaded.sets.entries[int(i)][:2])
        for c, i in zip(classes.ravel(), sample.read()[1].ravel(), strict=True)
    }
    assert members == {
        (0, frozenset({0}), 1.0),
        (1, frozenset({1, 2}), 1.0),
        (2, frozenset({1, 2}), 1.0),
        (2, frozenset({2}), 3.0),
    }
    assert partial.validation[0].read()[1].shape == (96, 32)


def test_validation_pixels_are_never_trained_on(data: Path, config: TrainingConfig) -> None:
    loaded = load_data(config, data)
    assert loaded.sources[1].train[0].shape == (96, 96)
    held = loaded.sources[0].validation[0].read()[0]
    assert not any(np.array_equal(held, s.read()[0]) for s in loaded.sources[0].train)


def test_green_decides_what_partial_labels_leave_open(data: Path, config: TrainingConfig) -> None:
    loaded = load_data(config, data)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, scale=(1.0, 1.0)))
    images, labels, annotated = Batches(loaded, config)[0]
    sets = loaded.sets
    open_before = {i for i, (members, weight, _) in enumerate(sets.entries) if members == {1, 2} and weight}
    was_open = torch.isin(annotated[2:], torch.tensor(list(open_before), dtype=torch.uint8))
    assert was_open.any()
    after = {sets.entries[int(i)].members for i in labels[2:][was_open].unique()}
    # Grass is green, sand is not, and noise decides nothing in between.
    assert {frozenset({1}), frozenset({2})} <= after
    # Sure labels are untouched.
    sure = ~was_open
    assert torch.equal(labels[2:][sure], annotated[2:][sure])
    assert images.shape == (4, 3, 64, 64)


def test_batches_depend_on_seed_and_step_alone(data: Path, config: TrainingConfig) -> None:
    loaded = load_data(config, data)
    batches = Batches(loaded, config)
    batches[0], batches[1]
    again = Batches(load_data(config, data), config)
    for one, two in zip(batches[4], again[4], strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(batches[4][0], batches[5][0])


def test_labels_follow_the_image_through_augmentation(data: Path, config: TrainingConfig) -> None:
    loaded = load_data(config, data)
    # The class of a sure label is the only one in its set; -1 for the others.
    table = torch.from_numpy(loaded.sets.table())
    truth = torch.where(table.sum(1) == 1, table.byte().argmax(1), -1)
    batches = Batches(loaded, config)
    right = total = 0
    for step in range(6):
        images, _, annotated = batches[step]
        classes = truth[annotated[:2].long()]
        # Red beats green on roofs, green beats red on grass, whatever the recolouring.
        redder = images[:2, 0] > images[:2, 1]
        right += int((redder[classes == 0]).sum() + (~redder[classes == 1]).sum())
        total += int(((classes == 0) | (classes == 1)).sum())
    assert right / total > 0.95


def test_the_learning_rate_rises_and_falls(config: TrainingConfig) -> None:
    settings = dataclasses.replace(config.training, steps=100, warmup=10)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[9] == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02


@pytest.mark.slow
def test_training_learns_a_known_pattern(data: Path) -> None:
    text = CONFIG.replace("encoder_rate = 1e-3", "encoder_rate = 3e-3\ndecoder_rate = 3e-3")
    text = text.replace("steps = 6", "steps = 100").replace("ema = 0.5", "ema = 0.8")
    (data / "train.toml").write_text(text.replace("warmup = 2", "warmup = 5\nscale = [0.9, 1.2]"))
    losses: list[float] = []
    figures = train(
        read_config(data / "train.toml"), data, data / "model", on_step=lambda p: losses.append(p.loss)
    )
    # Without training, three classes at random give a mean IoU of 0.2.
    assert losses[-1] < 0.8 * losses[0]
    assert figures["whole"].mean_iou > 0.65
    model = pfmap.load_model(data / "model")
    assert model.card.accuracy["whole_mean_iou"] == pytest.approx(figures["whole"].mean_iou, abs=1e-4)
    assert sorted(p.name for p in (data / "model").iterdir()) == [
        "README.md", "curves.csv", "curves.png", "model.toml", "weights.safetensors"
    ]  # fmt: skip


def test_a_resumed_run_ends_like_an_uninterrupted_one(data: Path, config: TrainingConfig) -> None:
    often = dataclasses.replace(config.training, checkpoint_minutes=0.0)
    config = dataclasses.replace(config, training=often)
    straight = train(config, data, data / "straight")

    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: object) -> None:
        if progress.step == 4:
            raise Stop

    with pytest.raises(Stop):
        train(config, data, data / "resumed", on_step=stop)
    resumed = train(config, data, data / "resumed", resume=True)
    assert straight == resumed
    one = (data / "straight" / "weights.safetensors").read_bytes()
    assert one == (data / "resumed" / "weights.safetensors").read_bytes()


def test_a_training_that_diverges_keeps_its_last_good_checkpoint(
    data: Path, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, checkpoint_minutes=0.0, validations=1)
    path, real, good = data / "model" / "checkpoint.pt", _Run.step, []

    def step(self: _Run, *batch: Tensor) -> Progress:
        progress = real(self, *batch)
        if self.done == 4:
            good.append(path.read_bytes())
            with torch.no_grad():
                self.average.classify.bias[0] = float("nan")
        return progress

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "step", step)
        words = r"diverged: classify\.bias .*step 4; .*checkpoint\.pt was good"
        with pytest.raises(TrainingError, match=words):
            train(config, data, data / "model")
    assert [path.read_bytes()] == good
    assert not (data / "model" / "model.toml").exists()


def test_a_loss_that_is_no_number_stops_the_training(data: Path, config: TrainingConfig) -> None:
    with pytest.raises(TrainingError, match=r"diverged|loss is (nan|inf)"):
        train(changed(config, encoder_rate=1e30, decoder_rate=1e30, warmup=0, steps=30), data, data / "model")
    assert not (data / "model" / "model.toml").exists()


def test_a_checkpoint_that_is_none_is_a_clear_error(data: Path, config: TrainingConfig) -> None:
    run = _Run(config, data, data / "model", Team(0, 1, torch.device("cpu")), None, print)
    run.save_checkpoint()
    content = run.checkpoint.read_bytes()
    state = torch.load(run.checkpoint, weights_only=True)
    state["average"]["classify.bias"][:] = float("nan")

    def refused() -> str:
        with pytest.raises(TrainingError) as caught:
            run.load_checkpoint()
        assert "weights_only" not in str(caught.value)
        return str(caught.value)

    for damaged, words in (
        (content[: len(content) // 2], r"checkpoint\.pt cannot be read: it is incomplete"),
        (b"", r"checkpoint\.pt cannot be read: it is empty"),
        (b"<html></html>", r"checkpoint\.pt cannot be read: it is a web page"),
    ):
        run.checkpoint.write_bytes(damaged)
        assert re.search(words, refused())
    torch.save([1, 2], run.checkpoint)
    assert "not of this configuration" in refused()
    torch.save(state, run.checkpoint)
    assert "classify.bias is not finite" in refused()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('images = "whole/*.png"', 'images = "nothing/*.png"', "matches no file"),
        ('path = "labels/{stem}.png"', 'path = "partial/labels.png"', "128 x 96 pixels"),
        ('0 = "roof"', '0 = "tree"', "unknown classes: tree"),
        ("per_batch = 2", "per_bach = 2", "unknown keys: per_bach"),
        ('validation.stems = "3$"', 'validation.stems = "("', "whole"),
        ('validation.stems = "3$"', 'validation.stems = "."', "no labelled pixel left"),
        ("crop = 64", 'crop = "64"', "has to be int"),
        ('name = "tiny"', "name = ", "not valid TOML"),
        ('path = "labels/{stem}.png"', 'path = "gone/{stem}.png"', "does not exist"),
    ],
)
def test_bad_configurations_are_refused_before_training(data: Path, old: str, new: str, words: str) -> None:
    (data / "train.toml").write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(pfmap.PfmapError, match=words):
        train(read_config(data / "train.toml"), data, data / "model")


@pytest.mark.slow
def test_the_command_trains_shows_figures_and_writes_a_model(data: Path) -> None:
    done = forked("train", data / "train.toml", "-o", data / "model", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "roof 0." in done.stderr
    assert f"wrote {data / 'model'}" in done.stdout
    assert pfmap.load_model(data / "model").card.name == "tiny"
    (data / "train.toml").write_text("nonsense")
    broken = forked("train", data / "train.toml", "-o", data / "other")
    assert broken.returncode == 1
    assert broken.stderr.startswith("Error: ")
    assert not (data / "other").exists()


def changed(config: TrainingConfig, **settings: object) -> TrainingConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **settings))


def test_a_model_or_checkpoint_is_never_replaced_unasked(data: Path, config: TrainingConfig) -> None:
    config = changed(config, steps=1)
    train(config, data, data / "model")
    before = (data / "model" / "weights.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="holds a model: choose another folder"):
        train(config, data, data / "model")
    (data / "model" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="unfinished training: go on with resume=True"):
        train(config, data, data / "model")
    assert (data / "model" / "weights.safetensors").read_bytes() == before
    train(changed(config, seed=5), data, data / "model", overwrite=True)
    assert (data / "model" / "weights.safetensors").read_bytes() != before


def test_fine_tuning_starts_where_the_model_is_and_keeps_classes_by_name(
    data: Path, config: TrainingConfig
) -> None:
    train(changed(config, steps=3), data, data / "first")
    first = pfmap.load_model(data / "first")
    reordered = CONFIG.replace('name = "roof"', 'name = "x"').replace('name = "sand"', 'name = "roof"')
    reordered = reordered.replace('name = "x"', 'name = "new"').replace('"sand"', '"new"')
    (data / "next.toml").write_text(reordered)
    card = read_config(data / "next.toml").card
    network = PFNet(card.architecture)
    take_over(network, card, first)
    old, new = first.network.state_dict(), network.state_dict()
    assert all(torch.equal(old[k], new[k]) for k in old if "classify" not in k and "tracked" not in k)
    assert [spec.name for spec in card.classes] == ["new", "grass", "roof"]
    for leaf in ("classify.weight", "classify.bias"):
        assert torch.equal(new[leaf][1], old[leaf][1])
        assert torch.equal(new[leaf][2], old[leaf][0])


def test_a_configuration_may_name_the_model_to_start_from(data: Path, config: TrainingConfig) -> None:
    train(changed(config, steps=1), data, data / "first")
    train(changed(config, steps=1, trained="head", start_from=str(data / "first")), data, data / "next")
    one, two = (pfmap.load_model(data / name).network.state_dict() for name in ("first", "next"))
    assert all(torch.equal(one[key], two[key]) for key in one if key.startswith("encoder."))


def test_training_loads_what_draws_only_to_draw() -> None:
    code = "import sys, pfmap.train.loop; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_of_another_architecture_is_refused(data: Path, config: TrainingConfig) -> None:
    train(changed(config, steps=1), data, data / "first")
    (data / "train.toml").write_text(CONFIG.replace("width = 16", "width = 24"))
    with pytest.raises(TrainingError, match="width is 24, the model's 16"):
        train(read_config(data / "train.toml"), data, data / "x", start_from=pfmap.load_model(data / "first"))
    (data / "train.toml").write_text(CONFIG.replace("std = [0.5", "std = [0.4"))
    with pytest.raises(TrainingError, match="scales its input"):
        train(read_config(data / "train.toml"), data, data / "x", start_from=pfmap.load_model(data / "first"))


@pytest.mark.parametrize(
    ("trained", "moves"), [("head", {"head", "classify"}), ("decoder", None), ("all", None)]
)
def test_only_the_parts_to_be_trained_move(
    data: Path, config: TrainingConfig, trained: str, moves: set[str] | None
) -> None:
    train(changed(config, steps=1), data, data / "first")
    first = pfmap.load_model(data / "first")
    parts = {key.split(".")[0] for key in first.network.state_dict()}
    moves = moves or (parts - {"encoder"} if trained == "decoder" else parts)
    train(changed(config, trained=trained, steps=3, ema=0.0), data, data / "next", start_from=first)
    one, two = first.network.state_dict(), pfmap.load_model(data / "next").network.state_dict()
    moved = {
        key.split(".")[0]
        for key in one
        if "tracked" not in key and "classify" not in key and not torch.equal(one[key], two[key])
    }
    assert moved == moves - {"classify"}  # which the temperature scales besides


@pytest.mark.slow
def test_the_paper_recipe_learns_a_batch_by_heart(data: Path, config: TrainingConfig) -> None:
    config = changed(
        config, optimizer="sgd", schedule="poly", hard_pixels=500, steps=120, warmup=0,
        encoder_rate=0.02, decoder_rate=0.02, weight_decay=1e-4,
    )  # fmt: skip
    run = _Run(config, data, data / "model", Team(0, 1, torch.device("cpu")), None, print)
    batch = Batches(run.data, config)[0]
    losses = []
    for _ in range(120):
        run.loss = float("nan")  # no smoothing
        losses.append(run.step(*batch).loss)
    assert np.mean(losses[-5:]) < 0.93 * np.mean(losses[:5])
    assert [group["peak"] for group in run.optimizer.param_groups] == [0.02, 0.02]
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * (1 / 120) ** 0.9)


@pytest.mark.slow
def test_processes_share_a_batch_and_end_with_the_same_weights(data: Path) -> None:
    # Each process writes what it ends with; they may only agree if gradients were averaged.
    (data / "join.py").write_text(
        "import os, sys, torch\n"
        "from pathlib import Path\n"
        "from pfmap.train import loop\n"
        "from pfmap.train.config import read_config\n"
        "data = Path(sys.argv[1])\n"
        "kept = []\n"
        "class Run(loop._Run):\n"
        "    def __init__(self, *a):\n"
        "        super().__init__(*a)\n"
        "        kept.append(self)\n"
        "loop._Run = Run\n"
        "loop.train(read_config(data / 'train.toml'), data, data / 'model')\n"
        "state = {k: v for k, v in kept[0].network.named_parameters()}\n"
        "torch.save((state, kept[0].share), data / f'rank{os.environ[\"RANK\"]}.pt')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         data / "join.py", data],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one, first), (two, second) = (torch.load(data / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert (first, second) == (slice(0, None, 2), slice(1, None, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert pfmap.load_model(data / "model").card.name == "tiny"


def test_shares_of_a_batch_make_the_whole(data: Path, config: TrainingConfig) -> None:
    loaded = load_data(config, data)
    whole, parts = Batches(loaded, config), [Batches(loaded, config, slice(k, None, 2)) for k in (0, 1)]
    for step in (2, 3):  # no process makes the crops of some sources alone, as batch norm would keep these
        one, other = (parts[(k + step) % 2][step] for k in (0, 1))
        for all_of, even, odd in zip(whole[step], one, other, strict=True):
            assert torch.equal(all_of[0::2], even)
            assert torch.equal(all_of[1::2], odd)


def test_the_curves_hold_every_validation(data: Path, config: TrainingConfig) -> None:
    train(changed(config, steps=7, validations=3), data, data / "model")
    rows = [line.split(",") for line in (data / "model" / "curves.csv").read_text().splitlines()]
    assert rows[0] == ["step", "series", "value"]
    assert [int(step) for step, series, _ in rows[1:] if series == "whole"] == [2, 4, 7]
    assert [int(step) for step, series, _ in rows[1:] if series == "loss"] == list(range(1, 8))
    assert (data / "model" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_beside_the_model_states_its_figures_and_rights(data: Path, config: TrainingConfig) -> None:
    figures = train(changed(config, steps=1), data, data / "model")
    page = (data / "model" / "README.md").read_text()
    (row,) = [line.split("|") for line in page.splitlines() if line.startswith("| partial")]
    assert row[2].strip() == f"{figures['partial'].iou['roof']:.3f}"
    assert row[3].strip() == "-"  # no sure grass there
    for text in ("# tiny", "nobody", "made up", "curves.png", "red, green, blue at 0.1 to 1 m"):
        assert text in page
    assert list(pfmap.load_model(data / "model").card.learned) == ["mean", "std", "chroma", "tint"]


def test_the_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 4))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    scores = 2.5 * logits  # far too sure
    part = Pixels(scores - scores.max(1, keepdims=True), np.eye(4, dtype=bool)[truth])
    assert fit([part]) == pytest.approx(2.5, rel=0.05)
    assert part.error(2.5) < 0.02
    assert part.error(1.0) > 0.1


def test_a_temperature_in_the_card_makes_the_model_less_sure(data: Path, config: TrainingConfig) -> None:
    train(changed(config, steps=1), data, data / "model")
    card = data / "model" / "model.toml"
    image = torch.randn(1, 3, 64, 64)
    before = pfmap.load_model(data / "model")
    text = re.sub("temperature = .*", f"temperature = {2 * before.card.temperature}", card.read_text())
    card.write_text(text)
    after = pfmap.load_model(data / "model")
    torch.testing.assert_close(after.network(image), before.network(image) / 2)
    card.write_text(re.sub("temperature = .*", "temperature = 0", text))
    with pytest.raises(pfmap.PfmapError, match="temperature is 0"):
        pfmap.load_model(data / "model")


def test_resuming_nothing_is_refused(data: Path, config: TrainingConfig) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(config, data, data / "model", resume=True)


def test_partial_labels_count_in_the_figures() -> None:
    sets = ClassSets(("roof", "grass", "sand"))
    roof, open_set = sets.add_named(("roof",), 1.0), sets.add_named(("grass", "sand"), 1.0)
    counts = np.zeros((len(sets.entries), 3), dtype=np.int64)
    counts[roof] = [80, 15, 5]  # of 100 roof pixels, 80 are found
    counts[open_set] = [20, 50, 30]  # of 100 that are no roof, 20 are called one
    counts[0] = [1000, 1000, 1000]  # unlabelled: no say
    figures = figures_of(counts, sets)
    assert figures.iou == {"roof": 80 / 120}
    assert figures.accuracy == 0.8


@pytest.mark.parametrize("limit", ["disk", "ulimit"])
def test_a_disk_that_cannot_hold_a_checkpoint_is_refused_before_the_first_step(
    limit: str, data: Path, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == "disk":
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(total=10**9, free=100_000))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            pfmap.PfmapError, match=r"checkpoint\.pt could not be written.*choose another folder"
        ) as caught:
            train(config, data, data / "model", on_step=lambda _step: pytest.fail("it began"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ("it takes up to" if limit == "disk" else "File too large") in str(caught.value)
    assert list((data / "model").iterdir()) == []


def test_a_batch_is_shared_evenly_and_by_two_at_least() -> None:
    first, second = (Team(rank, 2, torch.device("cpu")) for rank in (0, 1))
    assert [list(range(4))[team.share(4)] for team in (first, second)] == [[0, 2], [1, 3]]
    with pytest.raises(TrainingError, match="3 crops cannot be shared evenly by 2 processes"):
        first.share(3)
    for team, crops in ((first, 2), (Team(0, 1, torch.device("cpu")), 1)):
        with pytest.raises(TrainingError, match=r"a batch of one crop has .* raise per_batch"):
            team.share(crops)
