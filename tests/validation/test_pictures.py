"""Tiny ImageNet from a miniature in its official format, and what is said of broken ones; crops of photographs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modeq as mq

WNIDS = ["n01443537", "n01629819", "n02124075"]


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from validation import pictures

    return pictures


def picture(file, value, size=(64, 64), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, 0, 255 - value)
    Image.new(mode, size, colour).save(file, format="JPEG", quality=95)


@pytest.fixture
def miniature(tmp_path):
    """Three classes of two training pictures and a validation picture each, one of them grey."""
    (tmp_path / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    lines = []
    for number, wnid in enumerate(WNIDS):
        for k in range(2):
            grey = (number, k) == (2, 1)
            picture(
                tmp_path / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", 50 * number + k, mode="L" if grey else "RGB"
            )
        picture(tmp_path / "val" / "images" / f"val_{number}.JPEG", 200 + number)
        lines.append(f"val_{number}.JPEG\t{WNIDS[2 - number]}\t0\t0\t44\t62")
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_training_pictures(pictures, miniature):
    data = pictures.pictures(miniature)
    assert (len(data), data.classes, data.labels.tolist()) == (6, 3, [0, 0, 1, 1, 2, 2])
    assert data.name == "Tiny ImageNet (train, 6 pictures)"
    images, labels = data.batch(torch.tensor([2, 5]), dtype=torch.float64)
    assert (images.shape, images.dtype, labels.tolist()) == ((2, 3, 64, 64), torch.float64, [1, 2])
    red, green, blue = ((images[0].mean((1, 2)) * 0.25 + 0.45) * 255).tolist()
    assert abs(red - 50) < 3
    assert abs(green) < 3
    assert abs(blue - 205) < 3
    assert torch.equal(images[1, 0], images[1, 1])  # grey


def test_validation_pictures_have_the_classes_of_their_annotations(pictures, miniature):
    data = pictures.tiny_imagenet(miniature, "val")
    assert data.labels.tolist() == [2, 1, 0]
    assert data.batch(torch.tensor([0]))[0].shape == (1, 3, 64, 64)


def break_wnids(root):
    (root / "wnids.txt").unlink()


def empty_wnids(root):
    (root / "wnids.txt").write_text("\n")


def repeat_wnids(root):
    (root / "wnids.txt").write_text("\n".join([*WNIDS, WNIDS[0]]))


def binary_wnids(root):
    (root / "wnids.txt").write_bytes(b"\xff\xfe\xfa")


def remove_class(root):
    for file in (root / "train" / WNIDS[1] / "images").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (break_wnids, "wnids.txt is missing: give the folder"),
        (empty_wnids, "wnids.txt is empty"),
        (repeat_wnids, "wnids.txt has a class twice"),
        (binary_wnids, "wnids.txt is no text"),
        (remove_class, f"has no pictures *.JPEG, for class '{WNIDS[1]}'"),
    ],
    ids=lambda value: getattr(value, "__name__", "message"),
)
def test_a_folder_with_something_missing(pictures, miniature, damage, message):
    damage(miniature)
    with pytest.raises(mq.ModeqError, match=re.escape(message)):
        pictures.tiny_imagenet(miniature)


@pytest.mark.parametrize(
    "line, message",
    [
        ("val_0.JPEG", "line 1 is 'val_0.JPEG': a file and a class"),
        ("val_0.JPEG\tn99999999\t0\t0\t1\t1", "a class of wnids.txt should be"),
        ("val_7.JPEG\tn01443537\t0\t0\t1\t1", "val_7.JPEG is missing, named in"),
    ],
)
def test_annotations_that_do_not_fit(pictures, miniature, line, message):
    (miniature / "val" / "val_annotations.txt").write_text(line + "\n")
    with pytest.raises(mq.ModeqError, match=re.escape(message)):
        pictures.tiny_imagenet(miniature, "val")


def test_corrupt_pictures_are_named_when_they_are_read(pictures, miniature):
    file = miniature / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    whole = file.read_bytes()
    data = pictures.tiny_imagenet(miniature)
    for broken in (whole[: len(whole) // 2], b"no picture", b""):
        file.write_bytes(broken)
        with pytest.raises(mq.ModeqError, match=f"{WNIDS[0]}_0.JPEG cannot be read as a picture"):
            data.batch(torch.tensor([0]))
    picture(file, 0, size=(32, 64))
    with pytest.raises(mq.ModeqError, match="is 32×64: pictures of Tiny ImageNet are 64×64"):
        data.batch(torch.tensor([0]))


def test_no_such_split(pictures, miniature):
    with pytest.raises(mq.ModeqError, match="no split 'test' of Tiny ImageNet; choose train or val"):
        pictures.tiny_imagenet(miniature, "test")


def test_photographs_are_crops_that_a_seed_repeats(pictures):
    data, again, other = (pictures.photographs(crops=3, seed=seed) for seed in (1, 1, 2))
    assert len(data) == 3 * data.classes
    assert f"{len(data)} random 64×64 crops of {data.classes} photographs" in data.name
    everything = torch.arange(len(data))
    images, labels = data.batch(everything)
    assert torch.equal(images, again.batch(everything)[0])
    assert not torch.equal(images, other.batch(everything)[0])
    assert labels.bincount().tolist() == [3] * data.classes
    assert 0.5 < float(images.std()) < 2
    assert np.unique(images[0].numpy()).size > 20


def test_random_labels_are_other_labels_for_the_same_pictures(pictures):
    data = pictures.photographs(crops=5)
    random = data.with_random_labels(3)
    assert 0.5 < float((random.labels != data.labels).double().mean()) <= 1
    assert random.name.endswith("random labels")
    some = torch.tensor([0, 7])
    assert torch.equal(random.batch(some)[0], data.batch(some)[0])


def test_without_the_packages_that_ship_photographs(pictures, monkeypatch):
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mq.ModeqError, match="neither of which is installed; pip install scikit-image"):
        pictures.photographs()


def test_the_folder_may_be_text(pictures, miniature):
    assert len(pictures.tiny_imagenet(str(miniature))) == 6
