import numpy as np
import pytest
from PIL import Image

from archipelago.core.errors import DataError
from archipelago.data.sources.images import ImageFolder


def tree(root, *, size=8, colour=False, classes=("cat", "dog"), each=3):
    rng = np.random.default_rng(0)
    for label in classes:
        (root / label).mkdir(parents=True)
        for i in range(each):
            shape = (size, size, 3) if colour else (size, size)
            pixels = rng.integers(0, 255, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root


def test_a_folder_is_a_class_and_a_tree_is_a_silo(tmp_path):
    tree(tmp_path / "north")
    tree(tmp_path / "south", colour=True)
    raw = ImageFolder(paths=(str(tmp_path / "*"),)).load()
    assert raw.x.shape == (12, 3, 8, 8)  # grey pictures beside colours become colours
    assert raw.names == ("north", "south")
    assert raw.natural.tolist() == [0] * 6 + [1] * 6
    assert set(raw.y.tolist()) == {"cat", "dog"}


def test_mixed_sizes_are_refused_or_resized(tmp_path):
    tree(tmp_path, size=8)
    Image.new("L", (9, 7)).save(tmp_path / "dog" / "odd.png")
    with pytest.raises(DataError, match=r"odd.png: pictures have different sizes[\s\S]*9 x 7"):
        ImageFolder(paths=(str(tmp_path),)).load()
    assert ImageFolder(paths=(str(tmp_path),), size=6).load().x.shape == (7, 1, 6, 6)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    tree(tmp_path)
    for side in (9000, 14000):  # beyond our limit; beyond Pillow's too
        Image.new("1", (side, side)).save(tmp_path / "cat" / "bomb.png")
        with pytest.raises(DataError, match="decompression bomb") as caught:
            ImageFolder(paths=(str(tmp_path),)).load()
        assert str(caught.value).count("limit") == 0
        assert "below 64 million pixels" in str(caught.value)


def test_broken_pictures_and_empty_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture was found"):
        ImageFolder(paths=(str(tmp_path / "empty"),)).load()
    tree(tmp_path / "full")
    (tmp_path / "full" / "cat" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"0.png: the picture cannot be read"):
        ImageFolder(paths=(str(tmp_path / "full"),)).load()
