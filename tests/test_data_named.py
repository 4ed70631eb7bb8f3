import os

import numpy as np
import pytest

from archipelago.core.errors import ConfigError, DataError
from archipelago.core.seeds import Seed
from archipelago.data.partition import Dirichlet, Natural
from archipelago.data.prepare import prepare
from archipelago.data.sources.named import NAMED, Named
from archipelago.data.sources.speech import spectrograms
from archipelago.data.split import Split
from archipelago.data.tasks import Classification


def need(name):
    path = os.path.join(os.environ.get("ARCHIPELAGO_DATA", ""), name, NAMED[name].file)
    if not os.path.isfile(path):
        if os.environ.get("ARCHIPELAGO_REQUIRE_DATA") == "1":
            pytest.fail(f"ARCHIPELAGO_REQUIRE_DATA is set and {name} is not there")
        pytest.skip(f"{name} is not in ARCHIPELAGO_DATA")


def made(source, partition, tmp_path, **split):
    return prepare(
        source, partition, Split(**split), Classification(), seed=Seed(0), directory=tmp_path
    )


def test_without_the_data_the_error_says_what_to_fetch(monkeypatch):
    monkeypatch.delenv("ARCHIPELAGO_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        Named(name="heart_disease").load()
    for text in ("ARCHIPELAGO_DATA is not set", "heart_disease.csv.gz", "source:", "CC BY 4.0"):
        assert text in str(caught.value)


def test_a_misspelt_name_is_advised():
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        Named(name="cifar")
    with pytest.raises(ConfigError, match="only adult_vertical"):
        Named(name="cifar10", client="x")


def test_heart_disease_is_four_hospitals(tmp_path):
    need("heart_disease")
    ours = made(Named(name="heart_disease"), Natural(), tmp_path, official=True)
    shards = ours.shards
    assert shards.names == ("cleveland", "hungarian", "switzerland", "va")
    assert "ca=(missing)" in ours.preparation.features
    assert np.isfinite(shards.train(2)[0].numpy()).all()


def test_har_keeps_an_interval_in_one_part():
    need("har_subjects")
    raw = Named(name="har_subjects").load()
    assert raw.x.shape == (10411, 6, 128)
    assert len(raw.names) == 30
    part = Split().parts(
        np.zeros(raw.rows, np.int64), client="all", seed=Seed(0), groups=raw.groups
    )
    assert all(len(np.unique(part[raw.groups == g])) == 1 for g in np.unique(raw.groups)[:200])


def test_adult_by_occupation_is_eight_silos(tmp_path):
    need("adult_vertical")
    source = Named(name="adult_vertical", client="occupation", rows=4000)
    ours = made(source, Natural(clients=8), tmp_path)
    assert ours.shards.clients == 8
    assert not any(name.startswith("occupation") for name in ours.preparation.features)
    assert "workclass=private" in ours.preparation.features


@pytest.mark.parametrize(
    ("name", "shape"), [("cifar10", (3, 32, 32)), ("fashion_mnist", (1, 28, 28))]
)
def test_pictures_are_read_in_part(name, shape, tmp_path):
    need(name)
    ours = made(Named(name=name, rows=600), Dirichlet(clients=5), tmp_path)
    assert ours.shards.signature.shape == shape
    assert ours.shards.signature.task.outputs == 10


def test_a_tone_lights_the_band_of_its_pitch():
    wave = (10_000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.int16)
    low = spectrograms(wave, np.array([0, 8000]), rate=8000)[0, :, 10].argmax()
    high = (10_000 * np.sin(2 * np.pi * 3000 * np.arange(8000) / 8000)).astype(np.int16)
    assert low < spectrograms(high, np.array([0, 8000]), rate=8000)[0, :, 10].argmax()
