"""`device:` of a recipe and `--device`: no other experiment, told where it is not to be had."""

import pytest
from click.testing import CliRunner

from prunekit.cli.app import cli
from prunekit.errors import RecipeError
from prunekit.recipe.identity import cell_key, recipe_hash
from prunekit.train.launch import resume_run
from tests.support.training import recipe, rewound, run


def test_a_device_is_no_other_experiment():
    auto, cpu, gpu = (recipe(device=device) for device in ("auto", "cpu", "cuda:1"))
    assert recipe_hash(auto) == recipe_hash(cpu) == recipe_hash(gpu)
    assert cell_key(auto) == cell_key(cpu) == cell_key(gpu)
    assert recipe() == auto


@pytest.mark.parametrize("wrong", ["CUDA", "cuda:", "cuda:1:2", "cpu; x", "", "../x"])
def test_what_is_no_name_of_a_device_is_a_fault_of_the_recipe(wrong):
    with pytest.raises(RecipeError, match=r"^device: must be `auto` or a device of torch"):
        recipe(device=wrong)


def test_one_that_is_not_here_is_told_at_its_place(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\ndata: {name: digits}\nmodel: {name: mlp, hidden: [4]}\n"
        "optimizer: {name: sgd, lr: 0.1}\nphases: [{name: train, length: 1st}]\ndevice: meta\n"
    )
    for arguments, place in (
        ([str(file)], f"{file}:6:9 device: "),
        ([str(file), "--device", "cpux"], "override 'device=cpux' device: "),
    ):
        found = CliRunner().invoke(cli, ["run", *arguments, "--out", str(tmp_path / "runs")])
        assert isinstance(found.exception, RecipeError)
        assert str(found.exception).startswith(place)
        assert "or one that is: cpu" in str(found.exception)
    assert not (tmp_path / "runs").exists()


def test_a_run_whose_device_is_gone_goes_on_where_it_is_told_to(tmp_path):
    whole = run(tmp_path / "whole", device="cpu")
    moved = rewound(whole, 10, tmp_path / "moved")
    resolved = moved / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("device: cpu", "device: meta"))
    with pytest.raises(RecipeError, match=r"^device: meta is not to be had .* or give --device"):
        resume_run(moved)
    assert resume_run(moved, device="cpu") == moved
