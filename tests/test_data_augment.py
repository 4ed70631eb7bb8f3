import pytest
import torch

from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.data.augment import (
    Augment,
    Augmentation,
    Crop,
    Cutout,
    Flip,
    Jitter,
    Masking,
    Mixup,
    augmented,
    check_augmentations,
)
from archipelago.data.shards import Signature
from archipelago.data.tasks import Classification

TASK = Classification(classes=("a", "b", "c"))
IMAGE = torch.arange(4 * 2 * 8 * 8, dtype=torch.float32).reshape(4, 2, 8, 8) + 1
SERIES = torch.ones(50, 3, 20)
Y = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("part", [Flip(), Crop(), Cutout(), Mixup(), Jitter(), Masking()])
def test_a_part_is_pure_and_follows_its_seed(part):
    x, y = (SERIES, torch.arange(50) % 3) if "image" not in part.FITS else (IMAGE, Y)
    kept = x.clone()
    state = torch.get_rng_state()
    first = part.apply(x, y, Seed(0), 3)
    again = part.apply(x, y, Seed(0), 3)
    other = part.apply(x, y, Seed(7), 3)
    assert isinstance(part, Augmentation)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == x.shape
    assert isinstance(part, Flip) or not torch.equal(first[0], other[0])
    TASK.loss(torch.zeros(len(x), 3), first[1]).item()


def test_flip_mirrors_whole_pictures():
    assert torch.equal(Flip(chance=1).apply(IMAGE, Y, Seed(0), 3)[0], IMAGE.flip(-1))
    assert torch.equal(Flip(chance=0).apply(IMAGE, Y, Seed(0), 3)[0], IMAGE)


def test_crop_shifts_by_whole_pixels():
    moved = Crop(pad=2).apply(IMAGE, Y, Seed(0), 3)[0]
    padded = torch.nn.functional.pad(IMAGE, (2,) * 4)
    for i in range(4):
        windows = [padded[i, :, a : a + 8, b : b + 8] for a in range(5) for b in range(5)]
        assert sum(torch.equal(moved[i], window) for window in windows) == 1


def test_cutout_erases_one_square_in_all_channels():
    hole = Cutout(size=3).apply(IMAGE, Y, Seed(1), 3)[0] == 0
    assert torch.equal(hole[:, 0], hole[:, 1])
    assert 4 <= hole[:, 0].sum((1, 2)).min() <= hole[:, 0].sum((1, 2)).max() <= 9


def test_masking_silences_a_span_of_limited_length():
    silent = (Masking(share=0.5).apply(SERIES, SERIES, Seed(0), 3)[0] == 0)[:, 0]
    assert silent.sum(1).max() <= 10
    assert (silent[:, 1:] != silent[:, :-1]).sum(1).max() <= 2


def test_mixup_mixes_labels_as_rows():
    x, y = Mixup(alpha=1).apply(torch.eye(3), torch.arange(3), Seed(0), 3)
    assert torch.allclose(x, y)
    assert torch.allclose(y.sum(1), torch.ones(3))


def test_parts_are_chained_each_with_its_own_stream():
    twice = augmented(
        [Jitter(deviation=1), Jitter(deviation=1)], SERIES, SERIES, seed=Seed(0), outputs=3
    )
    assert (twice[0] - SERIES).std().item() == pytest.approx(2**0.5, abs=0.1)


def test_parts_that_do_not_fit_are_refused():
    series = Signature(modality="series", shape=(3, 20), task=TASK)
    image = Signature(modality="image", shape=(1, 8, 8), task=TASK)
    check_augmentations([Flip(), Crop(), Mixup()], image)
    with pytest.raises(IncompatibleParts, match="'flip' does not fit series rows"):
        check_augmentations([Flip()], series)
    with pytest.raises(IncompatibleParts, match="reaches across the whole picture"):
        check_augmentations([Cutout(size=8)], image)
    with pytest.raises(ConfigError, match=r"augment.alpha: must lie in \(0, 100\]"):
        Mixup(alpha=0)


def test_every_step_off_leaves_the_very_rows():
    assert Augment().parts == ()
    assert Augment().apply(IMAGE, Y, Seed(0), 3) == (IMAGE, Y)
    everything = Augment(flip=0.5, crop=1, cutout=2, jitter=0.1, mixup=0.2)
    assert [part.kind for part in everything.parts] == ["flip", "crop", "cutout", "jitter", "mixup"]
    assert Augment(flip=1).tuned({"augment.flip": 0.0, "learning_rate": 0.1}) == Augment()


RUN = """
[data]
kind = "digits"
[partition]
kind = "iid"
clients = 4
[space]
kind = "{space}"
[estimator]
kind = "rounds"
rounds = 2
candidates = 3
[strategy]
kind = "random"
[budget]
trials = 3
[final]
rounds = 2
references = false
[engine]
kind = "serial"
"""


def run_of(*sets, space="image-chain"):
    from archipelago.config.load import loads

    return loads(RUN.replace("{space}", space), sets)


def weights(run, folder):
    from archipelago.journal.journal import Journal
    from archipelago.study.running.search import search

    result = search(run, folder).result
    with Journal.open(folder, write=False) as journal:
        return journal.pins()["champion/final"], result


def test_steps_that_are_off_train_to_the_same_bits_and_steps_that_are_on_do_not(tmp_path):
    small = ("space.filters=[8]", "space.layers=1", "data.kind=digits")
    plain, _ = weights(run_of(*small), tmp_path / "plain")
    off, _ = weights(run_of(*small, 'augment.kind="steps"', "augment.flip=0.0"), tmp_path / "off")
    on, result = weights(
        run_of(*small, "augment.crop=1", "augment.jitter=0.1", "augment.mixup=0.2"), tmp_path / "on"
    )
    assert plain == off
    assert plain != on
    assert result.metrics["accuracy"] > 0.2


def test_mixed_labels_train_dense_networks_too(tmp_path):
    sets = ("data.kind=wine", "augment.mixup=0.5", "space.layers=1")
    _, result = weights(run_of(*sets, space="table-mlp"), tmp_path / "run")
    assert result.metrics["accuracy"] > 0.3


def test_augmentation_is_searched_with_the_architecture(tmp_path):
    choices = 'tune.choices={"augment.crop" = [0, 1], learning_rate = [0.05, 0.1]}'
    run = run_of(choices, "space.filters=[8]", "space.layers=1")
    _, result = weights(run, tmp_path / "run")
    found = {tuple(sorted(o.arch.items())) for o in result.leaderboard()}
    assert all("train.augment.crop" in dict(arch) for arch in found)
    assert {dict(arch)["train.augment.crop"] for arch in found} <= {0, 1}


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ('{"augment.flop" = [1.0]}', "no such option of [augment]. Did you mean 'flip'?"),
        ('{"augment.flip" = [3.0]}', "augment.flip: must lie in [0, 1], got 3.0"),
        (
            '{"split.test" = [0.1]}',
            "only options of [client], augment.OPTION and",
        ),
    ],
)
def test_choices_that_cannot_be_tried_are_refused(choices, expected):
    with pytest.raises(ConfigError) as caught:
        run_of(f"tune.choices={choices}")
    assert expected in str(caught.value)


def test_a_step_that_fits_no_row_of_the_run_is_refused_at_its_start(tmp_path):
    from archipelago.study.planning.plan import plan

    run = run_of("data.kind=wine", 'tune.choices={"augment.flip" = [0.5]}', space="table-mlp")
    with pytest.raises(IncompatibleParts, match="'flip' does not fit table rows"):
        plan(run)
    with pytest.raises(IncompatibleParts, match="'flip' does not fit table rows"):
        weights(run, tmp_path / "run")
