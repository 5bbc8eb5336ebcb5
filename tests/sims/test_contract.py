"""The contract: what is found, what is refused and in which words, and how a scale becomes runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from sims import contract, fields
from sims.contract import Finding, experiment, experiment_names, plan


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_keeps_the_contract(name: str) -> None:
    found = experiment(name)
    assert found.question
    for scale in contract.SCALE_NAMES:
        made = plan(name, scale)
        assert len(made.runs) == len(made.configs) * len(made.seeds)
        assert made.matches(json.loads(json.dumps(made.preset())))


def test_a_new_file_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("two.py", "one.py", "_hidden.py", "__init__.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(contract, "EXPERIMENTS_FOLDER", tmp_path)
    assert experiment_names() == ["one", "two"]


def test_unknown_names_are_answered_with_the_known_ones(toy: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="experiment is 'nothing'; it must be one of"):
        experiment("nothing")
    with pytest.raises(ValueError, match="no such file"):
        experiment(str(tmp_path / "absent.py"))
    with pytest.raises(ValueError, match="scale is 'huge'; it must be one of: smoke, laptop, paper"):
        plan(toy, "huge")
    with pytest.raises(ValueError, match="field is 'mean'; it must be one of: centre, noise_level"):
        plan(toy, overrides={"mean": 1.0})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("del simulate", "lacks simulate"),
        ("__doc__ = ''", "no docstring"),
        ("SCALES = {'smoke': SCALES['smoke']}", "must have smoke, laptop and paper"),
        ("SCALES = {**SCALES, 'paper': Scale(Config(), {'mean': (1,)}, 1)}", "field is 'mean'"),
        ("SCALES = {**SCALES, 'paper': Scale(Config(), {'centre': ()}, 1)}", "no values"),
        ("SCALES = {**SCALES, 'paper': Scale(Config(), {'centre': (1, 1.0)}, 1)}", "once"),
        ("SCALES = {**SCALES, 'paper': Scale(Config(), {}, 0)}", "n_seeds is 0"),
        ("SCALES = {**SCALES, 'paper': Scale(3, {}, 1)}", "base must be a Config"),
        ("CLAIMS = CLAIMS + CLAIMS", "T1 twice"),
        ("SHAPE_FIELDS = ('mean',)", "SHAPE_FIELDS of .* names mean"),
        ("@dataclass(frozen=True)\nclass Config:\n    seeds: int = 1", "argument of sims.run"),
        ("@dataclass(frozen=True)\nclass Config:\n    n: int", "no default"),
        ("@dataclass(frozen=True)\nclass Config:\n    n: dict = None", "must be bool, int, float"),
        ("@dataclass\nclass Config:\n    n: int = 1", "frozen dataclass"),
    ],
)
def test_a_broken_contract_is_one_sentence(toy: str, tmp_path: Path, line: str, words: str) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(Path(toy).read_text() + f"\n{line}\n")
    with pytest.raises(ValueError, match=words):
        experiment(str(broken))


def test_a_scale_becomes_cells_times_seeds(toy: str) -> None:
    made = plan(toy, "smoke")
    assert [(one.centre, one.n_numbers) for one in made.configs] == [(1, 50), (1, 200), (2, 50), (2, 200)]
    assert [seed for _, seed in made.runs] == [0, 1, 2] * 4
    assert plan(toy, "smoke", seeds=2).seeds == (0, 1)
    assert plan(toy, "smoke", seeds=[4, 1]).seeds == (4, 1)


def test_an_override_replaces_an_axis_or_makes_one(toy: str) -> None:
    made = plan(toy, "smoke", overrides={"centre": 5, "noise_level": np.array([0.1, 0.2]), "marks": [7, 8]})
    assert dict(made.grid) == {"n_numbers": (50, 200), "noise_level": (0.1, 0.2)}
    assert {(one.centre, one.marks) for one in made.configs} == {(5.0, (7, 8))}
    assert all(type(one.noise_level) is float for one in made.configs)


@pytest.mark.parametrize("seeds", [0, -1, True, [], [1, 1], [-2], "3", 2.5, [0.5]])
def test_bad_seeds_are_refused(toy: str, seeds: object) -> None:
    with pytest.raises(ValueError, match="seeds is"):
        plan(toy, seeds=seeds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("centre", "abc", "field centre is 'abc'; it must be a number"),
        ("centre", True, "must be a number"),
        ("n_numbers", 2.0, "field n_numbers is 2.0; it must be an integer"),
        ("n_numbers", True, "must be an integer"),
        ("squared", 1, "field squared is 1; it must be true or false"),
        ("label", 3, "must be a text"),
        ("marks", 3, "must be a tuple, each item an integer"),
        ("marks", (1, "a"), "must be an integer"),
        ("marks", ((1, 2), (3, 4)), "a grid runs over fields with a single value"),
        ("noise_level", -1.0, "noise_level is -1.0; it must be at least 0"),
        ("noise_level", (0.1, -1.0), "noise_level is -1.0; it must be at least 0"),
    ],
)
def test_wrong_values_name_field_value_and_what_is_allowed(
    toy: str, name: str, value: object, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        plan(toy, overrides={name: value})


def test_a_preset_is_matched_by_meaning(toy: str) -> None:
    made = plan(toy, "smoke")
    preset = json.loads(json.dumps(made.preset()))
    assert made.matches(preset)
    older = json.loads(json.dumps(preset))
    del older["base"]["shift"]  # recorded before the field existed: it counts at its default
    assert made.matches(older)
    assert not plan(toy, "smoke", overrides={"shift": 1.0}).matches(older)
    assert not plan(toy, "smoke", seeds=4).matches(preset)
    assert not plan(toy, "smoke", overrides={"centre": (1.0, 2.5)}).matches(preset)


@dataclass(frozen=True)
class _Typed:
    rate: float = 0.1
    kind: Literal["sgd", "adam"] = "sgd"
    flag: bool = False
    sizes: tuple[float, ...] = (1.0,)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "1e-3", 1e-3),
        ("rate", "0.1,0.2", (0.1, 0.2)),
        ("kind", "adam", "adam"),
        ("flag", "TRUE", True),
        ("sizes", "1,2.5", (1.0, 2.5)),
        ("sizes", "3", (3.0,)),
    ],
)
def test_text_is_read_by_the_type_of_the_field_and_written_back(name: str, text: str, value: object) -> None:
    read = fields.parse(_Typed, name, text)
    assert read == value
    assert fields.parse(_Typed, name, fields.written(read)) == value


@pytest.mark.parametrize(
    ("name", "text"), [("rate", "abc"), ("kind", "lbfgs"), ("flag", "1"), ("sizes", "1,x")]
)
def test_text_of_the_wrong_type_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"field {name} is '.*'; it must be"):
        fields.parse(_Typed, name, text)


def test_a_verdict_is_one_of_four() -> None:
    with pytest.raises(ValueError, match="verdict is 'maybe'"):
        Finding(0.0, (0.0, 0.0), None, "maybe")  # type: ignore[arg-type]
