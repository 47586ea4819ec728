import pytest

from bowerbird.errors import RecipeError
from bowerbird.recipe import Recipe, built_in_recipes, check_recipe, differing_fields, read_recipe, recipe_text, write_recipe


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_survive_writing_and_reading(name: str, tmp_path) -> None:
    recipe = read_recipe(name)
    file = tmp_path / f"{name}.toml"
    file.write_text(write_recipe(recipe))
    assert read_recipe(file) == recipe


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_open_with_hardware_and_time(name: str) -> None:
    head = "".join(line for line in recipe_text(name).splitlines(keepends=True) if line.startswith("#"))
    assert "Hardware:" in head and "Time" in head


def test_every_field_says_when_to_change_it() -> None:
    for name, section in Recipe.model_fields.items():
        for field, info in getattr(section.annotation, "model_fields", {}).items():
            assert info.description, f"{name}.{field}"


def test_settings_override_one_field() -> None:
    plain, changed = read_recipe("pixel-64"), read_recipe("pixel-64", ["train.lr=0.5", "data.fit=pad"])
    assert differing_fields(plain, changed) == ["data.fit", "train.lr"]
    assert (changed.train.lr, changed.data.fit) == (0.5, "pad")


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("train.learnrate=1", "lr"),
        ("trian.lr=1", "train"),
        ("diffusion.prediction=epsilon", "eps"),
        ("transformer.patch=7", "nearest smaller that does is 4"),
        ("train.lr=-1", "train.lr"),
        ("train.lr", "section.field=value"),
        ("unet.size=ddpm-114m", "114m"),
        ("model.size=nano", "transformer.size"),
        ("diffusion.noise_levels=uniform-t", "log-normal"),
        ("train.micro_batch=7", "divide"),
    ],
)
def test_impossible_settings_are_refused_with_the_nearest_possible(setting: str, names: str) -> None:
    with pytest.raises(RecipeError, match=names):
        read_recipe("pixel-64", [setting])


def test_a_misspelt_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="pixel-64"):
        read_recipe("pixl-64")


@pytest.mark.parametrize("data", [b"[data\nsize=3", b"\xff\xfe[data]", b"x = " + b"[" * 100_000, b"#" * 2**21])
def test_a_file_that_is_not_toml(tmp_path, data: bytes) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(data)
    with pytest.raises(RecipeError, match="is not TOML"):
        read_recipe(file)


def test_what_was_found_may_be_long_and_the_sentence_is_not() -> None:
    with pytest.raises(RecipeError) as refusal:
        check_recipe({"diffusion": {"scale": "x" * 100_000}})
    assert "diffusion.scale" in str(refusal.value) and "a number" in str(refusal.value) and len(str(refusal.value)) < 1_000


def test_check_recipe_fills_defaults() -> None:
    assert check_recipe({}) == Recipe()
